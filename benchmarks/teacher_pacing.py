"""How the client settles on what a server allows: R requests a second, and 429 beyond.

  python -m benchmarks.teacher_pacing                # seconds; writes teacher_pacing.svg and .md
  python -m benchmarks.teacher_pacing --live --allowed=20 --out=/tmp       # minutes

Six servers: a bucket that holds a second's worth, a window that slides, one that begins anew
every second; each with and without Retry-After: 1. The client knows nothing of R and may have
256 requests in flight. Counted at the server: what came and what was refused after the first ten
seconds.

Without --live, pacing.Pace plays against them on a clock that is only counted, with answers that
take 40 to 70 ms: what its rules do, on a machine that has time. With it, client.Client plays
against server.Server over sockets, --jobs pairs at once, which says as much about the machine.
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
import types

from distill_jax import errors
from distill_jax.teacher import types as asking
from distill_jax.teacher.builtin import faults, server
from distill_jax.teacher.client import client, rate_limit

LATENCY = 0.05  # seconds
WORKERS = 256
SETTLED = 10.0  # seconds
HEADER = (
  "| server allows {:g} requests/s | Retry-After | accepted/s, of allowed | refused |"
  " mean requests in flight |\n| --- | --- | ---: | ---: | ---: |"
)


class Bucket:
  def __init__(self, allowed: float):
    self._allowed, self._level, self._at = allowed, allowed, 0.0

  def takes(self, now: float) -> bool:
    self._level = min(self._allowed, self._level + (now - self._at) * self._allowed)
    self._at = now
    taken = self._level >= 1
    self._level -= taken
    return taken


class Sliding:
  def __init__(self, allowed: float):
    self._allowed, self._taken = allowed, collections.deque()

  def takes(self, now: float) -> bool:
    while self._taken and self._taken[0] <= now - 1.0:
      self._taken.popleft()
    if len(self._taken) >= self._allowed:
      return False
    self._taken.append(now)
    return True


class Fixed:
  def __init__(self, allowed: float):
    self._allowed, self._window, self._count = allowed, -1, 0

  def takes(self, now: float) -> bool:
    if self._window != math.floor(now):
      self._window, self._count = math.floor(now), 0
    self._count += 1
    return self._count <= self._allowed


KINDS = {"bucket": Bucket, "sliding window": Sliding, "fixed window": Fixed}


class Limiter:
  """A script for server.Server that refuses what is beyond; keeps (when, was it taken?)."""

  def __init__(self, kind: str, allowed: float, retry_after: int):
    self._kind, self.log = KINDS[kind](allowed), []
    said = f":retry_after={retry_after}" if retry_after else ""
    self._refusal = faults.parse(f"429{said}:say=too many requests")

  def pick(self, number: int):
    now = time.monotonic()
    self.log.append((now, self._kind.takes(now)))
    return None if self.log[-1][1] else self._refusal


def play(kind: str, allowed: float, retry_after: int, seconds: float) -> dict:
  """One server and its client, for so long: {"log": [(second, taken)], "history": [...]}."""
  limiter = Limiter(kind, allowed, retry_after)
  answer = lambda messages, n, temperature, seed: ["a reply"] * n
  made = server.Server(answer, port=0, model="m", latency=LATENCY, script=limiter, log="")
  asked = [
    asking.Request("annotate", f"{k}", (("user", f"{k}"),), 1)
    for k in range(int(2 * allowed * (seconds + 5)))
  ]
  with made.running() as url, tempfile.TemporaryDirectory() as folder:
    begun = time.monotonic()
    teacher = client.Client(
      base_url=url, model="m", key_env="", max_tokens=8, max_tokens_field="max_tokens",
      max_concurrency=WORKERS, timeout=60.0, max_attempts=6, max_wait=300.0, deadline=seconds,
      prices=types.SimpleNamespace(input=0.0, output=0.0, cached=-1.0), max_dollars=1e6,
      max_requests=10**9, cache_path=f"{folder}/t.sqlite", run="r", identity="", send_seed=False,
    )  # fmt: skip
    with contextlib.closing(teacher), contextlib.suppress(errors.UserError):  # the deadline
      teacher.ask(asked, round=0, phase="s", temperature=0.5, on_progress=None)
  return {
    "log": [(at - begun, taken) for at, taken in limiter.log if at - begun < seconds],
    "history": [(c.at - begun, c.concurrency, c.rate) for c in teacher.limiter.history],
  }


def counted(kind: str, allowed: float, retry_after: int, seconds: float) -> dict:
  """The same of a limiter and a server on a clock that is only counted."""
  random.seed(0)
  server_, limiter, now, coming, log = KINDS[kind](allowed), rate_limit.AdaptiveLimiter(WORKERS, 0.0), 0.0, [], []
  while now < seconds:
    while (wait := limiter.delay(1, now)) == 0:
      limiter.on_send(1, now)
      log.append((now + LATENCY / 2, server_.takes(now + LATENCY / 2)))
      back = now + LATENCY * random.uniform(0.8, 1.4)
      heapq.heappush(coming, (back, now, log[-1][1]))
    now = min(coming[0][0] if coming else math.inf, now + wait + 1e-6)
    while coming and coming[0][0] <= now:
      _, left_at, taken = heapq.heappop(coming)
      limiter.on_done(0, now)
      if taken:
        limiter.on_accepted(left_at, now)
      else:
        limiter.on_rate_limited(left_at, retry_after or None, now)
  return {
    "log": [(at, taken) for at, taken in log if at < seconds],
    "history": [(c.at, c.concurrency, c.rate) for c in limiter.history],
  }


def row(name: tuple, played: dict, allowed: float, seconds: float) -> str:
  late = [taken for at, taken in played["log"] if at >= SETTLED]
  rate = sum(late) / (seconds - SETTLED)
  kind, retry_after = name
  return (
    f"| {kind} | {f'{retry_after} s' if retry_after else 'none'} | {rate:.1f}, {rate / allowed:.0%}"
    f" | {1 - sum(late) / len(late):.2%} | {rate * LATENCY:.1f} |"
  )


def drawn(results: dict, allowed: float, seconds: float) -> str:
  """An SVG with a panel for each server."""
  panels = [
    _panel(name, played, allowed, seconds, 20 + 460 * (k % 2), 30 + 190 * (k // 2))
    for k, (name, played) in enumerate(results.items())
  ]
  height = 60 + 190 * math.ceil(len(results) / 2)
  key = [
    ("#1f77b4", "requests taken a second"), ("#d62728", "requests refused a second"),
    ("#ff7f0e", "the client's rate"), ("#7f7f7f", "its limit on requests in flight"),
  ]  # fmt: skip
  legend = "".join(
    f'<text x="{30 + 225 * k}" y="18" fill="{colour}">{text}</text>'
    for k, (colour, text) in enumerate(key)
  )
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="940" height="{height}"'
    ' font-family="sans-serif" font-size="12">'
    f'<rect width="940" height="{height}" fill="white"/>{legend}{"".join(panels)}</svg>\n'
  )


def _panel(name, played, allowed, seconds, left, top) -> str:
  width, height, most = 430.0, 130.0, 2.0 * allowed
  x = lambda at: left + width * at / seconds
  y = lambda value: top + height * (1 - min(value, most) / most)
  taken, refused = (
    collections.Counter(int(at) for at, t in played["log"] if t == which) for which in (True, False)
  )
  middles = [s + 0.5 for s in range(int(seconds))]
  lines = [
    ("#7f7f7f", _steps([(at, limit) for at, limit, _ in played["history"]], seconds)),
    ("#ff7f0e", _steps([(at, r) for at, _, r in played["history"] if r < math.inf], seconds)),
    ("#1f77b4", [(at, taken[int(at)]) for at in middles]),
    ("#d62728", [(at, refused[int(at)]) for at in middles]),
  ]
  parts = [
    f'<text x="{left}" y="{top + height + 30}">{name[0]},'
    f" {f'Retry-After: {name[1]}' if name[1] else 'no Retry-After'}; 0 to {seconds:g} s,"
    f" 0 to {most:g}; dashes: {allowed:g} allowed</text>",
    f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#ccc"/>',
    f'<line x1="{left}" x2="{left + width}" y1="{y(allowed)}" y2="{y(allowed)}" stroke="#333"'
    ' stroke-dasharray="3 3"/>',
  ]
  for colour, points in lines:
    shown = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in points)
    parts.append(f'<polyline points="{shown}" fill="none" stroke="{colour}" stroke-width="1.3"/>')
  return "".join(parts)


def _steps(changes, seconds: float) -> list[tuple[float, float]]:
  points = []
  for at, value in [*changes, (seconds, changes[-1][1] if changes else 0)]:
    if at <= seconds:
      points += [(at, points[-1][1]), (at, value)] if points else [(at, value)]
  return points


def main() -> None:
  words = argparse.ArgumentParser()
  words.add_argument("--allowed", type=float, default=50.0)
  words.add_argument("--seconds", type=float, default=60.0)
  words.add_argument("--jobs", type=int, default=2)
  words.add_argument("--out", default="benchmarks")
  words.add_argument("--live", action="store_true")
  o = words.parse_args()
  pathlib.Path(o.out).mkdir(parents=True, exist_ok=True)
  names = [(kind, wait) for kind in KINDS for wait in (0, 1)]
  with concurrent.futures.ProcessPoolExecutor(o.jobs) as pool:
    one = play if o.live else counted
    running = {n: pool.submit(one, n[0], o.allowed, n[1], o.seconds) for n in names}
    results = {name: found.result() for name, found in running.items()}
  rows = [row(name, found, o.allowed, o.seconds) for name, found in results.items()]
  table = "\n".join([HEADER.format(o.allowed), *rows])
  print(table)
  pathlib.Path(o.out, "teacher_pacing.md").write_text(table + "\n")
  pathlib.Path(o.out, "teacher_pacing.svg").write_text(drawn(results, o.allowed, o.seconds))


if __name__ == "__main__":
  main()
