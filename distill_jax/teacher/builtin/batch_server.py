"""Files and batches as OpenAI has them: enough to submit, wait and collect.

POST /v1/files      GET /v1/files/ID      GET /v1/files/ID/content
POST /v1/batches    GET /v1/batches/ID    GET /v1/batches?after=&limit=
POST /v1/batches/ID/cancel

Kept in memory. Results come in another order than the requests, failed ones in a file of their own.
"""

import asyncio
import collections
import json
import re
import time
import urllib.parse

from distill_jax.teacher.builtin import faults, http

LIMIT = 256 * 2**20  # bytes of an upload
MOST_LINES = 50_000
MOST_BYTES = 200 * 10**6
ENDPOINT = "/v1/chat/completions"
ENDS = ("completed", "expired", "cancelled", "failed", "full")
OVER = ("completed", "expired", "cancelled", "failed")


class BatchService:
  """Takes files and batches in; `answer(raw body)` gives (status, body) of a line, or None for one
  that is never done, or status 0 for one of which nothing is heard.

  latency  seconds a batch spends in each state
  ends     how the batches end, in order of creation, `completed` after its end: one of ENDS, with
           `@SHARE` the share of the lines that are done by then. `full` is failed for want of room
  faults   {upload | create | poll | list | content: a list of faults, one for each request, "" for
           none}; a status is answered before anything happens, any other fault after it has
  """

  def __init__(self, answer, latency: float):
    self._answer, self.latency = answer, latency
    self.ends: list[str] = []
    self.faults: dict[str, list[str]] = {}
    self.requests: collections.Counter = collections.Counter()  # by verb
    self.batches: dict[str, dict] = {}  # in order of creation
    self._files: dict[str, tuple[str, bytes]] = {}  # id -> (name, content)
    self._once: dict[str, str] = {}  # Idempotency-Key -> batch
    self._tasks: set[asyncio.Task] = set()

  async def exchange(self, writer, method: str, target: str, headers: dict, raw: bytes) -> bool:
    """One request and its answer; whether the connection stays open."""
    path, _, query = target.partition("?")
    _, _, room, *rest = path.split("/")
    try:
      verb = _verb(method, room, rest)
      script = self.faults.get(verb, [])
      number, self.requests[verb] = self.requests[verb], self.requests[verb] + 1
      fault = (
        faults.parse(script[number]) if script[number : number + 1] not in ([], [""]) else None
      )
      if fault is not None and fault.kind.isdecimal():
        return await faults.commit(writer, fault, dict)
      said = self._do(verb, rest, urllib.parse.parse_qs(query), headers, raw)
    except (KeyError, ValueError, TypeError, IndexError, RecursionError) as error:
      status = 404 if isinstance(error, KeyError) else 400
      await http.send(writer, status, http.error(f"{type(error).__name__}: {error}"))
      return True
    if fault is not None:
      return await faults.commit(writer, fault, lambda: said)
    if isinstance(said, bytes):
      writer.write(http.head(200, len(said), {}) + said)
      await writer.drain()
    else:
      await http.send(writer, 200, said)
    return headers.get("connection", "").lower() != "close"

  def close(self) -> None:
    """Stops the batches that are under way."""
    for task in self._tasks:
      task.cancel()

  def _do(self, verb: str, rest: list[str], query: dict, headers: dict, raw: bytes):
    if verb == "upload":
      parts = _multipart(raw, headers["content-type"])
      if parts["purpose"][1] != b"batch":
        raise ValueError("the purpose is batch")
      return self._file(self._keep("file", *parts["file"]))
    if verb == "content":
      return self._files[rest[0]][1]
    if verb == "file":
      return self._file(rest[0])
    if verb == "create":
      return self._create(json.loads(raw), headers.get("idempotency-key", ""))
    if verb == "list":
      return self._list(query)
    batch = self.batches[rest[0]]
    if verb == "cancel" and batch["status"] not in OVER:
      batch["status"] = "cancelling"
    return batch

  def _keep(self, kind: str, name: str, content: bytes) -> str:
    made = f"{kind}-{len(self._files)}"
    self._files[made] = (name, content)
    return made

  def _file(self, name: str) -> dict:
    filename, content = self._files[name]
    return {
      "id": name, "object": "file", "bytes": len(content), "created_at": int(time.time()),
      "filename": filename, "purpose": "batch", "status": "processed",
    }  # fmt: skip

  def _create(self, asked: dict, once: str) -> dict:
    if once in self._once:
      return self.batches[self._once[once]]
    _, content = self._files[asked["input_file_id"]]
    if asked["endpoint"] != ENDPOINT or asked["completion_window"] != "24h":
      raise ValueError(f"the endpoint is {ENDPOINT}, the window 24h")
    number = len(self.batches)
    now = int(time.time())
    batch = {
      "id": f"batch-{number}", "object": "batch", "endpoint": ENDPOINT, "errors": None,
      "input_file_id": asked["input_file_id"], "completion_window": "24h", "status": "validating",
      "output_file_id": None, "error_file_id": None, "created_at": now, "expires_at": now + 86400,
      "request_counts": {"total": 0, "completed": 0, "failed": 0},
      "metadata": asked.get("metadata"),
    }  # fmt: skip
    self.batches[batch["id"]] = batch
    if once:
      self._once[once] = batch["id"]
    end = self.ends[number] if number < len(self.ends) else "completed"
    task = asyncio.get_running_loop().create_task(self._work(batch, content, end))
    self._tasks.add(task)
    task.add_done_callback(self._tasks.discard)
    return batch

  def _list(self, query: dict) -> dict:
    found = list(reversed(self.batches.values()))
    if "after" in query:
      found = found[1 + [batch["id"] for batch in found].index(query["after"][0]) :]
    limit = int(query.get("limit", ["20"])[0])
    return {"object": "list", "data": found[:limit], "has_more": len(found) > limit}

  async def _work(self, batch: dict, content: bytes, end: str) -> None:
    kind, _, share = end.partition("@")
    await asyncio.sleep(self.latency)
    if (
      problem := "full" if kind == "full" else "injected" if kind == "failed" else _invalid(content)
    ):
      code = {"full": "token_limit_exceeded"}.get(problem, "invalid_request")
      error = {"code": code, "line": None, "message": f"no batch: {problem}", "param": None}
      batch |= {"status": "failed", "errors": {"object": "list", "data": [error]}}
      return
    lines = [json.loads(line) for line in content.splitlines()]
    counts = batch["request_counts"] = {"total": len(lines), "completed": 0, "failed": 0}
    batch["status"] = "in_progress"
    await asyncio.sleep(self.latency)
    share = float(share) if share else float(kind == "completed")
    results = await self._results(batch, lines, int(share * len(lines)), counts)
    if batch["status"] == "cancelling":
      kind = "cancelled"
    batch["status"] = "finalizing"
    await asyncio.sleep(self.latency)
    for field, rows in results.items():
      if rows:  # in another order than they were asked
        text = "".join(json.dumps(row) + "\n" for row in reversed(rows))
        batch[field] = self._keep("file", f"{batch['id']}_{field}.jsonl", text.encode())
    batch["status"] = kind

  async def _results(self, batch: dict, lines: list[dict], most: int, counts: dict) -> dict:
    """{output_file_id | error_file_id: its rows}; what is beyond `most` has expired."""
    good, bad = [], []
    for index, line in enumerate(lines):
      await asyncio.sleep(0)
      done = index < most and batch["status"] != "cancelling"
      found = self._answer(json.dumps(line["body"], sort_keys=True).encode()) if done else None
      row = {"id": f"{batch['id']}-{index}", "custom_id": line["custom_id"]}
      if found is None:
        error = {"code": "batch_expired", "message": "This request was not done in time."}
        bad.append(row | {"response": None, "error": error})
      elif found[0]:
        status, body = found
        response = {"status_code": status, "request_id": f"req-{row['id']}", "body": body}
        (good if status == 200 else bad).append(row | {"response": response, "error": None})
      counts["completed" if found is not None and found[0] == 200 else "failed"] += 1
    return {"output_file_id": good, "error_file_id": bad}


