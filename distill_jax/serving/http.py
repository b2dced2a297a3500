"""HTTP/1.1 on loopback: limits on sizes, connections and waiting, and server-sent events."""

import asyncio
import concurrent.futures
import contextlib
import hmac
import json
import urllib.parse
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, NamedTuple

from distill_jax.serving import engine
from distill_jax.serving.api import Api, parse

HOST = "127.0.0.1"
HEADER_BYTES, BODY_BYTES = 16 * 1024, 4 * 1024 * 1024
CONNECTIONS = 256
IDLE = 60.0  # seconds a connection may wait for a request
READ = 30.0  # seconds the body of a request may take to arrive
SEND = 60.0  # seconds a client may take to read what was written, before more is written
LINGER = 1.0  # seconds of input that is thrown away before a connection is closed
WATCH = 0.5  # seconds between two looks whether the client is still there
REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
           405: "Method Not Allowed", 408: "Request Timeout", 411: "Length Required",
           413: "Content Too Large", 429: "Too Many Requests", 431: "Header Fields Too Large",
           500: "Internal Server Error", 503: "Service Unavailable"}  # fmt: skip


Response = dict[str, Any] | AsyncIterator[dict[str, Any]]  # a body, or chunks of a stream


class Refused(Exception):
  """A request that is answered with an error; the connection is closed afterward if it says so."""

  def __init__(self, status: int, message: str, *, close: bool = False):
    super().__init__(message)
    self.status, self.close = status, close


class Gone(Exception):
  """The client has closed the connection."""


class Request(NamedTuple):
  """A request."""

  method: str
  path: str
  headers: Mapping[str, str]
  body: bytes


