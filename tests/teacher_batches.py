"""OpenAI's files and batches, as far as submitting, waiting and collecting need them.

POST /v1/files      GET /v1/files/ID      GET /v1/files/ID/content
POST /v1/batches    GET /v1/batches/ID    GET /v1/batches?after=&limit=
POST /v1/batches/ID/cancel

Everything is kept in memory. Results are in another order than the requests, and failed ones are in
a file of their own.
"""

import asyncio
import collections
import json
import re
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distill_jax.teacher.builtin import http
from tests import teacher_faults as faults

MAX_UPLOAD = 256 * 2**20  # bytes
MAX_LINES = 50_000
MAX_FILE_BYTES = 200 * 10**6
MAX_NAME = 64  # characters of a custom_id
ENDPOINT = "/v1/chat/completions"
OUTCOMES = ("completed", "expired", "cancelled", "failed", "full")
ENDED = ("completed", "expired", "cancelled", "failed")

LineAnswer = tuple[int, dict[str, Any]]  # (status, body)


class BatchService:
  """Takes files and batches.

  Attributes:
    latency: Seconds that a batch spends in each state.
    ends: How batches end, in order of creation: one of OUTCOMES, optionally with `@SHARE`, the
      share of the lines that are done by then. `full` means failed for lack of room. Batches beyond
      the list complete.
    faults: {"upload" | "create" | "poll" | "list" | "content": faults of successive requests, ""
      for none}. A status is sent before the request has an effect, any other fault after.
    requests: Number of requests by verb.
    batches: {id: batch}, in order of creation.
  """

  def __init__(self, answer: Callable[[bytes], LineAnswer | None], latency: float):
    """Creates a service without batches.

    Args:
      answer: Maps the body of a line to (status, body). None means that the line is never done,
        status 0 that it has no result.
      latency: Seconds that a batch spends in each state.
    """
    self._answer, self.latency = answer, latency
    self.ends: list[str] = []
    self.faults: dict[str, list[str]] = {}
    self.requests: collections.Counter[str] = collections.Counter()
    self.batches: dict[str, dict[str, Any]] = {}
    self._files: dict[str, tuple[str, bytes]] = {}  # id -> (name, content)
    self._by_key: dict[str, str] = {}  # Idempotency-Key -> batch id
    self._tasks: set[asyncio.Task[None]] = set()

  async def exchange(
    self,
    writer: asyncio.StreamWriter,
    method: str,
    target: str,
    headers: Mapping[str, str],
    raw: bytes,
  ) -> bool:
    """Answers one request. Returns whether the connection stays open."""
    path, _, query = target.partition("?")
    _, _, collection, *rest = path.split("/")
    try:
      verb = _verb(method, collection, rest)
      fault = self._next_fault(verb)
      if fault is not None and fault.kind.isdecimal():
        return await faults.respond(writer, fault, dict)
      answer = self._do(verb, rest, urllib.parse.parse_qs(query), headers, raw)
    except (KeyError, ValueError, TypeError, IndexError, RecursionError) as error:
      status = 404 if isinstance(error, KeyError) else 400
      await http.send(writer, status, http.error(f"{type(error).__name__}: {error}"))
      return True
    if fault is not None:
      return await faults.respond(writer, fault, lambda: answer)
    if isinstance(answer, bytes):
      writer.write(http.head(200, len(answer), {}) + answer)
      await writer.drain()
    else:
      await http.send(writer, 200, answer)
    return headers.get("connection", "").lower() != "close"

  def close(self) -> None:
    """Stops the batches that are under way."""
    for task in self._tasks:
      task.cancel()

  def _next_fault(self, verb: str) -> faults.Fault | None:
    """Counts a request, and returns its fault."""
    number, script = self.requests[verb], self.faults.get(verb, [])
    self.requests[verb] += 1
    if number < len(script) and script[number]:
      return faults.parse(script[number])
    return None

  def _do(
    self,
    verb: str,
    rest: Sequence[str],
    query: Mapping[str, list[str]],
    headers: Mapping[str, str],
    raw: bytes,
  ) -> dict[str, Any] | bytes:
    if verb == "upload":
      parts = _multipart(raw, headers["content-type"])
      if parts["purpose"][1] != b"batch":
        raise ValueError("the purpose must be batch")
      return self._file(self._add_file(*parts["file"]))
    if verb == "content":
      return self._files[rest[0]][1]
    if verb == "file":
      return self._file(rest[0])
    if verb == "create":
      return self._create(json.loads(raw), headers.get("idempotency-key", ""))
    if verb == "list":
      return self._list(query)
    batch = self.batches[rest[0]]
    if verb == "cancel" and batch["status"] not in ENDED:
      batch["status"] = "cancelling"
    return batch

  def _add_file(self, name: str, content: bytes) -> str:
    id = f"file-{len(self._files)}"
    self._files[id] = (name, content)
    return id

  def _file(self, id: str) -> dict[str, Any]:
    name, content = self._files[id]
    return {
      "id": id,
      "object": "file",
      "bytes": len(content),
      "created_at": int(time.time()),
      "filename": name,
      "purpose": "batch",
      "status": "processed",
    }

  def _create(self, body: dict[str, Any], idempotency_key: str) -> dict[str, Any]:
    if idempotency_key in self._by_key:
      return self.batches[self._by_key[idempotency_key]]
    _, content = self._files[body["input_file_id"]]
    if body["endpoint"] != ENDPOINT or body["completion_window"] != "24h":
      raise ValueError(f"the endpoint must be {ENDPOINT}, the window 24h")
    number, now = len(self.batches), int(time.time())
    batch = {
      "id": f"batch-{number}",
      "object": "batch",
      "endpoint": ENDPOINT,
      "errors": None,
      "input_file_id": body["input_file_id"],
      "completion_window": "24h",
      "status": "validating",
      "output_file_id": None,
      "error_file_id": None,
      "created_at": now,
      "expires_at": now + 86400,
      "request_counts": {"total": 0, "completed": 0, "failed": 0},
      "metadata": body.get("metadata"),
    }
    self.batches[batch["id"]] = batch
    if idempotency_key:
      self._by_key[idempotency_key] = batch["id"]
    end = self.ends[number] if number < len(self.ends) else "completed"
    task = asyncio.get_running_loop().create_task(self._process(batch, content, end))
    self._tasks.add(task)
    task.add_done_callback(self._tasks.discard)
    return batch

  def _list(self, query: Mapping[str, list[str]]) -> dict[str, Any]:
    listed = list(reversed(self.batches.values()))
    if "after" in query:
      listed = listed[1 + [batch["id"] for batch in listed].index(query["after"][0]) :]
    limit = int(query.get("limit", ["20"])[0])
    return {"object": "list", "data": listed[:limit], "has_more": len(listed) > limit}

  async def _process(self, batch: dict[str, Any], content: bytes, end: str) -> None:
    """Takes a batch through its states."""
    outcome, _, share = end.partition("@")
    await asyncio.sleep(self.latency)
    if outcome == "full":
      problem = "full"
    elif outcome == "failed":
      problem = "injected"
    else:
      problem = _problem(content)
    if problem:
      code = "token_limit_exceeded" if problem == "full" else "invalid_request"
      error = {"code": code, "line": None, "message": f"no batch: {problem}", "param": None}
      batch |= {"status": "failed", "errors": {"object": "list", "data": [error]}}
      return
    lines = [json.loads(line) for line in content.splitlines()]
    batch["request_counts"] = {"total": len(lines), "completed": 0, "failed": 0}
    batch["status"] = "in_progress"
    await asyncio.sleep(self.latency)
    if share:
      done = int(float(share) * len(lines))
    else:
      done = len(lines) if outcome == "completed" else 0
    results = await self._results(batch, lines, done)
    if batch["status"] == "cancelling":
      outcome = "cancelled"
    batch["status"] = "finalizing"
    await asyncio.sleep(self.latency)
    for field, rows in results.items():
      if rows:  # in another order than they were requested
        text = "".join(json.dumps(row) + "\n" for row in reversed(rows))
        batch[field] = self._add_file(f"{batch['id']}_{field}.jsonl", text.encode())
    batch["status"] = outcome

  async def _results(
    self, batch: dict[str, Any], lines: Sequence[dict[str, Any]], done: int
  ) -> dict[str, list[dict[str, Any]]]:
    """{output_file_id | error_file_id: its rows}. Lines from number `done` on have expired."""
    completed: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    counts = batch["request_counts"]
    for index, line in enumerate(lines):
      await asyncio.sleep(0)
      row = {"id": f"{batch['id']}-{index}", "custom_id": line["custom_id"]}
      answer = None
      if index < done and batch["status"] != "cancelling":
        answer = self._answer(json.dumps(line["body"], sort_keys=True).encode())
      if answer is None:
        error = {"code": "batch_expired", "message": "This request was not done in time."}
        failed.append(row | {"response": None, "error": error})
        counts["failed"] += 1
        continue
      status, body = answer
      counts["completed" if status == 200 else "failed"] += 1
      if status:
        response = {"status_code": status, "request_id": f"req-{row['id']}", "body": body}
        rows = completed if status == 200 else failed
        rows.append(row | {"response": response, "error": None})
    return {"output_file_id": completed, "error_file_id": failed}