def _verb(method: str, room: str, rest: list[str]) -> str:
  """What is asked of which room. Raises KeyError where there is nothing."""
  shape = (method, room, len(rest), *rest[1:])
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
  """{field: (file name, content)} of a multipart/form-data body."""
  boundary = re.search(r'boundary="?([^";]+)"?', content_type)[1].encode()
  found = {}
  for part in raw.split(b"--" + boundary)[1:-1]:
    head, _, content = part.partition(b"\r\n\r\n")
    name = re.search(rb'[; ]name="([^"]*)"', head)[1].decode()
    filename = re.search(rb'filename="([^"]*)"', head)
    found[name] = (filename[1].decode() if filename else "", content.removesuffix(b"\r\n"))
  return found


def _invalid(content: bytes) -> str:
  """What is wrong with an input file; "" for nothing."""
  lines, seen = content.splitlines(), set()
  if not 0 < len(lines) <= MOST_LINES or len(content) > MOST_BYTES:
    return f"{len(lines)} lines, {len(content)} bytes"
  for number, raw in enumerate(lines, 1):
    try:
      line = json.loads(raw)
      name, fits = line["custom_id"], (line["method"], line["url"]) == ("POST", ENDPOINT)
    except (ValueError, TypeError, KeyError):
      return f"line {number} is no request"
    if not fits or not isinstance(name, str) or not 0 < len(name) <= 64 or name in seen:
      return f"line {number} has another endpoint, or a custom_id that is long or there already"
    seen.add(name)
  return ""
