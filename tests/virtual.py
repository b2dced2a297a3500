"""Runs the teacher client in virtual time, against a server that is a function in this process.

Sleeps and timeouts take no time: when nothing is ready, the clock jumps to the next timer. Threads
are replaced by direct calls, so a run is deterministic.
"""

import asyncio
import contextlib
import dataclasses
import json
import selectors
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import httpx2
import multidict

from distill_jax.teacher.client import sessions


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
    answer: Answers a request; may sleep, and raise aiohttp's errors.
    sent: The requests so far.
    in_flight: Requests being answered.
    max_in_flight: The most at any time.
  """

  answer: Answer
  sent: list[Sent] = dataclasses.field(default_factory=list)
  in_flight: int = 0
  max_in_flight: int = 0

  async def __call__(self, headers: Mapping[str, str], content: bytes) -> httpx2.Response:
    self.in_flight += 1
    self.max_in_flight = max(self.max_in_flight, self.in_flight)
    now = asyncio.get_running_loop().time()
    if not self.sent:
      self._first = now
    number, lower = len(self.sent), {name.lower(): value for name, value in headers.items()}
    self.sent.append(Sent(json.loads(content), lower, number, now - self._first, self.in_flight))
    try:
      return await self.answer(self.sent[-1])
    finally:
      self.in_flight -= 1


class Session:
  """What the client uses of an aiohttp session, connected to a scripted server."""

  def __init__(self, server: Server):
    self._server = server

  async def close(self) -> None:
    pass

  @contextlib.asynccontextmanager
  async def post(
    self, address: str, *, data: bytes, headers: Mapping[str, str], allow_redirects: bool
  ) -> AsyncIterator[types.SimpleNamespace]:
    assert not allow_redirects
    made = await self._server(headers, data)
    content = types.SimpleNamespace(iter_any=made.aiter_bytes)
    fields = multidict.CIMultiDict(made.headers.multi_items())
    yield types.SimpleNamespace(status=made.status_code, headers=fields, content=content)


def refused() -> aiohttp.ClientConnectorError:
  """The error if nothing listens at the server's address."""
  place = types.SimpleNamespace(host="server", port=80, ssl=True, is_ssl=False)
  return aiohttp.ClientConnectorError(place, ConnectionRefusedError(111, "refused"))


def reset() -> aiohttp.ClientOSError:
  """The error if the server closes a connection without a response."""
  return aiohttp.ClientOSError(104, "Connection reset by peer")


def install(monkeypatch, server: Server) -> None:
  """Makes all clients of a test talk to `server`, in virtual time."""
  run, real = asyncio.Runner, time.monotonic

  def run_virtually(main, **_):
    with run(loop_factory=Loop) as runner:
      return runner.run(main)

  monkeypatch.setattr(time, "monotonic", lambda: real() + Loop.skipped)
  monkeypatch.setattr(asyncio, "run", run_virtually)
  monkeypatch.setattr(sessions, "open_session", lambda *_, **__: Session(server))
