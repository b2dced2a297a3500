"""Progress of one `ask`: how far, how fast, and at what projected cost."""

import asyncio
import collections
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from distill_jax.teacher import types
from distill_jax.teacher.client import rate_limit

WINDOW = 10.0  # seconds over which rates are averaged
MIN_INTERVAL = 0.1  # seconds between two reports while there is activity
TICK = 1.0  # seconds between two reports while there is none


class _Event(NamedTuple):
  at: float
  requests: int
  samples: int
  tokens: int


class ProgressMeter:
  """Counts events and reports them to a callback, at most every MIN_INTERVAL seconds."""

  def __init__(
    self,
    total: int,
    done: int,
    spent: float,
    limiter: rate_limit.AdaptiveLimiter,
    on_progress: Callable[[types.Progress], None] | None,
    clock: Callable[[], float] | None = None,
  ):
    """Creates a meter.

    Args:
      total: Samples requested.
      done: Samples that were available before anything was sent.
      spent: Dollars spent by the run so far.
      limiter: Source of the requests in flight and their limit.
      on_progress: Receives the reports; None for no reports.
      clock: Seconds; None for the time of this process.
    """
    self._total, self._done, self._done_at_start = total, done, done
    self._spent = self._spent_at_start = spent
    self._failures = self._retries = 0
    self._limiter, self._on_progress = limiter, on_progress
    self._clock = clock or time.monotonic
    self._started = self._last_response = self._clock()
    self._last_report = -MIN_INTERVAL
    self._recent: collections.deque[_Event] = collections.deque(maxlen=10_000)

  def sent(self, retry: bool) -> None:
    """Counts a request that leaves."""
    if retry:
      self._retries += 1
    self._recent.append(_Event(self._clock(), 1, 0, 0))
    self._report()

  def spend(self, dollars: float) -> None:
    """Adds to the dollars spent."""
    self._spent += dollars

  def done(self, samples: int, failures: int, tokens: int) -> None:
    """Counts finished samples, `failures` of which have no reply."""
    self._last_response = self._clock()
    self._done += samples
    self._failures += failures
    self._recent.append(_Event(self._last_response, 0, samples, tokens))
    self._report()

  @contextlib.asynccontextmanager
  async def ticking(self) -> AsyncIterator[None]:
    """Within this context, reports also come while nothing happens."""
    self._report(force=True)
    ticks = asyncio.create_task(self._tick())
    try:
      yield
    finally:
      ticks.cancel()
      self._report(force=True)

  async def _tick(self) -> None:
    while True:
      await asyncio.sleep(TICK)
      self._report()

  def progress(self) -> types.Progress:
    """The current state."""
    now = self._clock()
    while self._recent and self._recent[0].at < now - WINDOW:
      self._recent.popleft()
    elapsed = max(now - self._started, 1e-3)
    window = min(WINDOW, elapsed)
    samples_per_second = sum(event.samples for event in self._recent) / window
    left, finished = self._total - self._done, self._done - self._done_at_start
    speed = samples_per_second or finished / elapsed
    spent = self._spent - self._spent_at_start
    return types.Progress(
      done=self._done,
      total=self._total,
      failures=self._failures,
      retries=self._retries,
      dollars=self._spent,
      in_flight=self._limiter.in_flight,
      limit=int(self._limiter.limit),
      requests_per_second=sum(event.requests for event in self._recent) / window,
      tokens_per_second=sum(event.tokens for event in self._recent) / window,
      projected_dollars=self._spent + spent * left / finished if finished else None,
      seconds_left=left / speed if speed else None,
      idle=now - self._last_response,
      pause=self._limiter.pause_left(now),
    )

  def _report(self, force: bool = False) -> None:
    now = self._clock()
    if self._on_progress is not None and (force or now - self._last_report >= MIN_INTERVAL):
      self._last_report = now
      self._on_progress(self.progress())
