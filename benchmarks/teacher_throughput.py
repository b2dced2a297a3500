"""Requests a second to a teacher on this machine, beside a bare loop over the openai package.

  python -m benchmarks.teacher_throughput
  python -m benchmarks.teacher_throughput --workers=64 --latency=0.2 --requests=2000

The server is the built-in one in a process of its own, with the given latency. Bare: as many
workers as requests may be in flight, each awaits AsyncOpenAI().chat.completions.create and keeps
the text in a list; the same over aiohttp's sockets. Ours: client.Client with the SQLite cache on,
each reply on the disk before it is handed on, slow start included; then the same questions again,
all of which are in the cache. In turns; medians.
"""

import argparse
import asyncio
import contextlib
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import types

import httpx2
import openai

from distill_jax.teacher import types as asking
from distill_jax.teacher.builtin import faults, server
from distill_jax.teacher.client import client

LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=1000)
WORDS = "so many words, as many as a rationale has, and then some more of them. " * 5


def serve(latency: float) -> None:
  answer = lambda messages, n, temperature, seed: [WORDS + messages[-1][1]] * n
  made = server.Server(
    answer, port=0, model="m", latency=latency, script=faults.Sequence([]), log=""
  )
  made.serve_forever(lambda url: print(url, flush=True))


@contextlib.contextmanager
def serving(latency: float):
  """The address of a server in another process."""
  words = [sys.executable, "-m", "benchmarks.teacher_throughput", "--serve", f"--latency={latency}"]
  process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
  try:
    yield process.stdout.readline().strip()
  finally:
    process.kill()
    process.wait()


def questions(turn: int, count: int) -> list[str]:
  return [f"question {k} of turn {turn}: {WORDS}" for k in range(count)]


def bare(url: str, asked: list[str], workers: int, sockets) -> float:
  """Seconds for all replies."""

  async def play() -> None:
    left, texts = iter(asked), []
    http = openai.AsyncOpenAI(
      api_key="none", base_url=url, max_retries=0, http_client=sockets(limits=LIMITS)
    )
    async with http:

      async def work() -> None:
        for text in left:
          reply = await http.chat.completions.create(
            model="m", messages=[{"role": "user", "content": text}], temperature=0.5,
            max_tokens=512,
          )  # fmt: skip
          texts.append(reply.choices[0].message.content)

      await asyncio.gather(*(work() for _ in range(workers)))
    assert len(texts) == len(asked)

  begun = time.perf_counter()
  asyncio.run(play())
  return time.perf_counter() - begun


def ours(url: str, asked: list[str], workers: int, path: pathlib.Path) -> float:
  """Seconds for all replies, from the server or the cache at `path`."""
  requests = [asking.Request("annotate", text, (("user", text),), 1) for text in asked]
  begun = time.perf_counter()
  made = client.Client(
    base_url=url, model="m", key_env="", max_tokens=512, max_tokens_field="max_tokens",
    max_concurrency=workers, timeout=60.0, max_attempts=6, max_wait=300.0,
    prices=types.SimpleNamespace(input=0.1, output=0.4, cached=-1.0), max_dollars=1e6,
    max_requests=10**9, cache_path=str(path), run="r", identity="", send_seed=False,
  )  # fmt: skip
  with contextlib.closing(made):
    replies = made.ask(requests, round=0, phase="s", temperature=0.5, on_progress=None)
  seconds = time.perf_counter() - begun
  assert all(isinstance(row[0], asking.Reply) for row in replies)
  return seconds


def main() -> None:
  words = argparse.ArgumentParser()
  words.add_argument("--workers", type=int, default=256)
  words.add_argument("--latency", type=float, default=0.05)
  words.add_argument("--requests", type=int, default=3000)
  words.add_argument("--turns", type=int, default=5)
  words.add_argument("--serve", action="store_true")
  o = words.parse_args()
  if o.serve:
    return serve(o.latency)
  rates = {name: [] for name in ("bare", "bare over aiohttp", "ours", "ours, all cached")}
  with serving(o.latency) as url, tempfile.TemporaryDirectory() as folder:
    for turn in range(o.turns):
      asked, path = questions(turn, o.requests), pathlib.Path(folder) / f"{turn}.sqlite"
      seconds = (
        bare(url, asked, o.workers, openai.DefaultAsyncHttpxClient),
        bare(url, asked, o.workers, openai.DefaultAioHttpClient),
        ours(url, asked, o.workers, path),
        ours(url, asked, o.workers, path),
      )
      for found, took in zip(rates.values(), seconds, strict=True):
        found.append(o.requests / took)
      print("  ".join(f"{name} {found[-1]:.0f}/s" for name, found in rates.items()), flush=True)
  middle = {name: statistics.median(found) for name, found in rates.items()}
  ratio = middle["ours"] / middle["bare"]
  print("| what | replies/s (median) |\n| --- | ---: |")
  for name, rate in middle.items():
    print(f"| {name} | {rate:,.0f} |")
  print(f"{o.workers} workers, {1000 * o.latency:g} ms: {ratio:.2f} times as fast")


if __name__ == "__main__":
  main()
