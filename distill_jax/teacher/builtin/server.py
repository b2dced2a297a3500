"""A small HTTP/1.1 server that speaks OpenAI's chat completions: the built-in teacher and tests.

POST /v1/chat/completions    GET /v1/models    GET /stats (server.Stats)
/v1/files and /v1/batches: batch_server.py
"""

import asyncio
import collections
import contextlib
import dataclasses
import hashlib
import json
import threading
import time

from distill_jax import errors
from distill_jax.teacher.builtin import batch_server, faults, http
from distill_jax.teacher.prompts import schema

LIMIT = 64 * 2**20  # bytes of a request body
LINE = 64 * 2**10  # bytes of a header line
BYTES_A_TOKEN = 4  # what it bills
REMEMBERED = 4096  # answers, by their Idempotency-Key


@dataclasses.dataclass
class Stats:
  """Counts since the start; `paid_twice`: replies to a body that was answered in full before."""

  requests: int = 0
  completed: int = 0  # replies (choices) sent whole
  paid_twice: int = 0
  faults: int = 0
  in_flight: int = 0
  most_in_flight: int = 0


class Server:
  """Answers with answer(messages, n, temperature, seed) -> n texts; messages are (role, content).

  latency  seconds before each answer
  script   a faults.Script or faults.Sequence
  log      file that gets one line of JSON for each request answered in full; "" for none
  idempotent   a request whose Idempotency-Key was answered in full gets that answer, for nothing
  """

  def __init__(
    self, answer, *, port: int, model: str, latency: float, script, log: str, idempotent=True
  ):
    self._answers: dict | None = {} if idempotent else None
    self._answer, self._port, self._model = answer, port, model
    self._latency, self._script, self._log = latency, script, log
    self.stats = Stats()
    self.batches = batch_server.BatchService(self.line, latency)
    self.authorizations: set[str] = set()  # headers seen, in memory only
    self._completed: collections.Counter = collections.Counter()
    self._connections: set[asyncio.Task] = set()

  @contextlib.contextmanager
  def running(self):
    """Serves from a thread of its own while the context lasts; yields the base URL."""
    started, ready = threading.Event(), {}

    def serve():
      try:
        asyncio.run(self._serve(started, ready))
      except (OSError, OverflowError) as error:
        ready["error"] = error
        started.set()

    thread = threading.Thread(target=serve, name="teacher server", daemon=True)
    thread.start()
    started.wait()
    if "error" in ready:
      thread.join()
      raise _port_refusal(self._port, ready["error"])
    try:
      yield ready["url"]
    finally:
      ready["loop"].call_soon_threadsafe(ready["stop"].set)
      thread.join()

  def serve_forever(self, announce) -> None:
    """Serves until the process is interrupted; announce(base URL) when it listens."""
    try:
      asyncio.run(self._serve(None, {"announce": announce}))
    except KeyboardInterrupt:
      pass
    except (OSError, OverflowError) as error:
      raise _port_refusal(self._port, error) from None

  async def _serve(self, started, ready: dict) -> None:
    stop = asyncio.Event()
    server = await asyncio.start_server(
      self._connection, "127.0.0.1", self._port, limit=LINE, backlog=1024
    )
    port = server.sockets[0].getsockname()[1]
    ready |= {
      "loop": asyncio.get_running_loop(),
      "stop": stop,
      "url": f"http://127.0.0.1:{port}/v1",
    }
    if "announce" in ready:
      ready["announce"](ready["url"])
    if started is not None:
      started.set()
    try:
      await stop.wait()
    finally:
      server.close()
      self.batches.close()
      for task in list(self._connections):
        task.cancel()
      await asyncio.gather(*self._connections, return_exceptions=True)

  async def _connection(self, reader, writer) -> None:
    task = asyncio.current_task()
    self._connections.add(task)
    try:
      while await self._exchange(reader, writer):
        pass
    except (ConnectionError, asyncio.IncompleteReadError, ValueError, asyncio.CancelledError):
      pass  # the client left, or sent what is not HTTP, or the server stops
    finally:
      self._connections.discard(task)
      writer.close()
      with contextlib.suppress(ConnectionError, asyncio.CancelledError):
        await writer.wait_closed()

  async def _exchange(self, reader, writer) -> bool:
    """One request and its answer; whether the connection stays open."""
    line = (await reader.readline()).decode("latin-1").split()
    if len(line) != 3:
      return False
    headers = {}
    while entry := (await reader.readline()).decode("latin-1").strip():
      name, _, value = entry.partition(":")
      headers[name.lower()] = value.strip()
    length = int(headers.get("content-length", "0"))
    path = line[1].partition("?")[0]
    most = batch_server.LIMIT if path == "/v1/files" else LIMIT
    if not 0 <= length <= most or "transfer-encoding" in headers:
      await http.send(writer, 413, http.error("the body is too long or has no length"))
      return False
    body = await reader.readexactly(length)
    if line[0] == "POST" and path == "/v1/chat/completions":
      self.authorizations.add(headers.get("authorization", ""))
      return await self._completion(reader, writer, body, headers.get("idempotency-key", ""))
    if path.startswith(("/v1/files", "/v1/batches")):
      self.authorizations.add(headers.get("authorization", ""))
      return await self.batches.exchange(writer, line[0], line[1], headers, body)
    if line[0] == "GET" and path == "/v1/models":
      await http.send(
        writer, 200, {"object": "list", "data": [{"id": self._model, "object": "model"}]}
      )
    elif line[0] == "GET" and path == "/stats":
      await http.send(writer, 200, dataclasses.asdict(self.stats))
    else:
      await http.send(writer, 404, http.error(f"nothing at {path}"))
    return headers.get("connection", "").lower() != "close"

  async def _completion(self, reader, writer, raw: bytes, name: str) -> bool:
    stats = self.stats
    number = stats.requests
    stats.requests += 1
    stats.in_flight += 1
    stats.most_in_flight = max(stats.most_in_flight, stats.in_flight)
    try:
      if self._latency:
        await asyncio.sleep(self._latency)
      fault = self._script.pick(number)
      stats.faults += fault is not None
      try:
        asked = http.completion(raw)
      except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        await http.send(writer, 400, http.error("not a chat completion request"))
        return True
      if fault is not None and fault.kind not in faults.SHAPES:
        return await faults.commit(writer, fault, lambda: self._reply(asked, number))
      known = self._answers.get((name, raw)) if name and self._answers is not None else None
      reply = known or self._reply(asked, number)
      if fault is not None and not known:
        faults.SHAPES[fault.kind](reply)
      if reader.at_eof() or writer.is_closing():
        return False  # the client left; it pays for nothing
      if not known:
        self._count(raw, asked, len(reply["choices"]))
        if name and self._answers is not None:
          self._answers[name, raw] = reply
          if len(self._answers) > REMEMBERED:
            del self._answers[next(iter(self._answers))]
      await http.send(writer, 200, reply, faults.headers(fault) if fault else None)
      return True
    finally:
      stats.in_flight -= 1

  def line(self, raw: bytes) -> tuple[int, dict] | None:
    """(status, body) of one request of a batch; see batch_server.BatchService."""
    number = self.stats.requests
    self.stats.requests += 1
    fault = self._script.pick(number)
    self.stats.faults += fault is not None
    try:
      asked = http.completion(raw)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
      return 400, http.error("not a chat completion request")
    if fault is not None and fault.kind.isdecimal():
      options = dict(fault.options)
      return int(fault.kind), http.error(options.get("say", "injected"), options.get("code"))
    if fault is not None and fault.kind not in faults.SHAPES:
      return {"empty_object": (200, {}), "close": (0, {})}.get(fault.kind)
    reply = self._reply(asked, number)
    if fault is not None:
      faults.SHAPES[fault.kind](reply)
    self._count(raw, asked, len(reply["choices"]))
    return 200, reply

  def _reply(self, asked: dict, number: int) -> dict:
    texts = self._answer(asked["messages"], asked["n"], asked["temperature"], asked["seed"])
    if asked["schema"] in schema.SCHEMAS:
      texts = [schema.as_json(asked["schema"], text) or text for text in texts]
    tokens_in = sum(_tokens(content) for _, content in asked["messages"])
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

  def _count(self, raw: bytes, asked: dict, replies: int) -> None:
    """Notes an answer that is about to be sent whole."""
    name = hashlib.sha256(raw).hexdigest()
    self.stats.completed += replies
    self.stats.paid_twice += replies if self._completed[name] else 0
    self._completed[name] += 1
    if self._log:
      line = {
        "body": name,
        "replies": replies,
        "messages": asked["messages"],
        "seed": asked["seed"],
      }
      with open(self._log, "a", encoding="ascii") as file:
        file.write(json.dumps(line) + "\n")


def _tokens(text: str) -> int:
  return max(1, len(text.encode("utf-8", "surrogatepass")) // BYTES_A_TOKEN)


def _port_refusal(port: int, error: Exception):
  why = getattr(error, "strerror", None) or error
  return errors.usage(
    f"cannot listen on port {port} of 127.0.0.1 ({why}); try --port=0 for a free one"
  )
