"""A small HTTP/1.1 server for OpenAI's chat completions, for the built-in teacher.

POST /v1/chat/completions    GET /v1/models    GET /stats (see `Stats`)
"""

import asyncio
import collections
import contextlib
import dataclasses
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from distill_jax import disk, errors
from distill_jax.teacher.builtin import http
from distill_jax.teacher.prompts import schema

MAX_BODY = 64 * 2**20  # bytes
MAX_HEADER_LINE = 64 * 2**10  # bytes
BYTES_PER_TOKEN = 4  # for the usage it reports
REMEMBERED = 4096  # answers, by their Idempotency-Key

Plan = TypeVar("Plan")
INVALID = (ValueError, TypeError, KeyError, OverflowError, RecursionError)

# answer(messages, n, temperature, seed) -> n texts; messages are (role, content) pairs.
Answer = Callable[[Sequence[tuple[str, str]], int, float, int | None], list[str]]


@dataclasses.dataclass
class Stats:
  """Counts since the start.

  Attributes:
    requests: Requests for completions.
    completed: Replies (choices) sent in full.
    paid_twice: Replies to a body that was answered in full before.
    faults: Requests that were answered otherwise on purpose, by a subclass.
    in_flight: Requests being answered.
    max_in_flight: The most at any time.
  """

  requests: int = 0
  completed: int = 0
  paid_twice: int = 0
  faults: int = 0
  in_flight: int = 0
  max_in_flight: int = 0