class Server:
  """Answers requests to an `Api`.

  Attributes:
    port: The port it listens on, once it is open.
  """

  def __init__(self, api: Api, *, port: int, key: str = "", body_bytes: int = BODY_BYTES,
               connections: int = CONNECTIONS, idle: float = IDLE):  # fmt: skip
    """`key`: the API key that requests must have; "" = none. The rest are limits."""
    self._api, self.port, self._key = api, port, key
    self._body_bytes, self._connections, self._idle = body_bytes, connections, idle
    self._open: set[asyncio.Task[Any]] = set()  # one per connection

  @contextlib.asynccontextmanager
  async def running(self) -> AsyncIterator[None]:
    """Listens until the context is left."""
    server = await asyncio.start_server(self._connected, HOST, self.port, limit=HEADER_BYTES)
    self.port = server.sockets[0].getsockname()[1]
    try:
      yield
    finally:
      server.close()
      for task in self._open:
        task.cancel()
      await asyncio.gather(*self._open)

  async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    task = asyncio.current_task()
    assert task is not None
    self._open.add(task)
    try:
      if len(self._open) > self._connections:
        await _send(writer, 503, _error("too many open connections"), close=True)
      else:
        while await self._one(reader, writer):
          pass
      await _linger(reader, writer)
    except (OSError, asyncio.IncompleteReadError, Gone):  # the client has left, or is too slow
      pass
    except asyncio.CancelledError:  # the server ends
      pass
    finally:
      await _close(writer)
      self._open.discard(task)

  async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Answers a request. Returns whether the connection stays open."""
    try:
      request = await self._read(reader)
      if request is None:
        return False
      response = await self._watched(self._answer(request), reader, writer)
      if isinstance(response, dict):
        await _send(writer, 200, response)
      else:
        await _send_events(writer, response)
      return request.headers.get("connection", "").lower() != "close"
    except Refused as refused:
      await _send(writer, refused.status, _error(str(refused)), close=refused.close)
      return not refused.close

  async def _read(self, reader: asyncio.StreamReader) -> Request | None:
    """Reads a request; None if the client closes the connection instead, or waits too long."""
    try:
      head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), self._idle)
    except (asyncio.IncompleteReadError, TimeoutError):
      return None
    except asyncio.LimitOverrunError:
      raise Refused(431, f"headers above {HEADER_BYTES} bytes", close=True) from None
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
      raise Refused(400, "not a request of HTTP/1.1", close=True)
    headers = {
      name.strip().lower(): value.strip()
      for name, colon, value in (line.partition(":") for line in lines)
      if colon
    }
    path = _split(parts[1]).path
    return Request(parts[0], path, headers, await self._body(reader, headers))

  async def _body(self, reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if "transfer-encoding" in headers:
      raise Refused(411, "send a Content-Length instead of chunks", close=True)
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()) or len(length) > 15:
      raise Refused(400, "Content-Length is not a number", close=True)
    if int(length) > self._body_bytes:
      raise Refused(413, f"the body has {length} bytes, at most {self._body_bytes} are allowed",
                    close=True)  # fmt: skip
    try:
      return await asyncio.wait_for(reader.readexactly(int(length)), READ)
    except TimeoutError:
      raise Refused(408, "the body did not arrive in time", close=True) from None

  async def _watched(
    self,
    answer: Coroutine[Any, Any, Response],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
  ) -> Response:
    """Awaits an answer; gives it up when the client closes the connection."""
    task = asyncio.ensure_future(answer)
    try:
      while not task.done():
        await asyncio.wait([task], timeout=WATCH)
        if not task.done() and (reader.at_eof() or writer.is_closing()):
          raise Gone
      return task.result()
    finally:
      task.cancel()

  async def _answer(self, request: Request) -> Response:
    self._check(request)
    routes = {("GET", "/v1/models"): None, ("POST", "/v1/completions"): self._api.completions,
              ("POST", "/v1/chat/completions"): self._api.chat}  # fmt: skip
    if (request.method, request.path) not in routes:
      known = sorted({path for _, path in routes})
      if request.path in known:
        raise Refused(405, f"{request.method} is not allowed here")
      raise Refused(404, f"no such path; there are {', '.join(known)}")
    handle = routes[request.method, request.path]
    if handle is None:
      return self._api.models()
    try:
      return await handle(parse(request.body))
    except engine.BadRequest as error:
      raise Refused(400, str(error)) from None
    except engine.Busy:
      raise Refused(429, "too many requests are waiting; try again") from None
    except (asyncio.CancelledError, concurrent.futures.CancelledError):
      raise
    except Exception as error:
      raise Refused(500, engine.explain(error)) from None

  def _check(self, request: Request) -> None:
    """Refuses requests of web pages, of other hosts, and without the key."""
    host = request.headers.get("host", "").rsplit(":", 1)[0]
    origin = _split(request.headers.get("origin", f"http://{HOST}")).hostname
    if {host, origin} - {HOST, "localhost", "[::1]", ""}:
      raise Refused(403, "only programs on this machine may ask")
    given = request.headers.get("authorization", "")
    if self._key and not hmac.compare_digest(given.encode(), f"Bearer {self._key}".encode()):
      raise Refused(401, "the API key is missing or wrong")


def _split(url: str) -> urllib.parse.SplitResult:
  try:
    return urllib.parse.urlsplit(url)
  except ValueError:
    raise Refused(400, "malformed address", close=True) from None


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
  """Lets a client read the last response: closing with unread input would reset the connection."""
  if writer.can_write_eof():
    writer.write_eof()
  with contextlib.suppress(TimeoutError):
    async with asyncio.timeout(LINGER):
      while await reader.read(HEADER_BYTES):
        pass


async def _close(writer: asyncio.StreamWriter) -> None:
  """Closes a connection, and drops what the client does not read."""
  writer.close()
  try:
    async with asyncio.timeout(LINGER):
      await writer.wait_closed()
  except (OSError, TimeoutError, asyncio.CancelledError):
    writer.transport.abort()


async def _drain(writer: asyncio.StreamWriter) -> None:
  """Waits until the client has read enough. Raises TimeoutError if it does not read."""
  async with asyncio.timeout(SEND):
    await writer.drain()


def _error(message: str) -> dict[str, Any]:
  return {"error": {"message": message, "type": "invalid_request_error", "code": None}}


async def _send(
  writer: asyncio.StreamWriter, status: int, body: dict[str, Any], *, close: bool = False
) -> None:
  raw = json.dumps(body).encode()
  lines = [f"HTTP/1.1 {status} {REASONS[status]}", "Content-Type: application/json",
           f"Content-Length: {len(raw)}", *(["Connection: close"] if close else [])]  # fmt: skip
  writer.write("\r\n".join([*lines, "", ""]).encode() + raw)
  await _drain(writer)


async def _send_events(writer: asyncio.StreamWriter, chunks: AsyncIterator[dict[str, Any]]) -> None:
  """Sends chunks as server-sent events, each as an HTTP chunk."""
  lines = ["HTTP/1.1 200 OK", "Content-Type: text/event-stream", "Cache-Control: no-store",
           "Transfer-Encoding: chunked", "", ""]  # fmt: skip
  writer.write("\r\n".join(lines).encode())

  async def send(text: str) -> None:
    raw = f"data: {text}\n\n".encode()
    writer.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
    await _drain(writer)

  async for chunk in chunks:
    await send(json.dumps(chunk))
  await send("[DONE]")
  writer.write(b"0\r\n\r\n")
  await _drain(writer)
