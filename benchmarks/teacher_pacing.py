"""How fast the client adapts to a server that allows R requests per second, and answers 429 beyond.

  python -m benchmarks.teacher_pacing                # seconds; writes teacher_pacing.svg and .md
  python -m benchmarks.teacher_pacing --live --allowed=20 --out=/tmp       # minutes

Six servers: a token bucket that holds one second's worth, a sliding window, and a fixed window of
one second; each with and without Retry-After: 1. The client does not know R and may have 256
requests in flight. Accepted and rejected requests are counted at the server, after the first ten
seconds.

Without --live, the limiter runs on a simulated clock with latencies of 40 to 70 ms, which shows its
rules on a machine that is never busy. With --live, client.Client talks to server.Server over
sockets, --jobs pairs at a time, which measures the machine as well.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import heapq
import math
import pathlib
import random
import tempfile
import time

from distill_jax import errors, settings
from distill_jax.teacher import types
from distill_jax.teacher.client import client, rate_limit
from tests import teacher_faults as faults
from tests import teacher_server as server

LATENCY = 0.05  # seconds
MAX_CONCURRENCY = 256
WARMUP = 10.0  # seconds
HEADER = (
  "| server allows {:g} requests/s | Retry-After | accepted/s, of allowed | rejected |"
  " mean requests in flight |\n| --- | --- | ---: | ---: | ---: |"
)


class Bucket:
  def __init__(self, allowed: float):
    self._allowed, self._level, self._at = allowed, allowed, 0.0

  def accepts(self, now: float) -> bool:
    self._level = min(self._allowed, self._level + (now - self._at) * self._allowed)
    self._at = now
    accepted = self._level >= 1
    if accepted:
      self._level -= 1
    return accepted


class SlidingWindow:
  def __init__(self, allowed: float):
    self._allowed = allowed
    self._accepted: collections.deque[float] = collections.deque()

  def accepts(self, now: float) -> bool:
    while self._accepted and self._accepted[0] <= now - 1.0:
      self._accepted.popleft()
    if len(self._accepted) >= self._allowed:
      return False
    self._accepted.append(now)
    return True


class FixedWindow:
  def __init__(self, allowed: float):
    self._allowed, self._window, self._count = allowed, -1, 0

  def accepts(self, now: float) -> bool:
    if self._window != math.floor(now):
      self._window, self._count = math.floor(now), 0
    self._count += 1
    return self._count <= self._allowed


KINDS = {"bucket": Bucket, "sliding window": SlidingWindow, "fixed window": FixedWindow}


class Limiter:
  """Fault script for server.Server that answers 429 beyond the limit; logs (time, accepted)."""

  def __init__(self, kind: str, allowed: float, retry_after: int):
    self._kind = KINDS[kind](allowed)
    self.log: list[tuple[float, bool]] = []
    wait = f":retry_after={retry_after}" if retry_after else ""
    self._fault = faults.parse(f"429{wait}:say=too many requests")

  def pick(self, number: int):
    now = time.monotonic()
    self.log.append((now, self._kind.accepts(now)))
    return None if self.log[-1][1] else self._fault


def run_live(kind: str, allowed: float, retry_after: int, seconds: float) -> dict:
  """Runs a server and its client: {"log": [(time, accepted)], "history": [(time, limits)]}."""
  limiter = Limiter(kind, allowed, retry_after)
  answer = lambda messages, n, temperature, seed: ["a reply"] * n
  chat_server = server.Server(answer, port=0, model="m", latency=LATENCY, script=limiter, log="")
  requests = [
    types.Request("annotate", f"{k}", (("user", f"{k}"),), 1)
    for k in range(int(2 * allowed * (seconds + 5)))
  ]
  with chat_server.running() as url, tempfile.TemporaryDirectory() as directory:
    started = time.monotonic()
    teacher = client.Client(
      base_url=url,
      model="m",
      key_env="",
      max_tokens=8,
      max_tokens_field="max_tokens",
      max_concurrency=MAX_CONCURRENCY,
      timeout=60.0,
      max_attempts=6,
      max_wait=300.0,
      deadline=seconds,
      prices=settings.Prices(input=0.0, output=0.0, cached=-1.0),
      max_dollars=1e6,
      max_requests=10**9,
      cache_path=f"{directory}/t.sqlite",
      run="r",
      identity="",
      send_seed=False,
    )
    with contextlib.closing(teacher), contextlib.suppress(errors.UserError):  # the deadline
      teacher.ask(requests, round=0, phase="s", temperature=0.5, on_progress=None)
  return {
    "log": [(at - started, accepted) for at, accepted in limiter.log if at - started < seconds],
    "history": [(c.at - started, c.concurrency, c.rate) for c in teacher.limiter.history],
  }


def simulate(kind: str, allowed: float, retry_after: int, seconds: float) -> dict:
  """The same on a simulated clock."""
  random.seed(0)
  limited, limiter = KINDS[kind](allowed), rate_limit.AdaptiveLimiter(MAX_CONCURRENCY, 0.0)
  now = 0.0
  in_flight: list[tuple[float, float, bool]] = []  # (done at, sent at, accepted)
  log: list[tuple[float, bool]] = []
  while now < seconds:
    while (wait := limiter.delay(1, now)) == 0:
      limiter.on_send(1, now)
      log.append((now + LATENCY / 2, limited.accepts(now + LATENCY / 2)))
      done_at = now + LATENCY * random.uniform(0.8, 1.4)
      heapq.heappush(in_flight, (done_at, now, log[-1][1]))
    now = min(in_flight[0][0] if in_flight else math.inf, now + wait + 1e-6)
    while in_flight and in_flight[0][0] <= now:
      _, sent_at, accepted = heapq.heappop(in_flight)
      limiter.on_done(0, now)
      if accepted:
        limiter.on_accepted(sent_at, now)
      else:
        limiter.on_rate_limited(sent_at, retry_after or None, now)
  return {
    "log": [(at, accepted) for at, accepted in log if at < seconds],
    "history": [(c.at, c.concurrency, c.rate) for c in limiter.history],
  }


def table_row(name: tuple[str, int], result: dict, allowed: float, seconds: float) -> str:
  settled = [accepted for at, accepted in result["log"] if at >= WARMUP]
  rate = sum(settled) / (seconds - WARMUP)
  kind, retry_after = name
  return (
    f"| {kind} | {f'{retry_after} s' if retry_after else 'none'} | {rate:.1f}, {rate / allowed:.0%}"
    f" | {1 - sum(settled) / len(settled):.2%} | {rate * LATENCY:.1f} |"
  )


def chart(results: dict, allowed: float, seconds: float) -> str:
  """An SVG with one panel per server."""
  panels = [
    _panel(name, result, allowed, seconds, 20 + 460 * (k % 2), 30 + 190 * (k // 2))
    for k, (name, result) in enumerate(results.items())
  ]
  height = 60 + 190 * math.ceil(len(results) / 2)
  key = [
    ("#1f77b4", "accepted requests/s"),
    ("#d62728", "rejected requests/s"),
    ("#ff7f0e", "the client's rate limit"),
    ("#7f7f7f", "its concurrency limit"),
  ]
  legend = "".join(
    f'<text x="{30 + 225 * k}" y="18" fill="{color}">{text}</text>'
    for k, (color, text) in enumerate(key)
  )
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="940" height="{height}"'
    ' font-family="sans-serif" font-size="12">'
    f'<rect width="940" height="{height}" fill="white"/>{legend}{"".join(panels)}</svg>\n'
  )


def _panel(name, result, allowed, seconds, left, top) -> str:
  width, height, maximum = 430.0, 130.0, 2.0 * allowed

  def x(at: float) -> float:
    return left + width * at / seconds

  def y(value: float) -> float:
    return top + height * (1 - min(value, maximum) / maximum)

  accepted, rejected = (
    collections.Counter(int(at) for at, ok in result["log"] if ok == wanted)
    for wanted in (True, False)
  )
  middles = [s + 0.5 for s in range(int(seconds))]
  history = result["history"]
  lines = [
    ("#7f7f7f", _steps([(at, limit) for at, limit, _ in history], seconds)),
    ("#ff7f0e", _steps([(at, rate) for at, _, rate in history if rate < math.inf], seconds)),
    ("#1f77b4", [(at, accepted[int(at)]) for at in middles]),
    ("#d62728", [(at, rejected[int(at)]) for at in middles]),
  ]
  parts = [
    f'<text x="{left}" y="{top + height + 30}">{name[0]},'
    f" {f'Retry-After: {name[1]}' if name[1] else 'no Retry-After'}; 0 to {seconds:g} s,"
    f" 0 to {maximum:g}; dashes: {allowed:g} allowed</text>",
    f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#ccc"/>',
    f'<line x1="{left}" x2="{left + width}" y1="{y(allowed)}" y2="{y(allowed)}" stroke="#333"'
    ' stroke-dasharray="3 3"/>',
  ]
  for color, points in lines:
    shown = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in points)
    parts.append(f'<polyline points="{shown}" fill="none" stroke="{color}" stroke-width="1.3"/>')
  return "".join(parts)


def _steps(changes, seconds: float) -> list[tuple[float, float]]:
  """A step function's corners."""
  points = []
  for at, value in [*changes, (seconds, changes[-1][1] if changes else 0)]:
    if at <= seconds:
      points += [(at, points[-1][1]), (at, value)] if points else [(at, value)]
  return points


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--allowed", type=float, default=50.0)
  parser.add_argument("--seconds", type=float, default=60.0)
  parser.add_argument("--jobs", type=int, default=2)
  parser.add_argument("--out", default="benchmarks")
  parser.add_argument("--live", action="store_true")
  options = parser.parse_args()
  out = pathlib.Path(options.out)
  out.mkdir(parents=True, exist_ok=True)
  names = [(kind, wait) for kind in KINDS for wait in (0, 1)]
  with concurrent.futures.ProcessPoolExecutor(options.jobs) as pool:
    run = run_live if options.live else simulate
    futures = {n: pool.submit(run, n[0], options.allowed, n[1], options.seconds) for n in names}
    results = {name: future.result() for name, future in futures.items()}
  rows = [table_row(n, result, options.allowed, options.seconds) for n, result in results.items()]
  table = "\n".join([HEADER.format(options.allowed), *rows])
  print(table)
  (out / "teacher_pacing.md").write_text(table + "\n")
  (out / "teacher_pacing.svg").write_text(chart(results, options.allowed, options.seconds))


if __name__ == "__main__":
  main()
