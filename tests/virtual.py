"""Runs the teacher client in virtual time, against a server that is a function in this process.

Sleeps and timeouts take no time: when nothing is ready, the clock jumps to the next timer. Threads
are replaced by direct calls, so a run is deterministic.
"""

import asyncio
import dataclasses
import json
import selectors
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2

from distill_jax.teacher.client import transport


class _Jump(selectors.SelectSelector):
  """Never waits: it advances the clock instead."""

  loop: "type[Loop]"

  def select(self, timeout=None):
    ready = super().select(0)
    if not ready and timeout:
      self.loop.skipped += timeout
    elif not ready and timeout is None:
      time.sleep(0.001)  # only another thread can wake the loop
    return ready


class Loop(asyncio.SelectorEventLoop):
  """An event loop in virtual time."""

  skipped = 0.0  # seconds; of the class, so that time goes on from one loop to the next

  def __init__(self):
    selector = _Jump()
    selector.loop = Loop
    super().__init__(selector)

  def run_in_executor(self, executor, func, *args):
    done = self.create_future()
    try:
      done.set_result(func(*args))
    except BaseException as error:
      done.set_exception(error)
    return done


@dataclasses.dataclass
class Sent:
  """A request that reached the server.

  Attributes:
    body: Its JSON.
    headers: Its headers, with lower-case names.
    number: Position among all requests, from 0.
    at: When it came, in seconds since the first one.
    in_flight: Requests being answered, this one included.
  """

  body: dict[str, Any]
  headers: dict[str, str]
  number: int
  at: float
  in_flight: int


Answer = Callable[[Sent], Awaitable[httpx2.Response]]


@dataclasses.dataclass
class Server:
  """A scripted server.

  Attributes:
    answer: Answers a request; may sleep, and raise httpx2's errors.
    sent: The requests so far.
    in_flight: Requests being answered.
    max_in_flight: The most at any time.
  """

  answer: Answer
  sent: list[Sent] = dataclasses.field(default_factory=list)
  in_flight: int = 0
  max_in_flight: int = 0

  async def __call__(self, request: httpx2.Request) -> httpx2.Response:
    self.in_flight += 1
    self.max_in_flight = max(self.max_in_flight, self.in_flight)
    now = asyncio.get_running_loop().time()
    if not self.sent:
      self._first = now
    headers = {name.lower(): value for name, value in request.headers.items()}
    number, body = len(self.sent), json.loads(request.content)
    self.sent.append(Sent(body, headers, number, now - self._first, self.in_flight))
    try:
      return await self.answer(self.sent[-1])
    finally:
      self.in_flight -= 1


def install(monkeypatch, server: Server) -> None:
  """Makes all clients of a test talk to `server`, in virtual time."""
  run, real = asyncio.Runner, time.monotonic

  def run_virtually(main, **_):
    with run(loop_factory=Loop) as runner:
      return runner.run(main)

  def http_client(local, **_):
    return httpx2.AsyncClient(transport=httpx2.MockTransport(server))

  monkeypatch.setattr(time, "monotonic", lambda: real() + Loop.skipped)
  monkeypatch.setattr(asyncio, "run", run_virtually)
  monkeypatch.setattr(transport, "http_client", http_client)
