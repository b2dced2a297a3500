"""Ctrl-C: the first keeps the replies in flight, the second exits at once."""

import asyncio
import contextlib
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from batch_scripted import batched
from scripted import ask, wanted

from distill_jax import errors
from distill_jax.teacher import pool
from distill_jax.teacher.client import interrupts

ROOT = pathlib.Path(__file__).parents[3]
CLIENT = """
import signal, sys
sys.path[:0] = ["tests", "."]
import scripted
from distill_jax import errors
from distill_jax.cli import main as commands
from distill_jax.teacher.client import client, interrupts
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
for number in interrupts.watched():
  signal.signal(number, commands.interrupted)
def command(words):
  made = client.Client(base_url=sys.argv[1], cache_path=sys.argv[2], **scripted.CLIENT_OPTIONS)
  scripted.ask(made, scripted.wanted(60))
  return 0
commands.COMMANDS["ask"] = command
sys.exit(commands.main(["ask"]))
"""


def stored(path) -> int:
  with contextlib.closing(sqlite3.connect(path, timeout=5)) as db:
    return db.execute("select count(*) from replies").fetchone()[0]


def interrupted(server, path, number, times):
  """Runs a client and interrupts it midway: (exit code, standard error)."""
  words = [sys.executable, "-c", CLIENT, server.url, str(path)]
  process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
  while server.stats.completed < 4 or server.stats.in_flight < 4:
    assert process.poll() is None, process.stderr.read()
    time.sleep(0.005)
  for _ in range(times):
    process.send_signal(number)
    time.sleep(0.1)
  stderr = process.communicate(timeout=30)[1]
  return process.returncode, stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_sends_nothing_more_and_keeps_the_replies_in_flight(
  serve, connect, tmp_path, number
):
  server, path = serve(latency=0.4), tmp_path / "teacher.sqlite"
  code, stderr = interrupted(server, path, number, times=1)
  assert code == errors.PREEMPTED
  assert "4 teacher requests in flight" in stderr and "re-run the same command" in stderr
  assert stored(path) == server.stats.completed == server.stats.requests <= 12
  assert len(ask(connect(server.url, max_concurrency=60), wanted(60))) == 60
  assert (server.stats.completed, server.stats.paid_twice) == (60, 0)


def test_a_second_interrupt_exits_at_once(serve, tmp_path):
  server = serve(["", "", "", ""] + ["hang"] * 100)
  begun = time.monotonic()
  code, stderr = interrupted(server, tmp_path / "teacher.sqlite", signal.SIGINT, times=2)
  assert code == errors.PREEMPTED and "Exiting" in stderr
  assert stored(tmp_path / "teacher.sqlite") == 4
  assert time.monotonic() - begun < 20