class Server(Generic[Plan]):
  """An OpenAI-compatible server on the loopback interface.

  Subclasses may answer some requests otherwise: see `plan`, `intercept`, `alter` and `other`.
  `Plan` is the type of what `plan` returns.

  Attributes:
    stats: Counts since the start.
    authorizations: Authorization headers received; in memory only.
  """

  def __init__(
    self,
    answer: Answer,
    *,
    port: int,
    model: str,
    latency: float,
    log: str,
    idempotent: bool = True,
  ):
    """Creates a server; `running` and `serve_forever` start it.

    Args:
      answer: Makes the replies.
      port: TCP port; 0 for a free one.
      model: Name under which the server offers its model.
      latency: Seconds before each answer.
      log: File that gets a line of JSON for each request answered in full; "" for none.
      idempotent: Whether a request whose Idempotency-Key was answered in full gets the same answer
        again, at no cost.
    """
    self._answers: dict[tuple[str, bytes], dict[str, Any]] = {}
    self._answer, self._port, self._model = answer, port, model
    self._latency, self._log = latency, log
    self._idempotent = idempotent
    self.stats = Stats()
    self.authorizations: set[str] = set()
    self._completed: collections.Counter[str] = collections.Counter()  # by hash of the body
    self._connections: set[asyncio.Task[None]] = set()

  @contextlib.contextmanager
  def running(self) -> Iterator[str]:
    """Serves from a thread while the context lasts; yields the base URL.

    Raises:
      errors.UserError: The port cannot be used.
    """
    started = threading.Event()
    state: dict[str, Any] = {}

    def announce(url: str, stop: Callable[[], object]) -> None:
      state.update(url=url, stop=stop)
      started.set()

    def serve() -> None:
      try:
        asyncio.run(self._serve(announce))
      except (OSError, OverflowError) as error:
        state["error"] = error
        started.set()

    thread = threading.Thread(target=serve, name="teacher server", daemon=True)
    thread.start()
    started.wait()
    if "error" in state:
      thread.join()
      raise _port_error(self._port, state["error"])
    try:
      yield state["url"]
    finally:
      state["stop"]()
      thread.join()

  def serve_forever(self, announce: Callable[[str], None]) -> None:
    """Serves until the process is interrupted.

    Args:
      announce: Called with the base URL once the server listens.

    Raises:
      errors.UserError: The port cannot be used.
    """
    try:
      asyncio.run(self._serve(lambda url, stop: announce(url)))
    except KeyboardInterrupt:
      pass
    except (OSError, OverflowError) as error:
      raise _port_error(self._port, error) from None

  async def _serve(self, announce: Callable[[str, Callable[[], object]], None]) -> None:
    """Serves until stopped. `announce` gets the base URL and a thread-safe function that stops."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    server = await asyncio.start_server(
      self._connection, "127.0.0.1", self._port, limit=MAX_HEADER_LINE, backlog=1024
    )
    port = server.sockets[0].getsockname()[1]
    announce(f"http://127.0.0.1:{port}/v1", lambda: loop.call_soon_threadsafe(stop.set))
    try:
      await stop.wait()
    finally:
      server.close()
      self.close()
      for task in list(self._connections):
        task.cancel()
      await asyncio.gather(*self._connections, return_exceptions=True)

  async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    task = asyncio.current_task()
    assert task is not None
    self._connections.add(task)
    try:
      while await self._exchange(reader, writer):
        pass
    except (ConnectionError, asyncio.IncompleteReadError, ValueError, asyncio.CancelledError):
      pass  # the client disconnected or did not send HTTP, or the server stops
    finally:
      self._connections.discard(task)
      writer.close()
      with contextlib.suppress(ConnectionError, asyncio.CancelledError):
        await writer.wait_closed()

  async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Answers one request. Returns whether the connection stays open."""
    line = (await reader.readline()).decode("latin-1").split()
    if len(line) != 3:
      return False
    method, target, _ = line
    headers = {}
    while entry := (await reader.readline()).decode("latin-1").strip():
      name, _, value = entry.partition(":")
      headers[name.lower()] = value.strip()
    length = int(headers.get("content-length", "0"))
    path = target.partition("?")[0]
    if not 0 <= length <= self.max_body(path) or "transfer-encoding" in headers:
      await http.send(writer, 413, http.error("the body is too long or has no length"))
      return False
    body = await reader.readexactly(length)
    if method == "POST" and path == "/v1/chat/completions":
      self.authorizations.add(headers.get("authorization", ""))
      return await self._completion(reader, writer, body, headers.get("idempotency-key", ""))
    if method == "GET" and path == "/v1/models":
      models = [{"id": self._model, "object": "model"}]
      await http.send(writer, 200, {"object": "list", "data": models})
    elif method == "GET" and path == "/stats":
      await http.send(writer, 200, dataclasses.asdict(self.stats))
    elif (stays := await self.other(writer, method, target, headers, body)) is not None:
      return stays
    else:
      await http.send(writer, 404, http.error(f"nothing at {path}"))
    return headers.get("connection", "").lower() != "close"

  async def _completion(
    self,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    raw: bytes,
    idempotency_key: str,
  ) -> bool:
    """Answers a request for completions. Returns whether the connection stays open."""
    number, stats = self.stats.requests, self.stats
    stats.requests += 1
    stats.in_flight += 1
    stats.max_in_flight = max(stats.max_in_flight, stats.in_flight)
    try:
      if self._latency:
        await asyncio.sleep(self._latency)
      plan = self.plan(number)
      try:
        request = http.parse_completion(raw)
      except INVALID:
        await http.send(writer, 400, http.error("not a chat completion request"))
        return True
      stays = await self.intercept(writer, plan, lambda: self._reply(request, number))
      if stays is not None:
        return stays
      remembers = self._idempotent and bool(idempotency_key)
      known = self._answers.get((idempotency_key, raw)) if remembers else None
      reply = known or self._reply(request, number)
      if not known:
        self.alter(reply, plan)
      if reader.at_eof() or writer.is_closing():
        return False  # the client disconnected, so it pays nothing
      if not known:
        self._count(raw, request, len(reply["choices"]))
        if remembers:
          self._answers[idempotency_key, raw] = reply
          if len(self._answers) > REMEMBERED:
            del self._answers[next(iter(self._answers))]
      await http.send(writer, 200, reply, self.headers(plan))
      return True
    finally:
      stats.in_flight -= 1

  def plan(self, number: int) -> Plan | None:
    """Decides what the methods below change about request `number` (from 0); None for nothing."""
    return None

  async def intercept(
    self, writer: asyncio.StreamWriter, plan: Plan | None, reply: Callable[[], dict[str, Any]]
  ) -> bool | None:
    """Responds instead of the server; returns whether the connection stays open.

    Args:
      writer: The connection.
      plan: Of the request.
      reply: Makes the JSON object that would have been sent.

    Returns:
      None if the server is to respond.
    """
    return None

  def alter(self, reply: dict[str, Any], plan: Plan | None) -> None:
    """Changes a reply in place."""

  def headers(self, plan: Plan | None) -> dict[str, str] | None:
    """Headers of a response."""
    return None

  def max_body(self, path: str) -> int:
    """The most bytes that a body may have."""
    return MAX_BODY

  async def other(
    self,
    writer: asyncio.StreamWriter,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
  ) -> bool | None:
    """Responds to a request for another path; None if there is nothing. See `intercept`."""
    return None

  def close(self) -> None:
    """Ends what a subclass has started."""

  def _reply(self, request: http.CompletionRequest, number: int) -> dict[str, Any]:
    texts = self._answer(request.messages, request.n, request.temperature, request.seed)
    if request.schema in schema.SCHEMAS:
      texts = [schema.as_json(request.schema, text) or text for text in texts]
    tokens_in = sum(_tokens(content) for _, content in request.messages)
    tokens_out = sum(_tokens(text) for text in texts)
    return {
      "id": f"chatcmpl-{number}",
      "object": "chat.completion",
      "created": int(time.time()),
      "model": self._model,
      "choices": [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for i, text in enumerate(texts)
      ],
      "usage": {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
      },
    }

  def _count(self, raw: bytes, request: http.CompletionRequest, replies: int) -> None:
    """Counts and logs an answer that is about to be sent in full."""
    name = hashlib.sha256(raw).hexdigest()
    self.stats.completed += replies
    if self._completed[name]:
      self.stats.paid_twice += replies
    self._completed[name] += 1
    if self._log:
      line = {"body": name, "replies": replies, "messages": request.messages, "seed": request.seed}
      with open(self._log, "a", encoding="ascii", opener=disk.open_private) as file:
        file.write(json.dumps(line) + "\n")


def _tokens(text: str) -> int:
  return max(1, len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


def _port_error(port: int, error: Exception) -> errors.UserError:
  reason = getattr(error, "strerror", None) or error
  return errors.usage(
    f"cannot listen on port {port} of 127.0.0.1 ({reason}); try --port=0 for a free one"
  )
