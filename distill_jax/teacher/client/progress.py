"""How far an ask is, how fast it goes, and what it will have cost."""

import asyncio
import collections
import contextlib
import time

from distill_jax.teacher import types

WINDOW = 10.0  # seconds that rates are taken over
EVERY = 0.1  # seconds between two reports, while much happens
TICK = 1.0  # and while nothing does


class Meter:
  """Counts, and tells on_progress (or nobody, if that is None).

  total, done  samples that are asked for, and those that were there before
  spent        dollars of the run folder so far
  """

  def __init__(self, total: int, done: int, spent: float, on_progress, clock=time.monotonic):
    self._total, self._done, self._before = total, done, done
    self._spent = self._spent_before = spent
    self._failures = self._retries = 0
    self._on_progress, self._clock = on_progress, clock
    self._begun = self._last = clock()
    self._told = -EVERY
    self._recent = collections.deque(maxlen=10_000)  # (when, requests, samples, tokens)
    self._pace = None  # pacing.Pace, once requests are sent

  def watch(self, pace) -> None:
    """From now on, what is in flight and how much may be is read from there."""
    self._pace = pace

  def sent(self, retry: bool) -> None:
    self._retries += retry
    self._recent.append((self._clock(), 1, 0, 0))
    self._tell()

  def spend(self, dollars: float) -> None:
    self._spent += dollars

  def done(self, samples: int, failures: int, tokens: int) -> None:
    """So many samples are finished, and some of them failures."""
    self._last = self._clock()
    self._done += samples
    self._failures += failures
    self._recent.append((self._last, 0, samples, tokens))
    self._tell()

  @contextlib.asynccontextmanager
  async def ticking(self):
    """Tells how far it is also while nothing happens."""
    self._tell(force=True)
    ticks = asyncio.create_task(self._tick())
    try:
      yield
    finally:
      ticks.cancel()
      self._tell(force=True)

  async def _tick(self) -> None:
    while True:
      await asyncio.sleep(TICK)
      self._tell()

  def progress(self) -> types.Progress:
    now = self._clock()
    while self._recent and self._recent[0][0] < now - WINDOW:
      self._recent.popleft()
    seconds = max(min(WINDOW, now - self._begun), 1e-3)
    requests, samples, tokens = (
      sum(entry[k] for entry in self._recent) / seconds for k in (1, 2, 3)
    )
    left, came = self._total - self._done, self._done - self._before
    pace = samples or came / max(now - self._begun, 1e-3)
    return types.Progress(
      done=self._done,
      total=self._total,
      failures=self._failures,
      retries=self._retries,
      dollars=self._spent,
      in_flight=self._pace.in_flight if self._pace else 0,
      limit=int(self._pace.limit) if self._pace else 0,
      requests_a_second=requests,
      tokens_a_second=tokens,
      projected=self._spent + (self._spent - self._spent_before) * left / came if came else None,
      left=left / pace if pace else None,
      quiet=now - self._last,
      pause=self._pace.left(now) if self._pace else 0.0,
    )

  def _tell(self, force: bool = False) -> None:
    now = self._clock()
    if self._on_progress is not None and (force or now - self._told >= EVERY):
      self._told = now
      self._on_progress(self.progress())
