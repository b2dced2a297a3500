"""Where processes find each other: who is missing, what is wrong with the address."""

import concurrent.futures
import socket
import threading

import pytest

from distill_jax import errors
from distill_jax.machine import meeting
from tests.multiprocess import commands


def meet(count: int, index: int, port: int, patience: float = 20.0, host: str = "127.0.0.1"):
  said: list[str] = []
  meeting.meet(count, index, f"{host}:{port}", patience, said.append)
  return said


def test_processes_meet_in_any_order_and_leave_the_port_free():
  port = commands.free_port()
  with concurrent.futures.ThreadPoolExecutor() as pool:
    for future in [pool.submit(meet, 3, index, port) for index in (2, 1, 0)]:
      assert future.result() == []
  socket.create_server(("", port)).close()


def test_a_process_that_never_comes_is_named(monkeypatch):
  monkeypatch.setattr(meeting, "TELL_SECONDS", 0.0)
  said: list[str] = []
  with pytest.raises(errors.UserError, match="process 1, 2 of 3 did not connect within") as caught:
    meeting.meet(3, 0, f"127.0.0.1:{commands.free_port()}", 1.5, said.append)
  assert caught.value.code == errors.PREEMPTED and "waiting for process 1, 2 of 3" in said


@pytest.mark.parametrize(
  ("host", "text", "code"),
  [
    ("127.0.0.1", "process 0 does not listen there", errors.PREEMPTED),
    ("no-such-host.invalid", "cannot be resolved", errors.CONFIG),
  ],
)
def test_an_address_without_process_0_is_told_by_its_kind(host, text, code):
  with pytest.raises(errors.UserError, match=text) as caught:
    meet(2, 1, commands.free_port(), 0.5, host)
  assert caught.value.code == code


@pytest.mark.parametrize(
  "error",
  [
    TimeoutError("timed out"),
    OSError(113, "No route to host"),
    socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
  ],
)
def test_a_host_that_does_not_answer_may_be_back_later(error, monkeypatch):
  def fail(*_, **__):
    raise error

  monkeypatch.setattr(socket, "create_connection", fail)
  with pytest.raises(errors.UserError, match=r"reached \((timed out|No route|Temporary)") as caught:
    meet(2, 1, 9, 0.0)
  assert caught.value.code == errors.PREEMPTED


def test_a_port_that_is_taken_is_named():
  with socket.create_server(("", 0)) as server:
    port = server.getsockname()[1]
    with pytest.raises(errors.UserError, match=f"port {port} .* is taken") as caught:
      meet(2, 0, port)
  assert caught.value.code == errors.CONFIG


def test_something_else_that_listens_is_not_process_0():
  with socket.create_server(("127.0.0.1", 0)) as server:

    def answer() -> None:
      connection, _ = server.accept()
      connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
      connection.close()

    threading.Thread(target=answer, daemon=True).start()
    with pytest.raises(errors.UserError, match="is not process 0 of a run") as caught:
      meet(2, 1, server.getsockname()[1], 0.0)
  assert caught.value.code == errors.CONFIG


def test_another_number_of_processes_is_refused_and_the_rest_goes_on():
  port = commands.free_port()
  with concurrent.futures.ThreadPoolExecutor() as pool:
    first = pool.submit(meet, 2, 0, port)
    with pytest.raises(errors.UserError, match="started with --processes=3, process 0 with 2"):
      meet(3, 2, port)
    meet(2, 1, port)
    first.result()


@pytest.mark.parametrize("stopped", [0, 2])
def test_processes_that_are_there_end_if_one_is_interrupted(stopped, monkeypatch):
  port, both_here = commands.free_port(), threading.Event()
  receive, remove_gone = meeting._receive, meeting._remove_gone

  def wait(connection, *seconds):  # in process 2, for the answer of process 0
    if threading.current_thread().name == "2" and stopped == 2:
      assert both_here.wait(10)
      raise KeyboardInterrupt
    return receive(connection, *seconds)

  def look(here):  # in process 0
    if len(here) == 2:
      both_here.set()
      if stopped == 0:
        raise KeyboardInterrupt
    remove_gone(here)

  monkeypatch.setattr(meeting, "_receive", wait)
  monkeypatch.setattr(meeting, "_remove_gone", look)
  ended: dict[str, BaseException] = {}

  def run(index: int) -> None:
    try:
      meet(4, index, port)
    except BaseException as error:
      ended[str(index)] = error

  threads = [threading.Thread(target=run, args=(n,), name=str(n)) for n in (0, 1, 2)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(15)
  assert isinstance(ended.pop(str(stopped)), KeyboardInterrupt)
  assert len(ended) == 2
  for error in ended.values():
    assert isinstance(error, errors.UserError) and error.code == errors.PREEMPTED
    assert f"process {stopped} has been interrupted" in str(error)
