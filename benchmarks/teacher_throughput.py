"""Requests per second to a teacher on this machine, compared with a bare loop over openai.

  python -m benchmarks.teacher_throughput
  python -m benchmarks.teacher_throughput --workers=64 --latency=0.2 --requests=2000

The server is the built-in one, in its own process, with the given latency.

- bare: as many workers as requests may be in flight; each awaits
  AsyncOpenAI().chat.completions.create and keeps the text in a list.
- bare over aiohttp: the same over aiohttp's sockets.
- ours: client.Client with the SQLite cache, each reply on disk before it is used, slow start
  included.
- ours, all cached: the same questions again.

They run alternately; medians are reported.
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
from collections.abc import Iterator

import httpx2
import openai

from distill_jax import settings
from distill_jax.teacher import types
from distill_jax.teacher.client import client
from tests import teacher_faults as faults
from tests import teacher_server as server

LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=1000)
# About as long as a rationale.
WORDS = "so many words, as many as a rationale has, and then some more of them. " * 5


def serve(latency: float) -> None:
  answer = lambda messages, n, temperature, seed: [WORDS + messages[-1][1]] * n
  chat_server = server.Server(
    answer, port=0, model="m", latency=latency, script=faults.Sequence([]), log=""
  )
  chat_server.serve_forever(lambda url: print(url, flush=True))


@contextlib.contextmanager
def serving(latency: float) -> Iterator[str]:
  """Yields the address of a server in another process."""
  words = [sys.executable, "-m", "benchmarks.teacher_throughput", "--serve", f"--latency={latency}"]
  process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
  try:
    yield process.stdout.readline().strip()
  finally:
    process.kill()
    process.wait()


def questions(turn: int, count: int) -> list[str]:
  return [f"question {k} of turn {turn}: {WORDS}" for k in range(count)]


def time_bare(url: str, texts: list[str], workers: int, http_client) -> float:
  """Seconds until all replies are there."""

  async def run() -> None:
    left, replies = iter(texts), []
    http = openai.AsyncOpenAI(
      api_key="none", base_url=url, max_retries=0, http_client=http_client(limits=LIMITS)
    )
    async with http:

      async def work() -> None:
        for text in left:
          reply = await http.chat.completions.create(
            model="m", messages=[{"role": "user", "content": text}], temperature=0.5, max_tokens=512
          )
          replies.append(reply.choices[0].message.content)

      await asyncio.gather(*(work() for _ in range(workers)))
    assert len(replies) == len(texts)

  started = time.perf_counter()
  asyncio.run(run())
  return time.perf_counter() - started


def time_ours(url: str, texts: list[str], workers: int, path: pathlib.Path) -> float:
  """Seconds until all replies are there, from the server or the cache at `path`."""
  requests = [types.Request("annotate", text, (("user", text),), 1) for text in texts]
  started = time.perf_counter()
  teacher = client.Client(
    base_url=url,
    model="m",
    key_env="",
    max_tokens=512,
    max_tokens_field="max_tokens",
    max_concurrency=workers,
    timeout=60.0,
    max_attempts=6,
    max_wait=300.0,
    prices=settings.Prices(input=0.1, output=0.4, cached=-1.0),
    max_dollars=1e6,
    max_requests=10**9,
    cache_path=str(path),
    run="r",
    identity="",
    send_seed=False,
  )
  with contextlib.closing(teacher):
    replies = teacher.ask(requests, round=0, phase="s", temperature=0.5, on_progress=None)
  seconds = time.perf_counter() - started
  assert all(isinstance(row[0], types.Reply) for row in replies)
  return seconds


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--workers", type=int, default=256)
  parser.add_argument("--latency", type=float, default=0.05)
  parser.add_argument("--requests", type=int, default=3000)
  parser.add_argument("--turns", type=int, default=5)
  parser.add_argument("--serve", action="store_true")
  options = parser.parse_args()
  if options.serve:
    return serve(options.latency)
  rates = {name: [] for name in ("bare", "bare over aiohttp", "ours", "ours, all cached")}
  with serving(options.latency) as url, tempfile.TemporaryDirectory() as directory:
    for turn in range(options.turns):
      texts, path = questions(turn, options.requests), pathlib.Path(directory) / f"{turn}.sqlite"
      seconds = (
        time_bare(url, texts, options.workers, openai.DefaultAsyncHttpxClient),
        time_bare(url, texts, options.workers, openai.DefaultAioHttpClient),
        time_ours(url, texts, options.workers, path),
        time_ours(url, texts, options.workers, path),
      )
      for values, took in zip(rates.values(), seconds, strict=True):
        values.append(options.requests / took)
      line = "  ".join(f"{name} {values[-1]:.0f}/s" for name, values in rates.items())
      print(line, flush=True)
  medians = {name: statistics.median(values) for name, values in rates.items()}
  ratio = medians["ours"] / medians["bare"]
  print("| client | replies/s (median) |\n| --- | ---: |")
  for name, rate in medians.items():
    print(f"| {name} | {rate:,.0f} |")
  print(f"{options.workers} workers, {1000 * options.latency:g} ms: {ratio:.2f} times as fast")


if __name__ == "__main__":
  main()
