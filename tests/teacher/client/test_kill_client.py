"""A client that is killed repeatedly ends as an undisturbed one, paying for no stored reply twice.

A kill can only lose what is in flight: a reply that the server has sent completely and that is not
on disk when the process dies. It is requested again with the same Idempotency-Key, so a server that
honors the key bills nothing twice. For a server that does not, the test counts these replies, and
nothing else may be billed twice.

The long test:  bash launch/test.sh -m heavy tests/teacher/client/test_kill_client.py
"""

import collections
import contextlib
import json
import pathlib
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest
import scripted

from distill_jax import errors
from distill_jax.teacher.store import cache

ROOT = pathlib.Path(__file__).parents[3]
WORKERS, SAMPLES = 8, 2
CLIENT = """
import dataclasses, json, sys
sys.path[:0] = ["tests", "."]
import scripted
from distill_jax.teacher.client import client
url, cache_path, out, count, samples, workers = sys.argv[1:]
terms = scripted.CLIENT_OPTIONS | {"max_concurrency": int(workers), "max_dollars": 1000.0}
made = client.Client(base_url=url, cache_path=cache_path, **terms)
answers = scripted.ask(made, scripted.wanted(int(count), samples=int(samples)))
totals = dataclasses.asdict(made.ledger.of(0)) | {"retries": 0}
rows = [dataclasses.asdict(reply) for row in answers for reply in row]
open(out, "w").write("".join(json.dumps(row) + chr(10) for row in [*rows, totals]))
"""


class ClientProcess:
  """A client with `count` requests in its own process; the server keeps a log."""

  def __init__(self, server, log, directory, count):
    self.server, self._log, self._db = server, log, directory / "teacher.sqlite"
    self.out, self._stderr = directory / "records.jsonl", directory / "stderr"
    words = (server.url, self._db, self.out, count, SAMPLES, WORKERS)
    self._words = [sys.executable, "-c", CLIENT, *map(str, words)]

  def start(self):
    with open(self._stderr, "w") as stderr:
      return subprocess.Popen(self._words, cwd=ROOT, stderr=stderr)

  def finish(self, process) -> None:
    assert process.wait(120) == 0, self.stderr()

  def stderr(self) -> str:
    return self._stderr.read_text()[-2000:]

  def stored(self) -> set[tuple[str, int]]:
    """(question, sample) of every reply on disk."""
    if not self._db.exists():
      return set()
    with contextlib.closing(sqlite3.connect(self._db, timeout=5)) as db:
      try:
        rows = db.execute("select request, sample from replies").fetchall()
      except sqlite3.OperationalError:  # not created yet
        return set()
    return {(json.loads(request)["messages"][-1][1], sample) for request, sample in rows}

  def paid(self) -> list[tuple[str, int]]:
    """(question, sample) of every reply that the server sent completely, with repetitions."""
    while self.server.stats.in_flight:  # it checks the connection before it replies
      time.sleep(0.01)
    rows = map(json.loads, self._log.read_text().splitlines() if self._log.exists() else [])
    return [
      (row["messages"][-1][1], row["seed"] + k) for row in rows for k in range(row["replies"])
    ]


def kill_at(process, client, rng, most: int) -> None:
  """Kills at a random moment: before the first request, or after up to `most` replies."""
  early = rng.random() < 0.15
  stats = client.server.stats
  begun, goal = time.monotonic(), stats.completed + int(rng.integers(1, most))
  wait = rng.uniform(0.0, 0.6) if early else rng.uniform(0.0, 0.03)
  while not early and stats.completed < goal:
    assert process.poll() is None, client.stderr()
    assert time.monotonic() - begun < 120
    time.sleep(0.001)
  time.sleep(wait)
  process.kill()
  process.wait()


@pytest.mark.parametrize("idempotent", [True, False])
def test_replies_lost_before_they_are_on_disk_are_requested_with_the_same_key(
  serve, connect, monkeypatch, idempotent
):
  def full(*_):
    raise errors.data("the disk is full")

  server, requests = serve(idempotent=idempotent), scripted.wanted(3, samples=2)
  with monkeypatch.context() as broken, pytest.raises(errors.UserError, match="disk is full"):
    broken.setattr(cache.ReplyCache, "store_many", full)
    scripted.ask(connect(server.url), requests)
  lost = server.stats.completed
  answers = scripted.ask(connect(server.url), requests)
  assert [[reply.text for reply in row] for row in answers] == [
    [f"q{q} #{k} at 0.5" for k in range(2)] for q in range(3)
  ]
  assert lost and server.stats.paid_twice == (0 if idempotent else lost)


def test_a_refused_sample_is_requested_with_a_new_key(serve, connect):
  """With the old key, the server would only repeat its refusal."""
  server, requests = serve(["refusal"]), scripted.wanted(1)
  teacher = connect(server.url)
  ((refused,),) = scripted.ask(teacher, requests)
  assert refused.kind == "refusal" and server.stats.requests == 1
  store = cache.ReplyCache(teacher.ledger._store.path)
  assert store.reset_failures("this run", finished=()) == 1
  store.close()
  ((reply,),) = scripted.ask(connect(server.url), requests)
  assert reply.text == "q0 #0 at 0.5" and server.stats.requests == 2


@pytest.mark.parametrize("idempotent", [True, False])
@pytest.mark.parametrize(
  ("requests", "kills"), [(60, 3), pytest.param(500, 20, marks=pytest.mark.heavy)]
)
def test_killed_at_random_moments_no_stored_reply_is_paid_for_again(
  serve, tmp_path, requests, kills, idempotent, record_property
):
  log, total = tmp_path / "server.jsonl", requests * SAMPLES
  server = serve(latency=0.02, log=str(log), idempotent=idempotent)
  client, rng = (
    ClientProcess(server, log, tmp_path, requests),
    np.random.Generator(np.random.PCG64(7)),
  )
  had, before, lost = set(), 0, 0
  for life in range(kills + 1):
    process = client.start()
    if life < kills:
      kill_at(process, client, rng, most=total // (kills + 1))
    else:
      client.finish(process)
    paid, stored = client.paid(), client.stored()
    new = paid[before:]
    assert not had & set(new)  # stored replies are never paid for again
    assert had <= stored  # or lost
    assert stored - had <= set(paid if idempotent else new)
    in_flight = len(set(new) - stored)
    assert in_flight <= (WORKERS * SAMPLES if life < kills else 0)
    had, before, lost = stored, len(paid), lost + in_flight
  twice = sum(n - 1 for n in collections.Counter(paid).values())
  assert len(had) == total and twice == server.stats.paid_twice == (0 if idempotent else lost)
  record_property("replies in flight at the kills", lost)
  print(f"{kills} kills, {total} replies: {lost} in flight, {twice} paid for twice")
  calm = serve(latency=0.0)
  (tmp_path / "calm").mkdir()
  undisturbed = ClientProcess(calm, tmp_path / "calm.jsonl", tmp_path / "calm", requests)
  undisturbed.finish(undisturbed.start())
  assert calm.stats.paid_twice == 0
  assert undisturbed.out.read_bytes() == client.out.read_bytes()
