"""The server under 64 clients, of which many abort, send 1 GB or do not read.

bash launch/test.sh -m heavy tests/test_serving_soak.py        (10 minutes; SOAK_SECONDS=60: one)
"""

import asyncio
import contextlib
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import recipes

pytestmark = pytest.mark.heavy
quick = recipes.quick
ROOT = pathlib.Path(__file__).resolve().parents[1]
SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
CLIENTS, PAGE = 64, os.sysconf("SC_PAGE_SIZE")
GREEDY = {"prompt": "Question: 2 + 2?\nReasoning:\n", "temperature": 0, "max_tokens": 12}
CHAT = {"messages": [{"role": "user", "content": "How many apples?"}], "temperature": 0}


class Server:
  """A process that serves."""

  def __init__(self, process: subprocess.Popen, port: int):
    self.process, self.port = process, port

  def megabytes(self) -> float:
    """Its resident memory."""
    pages = pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
    return int(pages) * PAGE / 2**20

  def files(self) -> int:
    """Its open files and sockets."""
    return len(os.listdir(f"/proc/{self.process.pid}/fd"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
  path = tmp_path_factory.mktemp("soak")
  recipes.run(path / "run", "cot")
  words = ["serve", f"--workdir={path / 'run'}", "--port=0"]
  with open(path / "stderr", "w") as errors:
    with subprocess.Popen([sys.executable, "-m", "distill_jax", *words], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=errors) as process:  # fmt: skip
      try:
        assert process.stdout is not None
        match = re.search(r":(\d+)/v1", process.stdout.readline())
        assert match, (path / "stderr").read_text()
        yield Server(process, int(match[1]))
        assert process.poll() is None, "it crashed"
        assert "Traceback" not in (path / "stderr").read_text()
      finally:
        process.terminate()


@contextlib.asynccontextmanager
async def connected(port: int):
  reader, writer = await asyncio.open_connection("127.0.0.1", port)
  try:
    yield reader, writer
  finally:
    writer.transport.abort()


def request(path: str, body: object, length: int | None = None) -> bytes:
  raw = body if isinstance(body, bytes) else json.dumps(body).encode()
  size = len(raw) if length is None else length
  return f"POST {path} HTTP/1.1\r\nContent-Length: {size}\r\n\r\n".encode() + raw


async def ask(port: int, path: str, body: object) -> tuple[int, bytes]:
  """Returns (status, body) of a response that is read to its end."""
  async with connected(port) as (reader, writer):
    writer.write(request(path, body).replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
    await writer.drain()
    whole = await reader.read()
  head, _, rest = whole.partition(b"\r\n\r\n")
  return int(head.split()[1]), rest


async def complete(port: int, rng: random.Random) -> str:
  body = GREEDY | {"seed": rng.randrange(99), "temperature": rng.choice([0, 1]), "n": 2}
  status, _ = await ask(port, "/v1/completions", body)
  return f"complete {status}"


async def score(port: int, rng: random.Random) -> str:
  body = GREEDY | {"echo": True, "logprobs": 1, "max_tokens": 1}
  status, _ = await ask(port, "/v1/completions", body)
  return f"score {status}"


async def chat(port: int, rng: random.Random) -> str:
  status, _ = await ask(port, "/v1/chat/completions", CHAT | {"stream": rng.random() < 0.5})
  return f"chat {status}"


async def refuse(port: int, rng: random.Random) -> str:
  status, _ = await ask(port, "/v1/completions", rng.choice([b"{{{", {"n": 0}, [], {"prompt": 1}]))
  return f"refuse {status}"


async def abort(port: int, rng: random.Random) -> str:
  """Leaves while the answer is computed, or while it is sent."""
  async with connected(port) as (reader, writer):
    body = GREEDY | {"n": rng.choice([1, 32]), "stream": True, "temperature": 1}
    writer.write(request("/v1/completions", body))
    await writer.drain()
    if rng.random() < 0.5:
      await reader.read(50)
    else:
      await asyncio.sleep(rng.random())
  return "abort"


async def flood(port: int, rng: random.Random) -> str:
  """Sends 1 GB until the server closes the connection."""
  async with connected(port) as (_, writer):
    if rng.random() < 0.5:
      writer.write(request("/v1/completions", b"", length=10**9))
    else:
      writer.write(b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    with contextlib.suppress(ConnectionError):
      for _ in range(1000):
        writer.write(bytes(10**6))
        await writer.drain()
      return "flood taken"
  return "flood refused"


async def ignore(port: int, rng: random.Random) -> str:
  """Asks for large responses and reads none of them."""
  async with connected(port) as (_, writer):
    body = GREEDY | {"n": 64, "logprobs": 20, "temperature": 1}
    with contextlib.suppress(ConnectionError):
      for _ in range(4):
        writer.write(request("/v1/completions", body))
        await writer.drain()
    await asyncio.sleep(rng.random() * 5)
  return "ignore"


ACTIONS = (complete, complete, score, chat, chat, refuse, abort, abort, flood, ignore)


async def client(number: int, port: int, end: float, counts: dict[str, int]) -> None:
  rng = random.Random(number)
  while time.monotonic() < end:
    try:
      kind = await asyncio.wait_for(rng.choice(ACTIONS)(port, rng), 120)
    except ConnectionError as error:
      kind = type(error).__name__
    counts[kind] = counts.get(kind, 0) + 1


async def soak(server: Server, counts: dict[str, int], memory: list[float]) -> None:
  end = time.monotonic() + SECONDS
  async with asyncio.TaskGroup() as group:
    for number in range(CLIENTS):
      group.create_task(client(number, server.port, end, counts))
    while time.monotonic() < end:
      await asyncio.sleep(SECONDS / 60)
      memory.append(server.megabytes())


def test_the_server_neither_grows_nor_crashes(server):
  port = server.port
  before = asyncio.run(ask(port, "/v1/completions", GREEDY | {"stop": ["\x00"]}))
  for action in (score, chat, complete, refuse):
    asyncio.run(action(port, random.Random(0)))
  files, counts, memory = server.files(), {}, []
  asyncio.run(soak(server, counts, memory))
  print(f"\nrequests: {counts}\nMB: {[round(m) for m in memory]}")
  for _ in range(60):  # what was asked before the end is computed first
    if server.files() <= files + 2:
      break
    time.sleep(1)
  assert server.files() <= files + 2
  after = asyncio.run(ask(port, "/v1/completions", GREEDY | {"stop": ["\x00"]}))
  texts = [json.loads(raw)["choices"][0]["text"] for _, raw in (before, after)]
  assert texts[0] == texts[1] and before[0] == after[0] == 200
  for kind in ("complete 200", "score 200", "chat 200", "refuse 400", "abort", "flood refused",
               "ignore"):  # fmt: skip
    assert counts.get(kind, 0) > 0, kind
  assert not [kind for kind in counts if " 5" in kind or kind == "flood taken"]
  third = len(memory) // 3
  middle, last = np.median(memory[third : 2 * third]), np.median(memory[2 * third :])
  assert last < middle + max(20, 0.05 * middle), "memory grows"