def _verb(method: str, collection: str, rest: Sequence[str]) -> str:
  """What a request asks for. Raises KeyError if the path does not exist."""
  shape = (method, collection, len(rest), *rest[1:])
  return {
    ("POST", "files", 0): "upload",
    ("GET", "files", 1): "file",
    ("GET", "files", 2, "content"): "content",
    ("POST", "batches", 0): "create",
    ("GET", "batches", 0): "list",
    ("GET", "batches", 1): "poll",
    ("POST", "batches", 2, "cancel"): "cancel",
  }[shape]


def _multipart(raw: bytes, content_type: str) -> dict[str, tuple[str, bytes]]:
  """{field: (file name, content)} of a multipart/form-data body. Raises TypeError if invalid."""
  boundary = re.search(r'boundary="?([^";]+)"?', content_type)
  if boundary is None:
    raise TypeError("the body has no boundary")
  fields = {}
  for part in raw.split(b"--" + boundary[1].encode())[1:-1]:
    head, _, content = part.partition(b"\r\n\r\n")
    name = re.search(rb'[; ]name="([^"]*)"', head)
    if name is None:
      raise TypeError("a part has no name")
    filename = re.search(rb'filename="([^"]*)"', head)
    fields[name[1].decode()] = (
      filename[1].decode() if filename else "",
      content.removesuffix(b"\r\n"),
    )
  return fields


def _problem(content: bytes) -> str:
  """What is wrong with an input file; "" for nothing."""
  lines, seen = content.splitlines(), set()
  if not 0 < len(lines) <= MAX_LINES or len(content) > MAX_FILE_BYTES:
    return f"{len(lines)} lines, {len(content)} bytes"
  for number, raw in enumerate(lines, 1):
    try:
      line = json.loads(raw)
      name, fits = line["custom_id"], (line["method"], line["url"]) == ("POST", ENDPOINT)
    except (ValueError, TypeError, KeyError):
      return f"line {number} is not a request"
    if not fits or not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or name in seen:
      return f"line {number} has another endpoint, or a custom_id that is too long or repeated"
    seen.add(name)
  return ""