def test_only_an_ignored_sighup_is_not_watched():
  before = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
  try:
    for number in interrupts.SIGNALS:
      signal.signal(number, signal.SIG_IGN)
    assert set(interrupts.watched()) == {signal.SIGINT, signal.SIGTERM}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert set(interrupts.watched()) == {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def test_after_an_ask_the_signal_handlers_are_restored(serve, connect):
  before = signal.getsignal(signal.SIGINT)
  ask(connect(serve().url), wanted(3))
  assert signal.getsignal(signal.SIGINT) is before


def test_a_request_waiting_for_budget_is_not_sent_after_a_stop(serve, connect):
  server = serve(latency=0.4)
  reserved = 115e-6 + 100e-5  # dollars reserved for one request
  teacher = connect(server.url, max_dollars=2.5 * reserved, deadline=0.2)
  with pytest.raises(errors.UserError, match="deadline"):
    ask(teacher, wanted(8))
  assert server.stats.requests == teacher.ledger.total().calls == 2


class Stopped:
  """An `ask` that notes why it was stopped."""

  in_flight = 0

  def __init__(self):
    self.reasons: list[BaseException] = []

  def stop(self, reason):
    self.reasons.append(reason)


def begin(stopped):
  """Begins and ends an ask in another thread."""

  async def play():
    with interrupts.stop_on_signals(stopped):
      await asyncio.sleep(0)

  thread = threading.Thread(target=asyncio.run, args=(play(),))
  thread.start()
  thread.join()


def test_an_ask_that_begins_after_the_signal_is_stopped_too():
  late = Stopped()
  with pytest.raises(errors.UserError, match="Interrupted") as error, interrupts.handle_signals():
    signal.raise_signal(signal.SIGINT)
    begin(late)
  assert late.reasons == [error.value] and error.value.code == errors.PREEMPTED
  begin(later := Stopped())  # no longer under the signal
  assert later.reasons == []


def test_a_signal_that_no_ask_meets_is_raised_and_another_error_goes_first():
  with pytest.raises(errors.UserError, match="Interrupted"), interrupts.handle_signals():
    signal.raise_signal(signal.SIGTERM)
  with pytest.raises(ValueError, match="first"), interrupts.handle_signals():
    signal.raise_signal(signal.SIGTERM)
    raise ValueError("first")
  with interrupts.handle_signals():
    pass


def test_a_context_within_another_does_not_forget_the_first_signal():
  with pytest.raises(errors.UserError, match="Interrupted"), interrupts.handle_signals():
    with interrupts.handle_signals():
      signal.raise_signal(signal.SIGINT)
      handler = signal.getsignal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handler is interrupts.SECOND_SIGNAL


def test_a_pool_interrupted_before_its_teachers_ask_sends_nothing(serve, connect, tmp_path):
  server = serve()
  teachers = {name: connect(server.url, model=name) for name in ("main", "cheap")}
  signalled = threading.Event()

  def ask_one(name):
    if name == "main":
      os.kill(os.getpid(), signal.SIGINT)
      while signal.getsignal(signal.SIGINT) is not interrupts.SECOND_SIGNAL:
        time.sleep(0.001)
      signalled.set()
    assert signalled.wait(10)
    ask(teachers[name], wanted(3))

  with pytest.raises(errors.UserError, match="Interrupted"):
    pool._at_once(ask_one, list(teachers))
  assert server.stats.requests == 0


@pytest.mark.parametrize(
  ("in_flight", "waits", "collects"),
  [([], True, False), ([3, 4], True, False), ([None], False, True), ([7, None], True, True)],
)
def test_the_notice_says_what_is_waited_for(in_flight, waits, collects):
  said = interrupts._notice(in_flight)
  assert ("7 teacher requests in flight" in said) == (7 == sum(filter(None, in_flight)))
  assert ("Waiting for" in said, "collects them" in said) == (waits, collects)


def test_a_signal_stops_every_ask_before_anything_is_shown(capfd):
  class Closed(Stopped):
    @property
    def in_flight(self):
      raise AssertionError("it cannot be counted")

  async def play():
    with interrupts.stop_on_signals(stopped):
      with pytest.raises(AssertionError):
        signal.raise_signal(signal.SIGINT)
      await asyncio.sleep(0)
      await asyncio.sleep(0)

  stopped = Closed()
  with pytest.raises(errors.UserError, match="Interrupted"):
    asyncio.run(play())
  assert len(stopped.reasons) == 1


def test_an_interrupted_batch_says_that_it_is_collected_later(serve, tmp_path, capfd):
  server = serve(latency=0.5)
  teacher = batched(server.url, tmp_path / "teacher.sqlite", poll=5.0)

  def interrupt():
    while not server.batches.requests.get("create"):
      time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGINT)

  threading.Thread(target=interrupt).start()
  begun = time.monotonic()
  with pytest.raises(errors.UserError, match="Interrupted"):
    ask(teacher, wanted(3))
  assert time.monotonic() - begun < 4
  said = capfd.readouterr().err
  assert "go on at the server" in said and "Waiting" not in said
  assert len(ask(teacher, wanted(3))) == 3 and len(server.batches.batches) == 1
  teacher.close()
