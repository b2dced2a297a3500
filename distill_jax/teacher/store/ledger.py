"""What the teacher cost, read from the stored replies, and the cap on what it may cost."""

import asyncio

from distill_jax import errors, settings
from distill_jax.teacher import types
from distill_jax.teacher.store import cache


def dollars(prices: settings.Prices, tokens_in: int, tokens_out: int, tokens_cached: int = 0) -> float:
  """What a call costs; `tokens_cached` of its `tokens_in` at their own price."""
  cached = prices.input if prices.cached < 0 else prices.cached
  fresh = tokens_in - tokens_cached
  return (fresh * prices.input + tokens_cached * cached + tokens_out * prices.output) / 1e6


class RunLedger:
  """Totals by round and phase; a killed and resumed run has the same as one that was not."""

  def __init__(self, cache: cache.ReplyCache, run: str):
    self._cache, self._run = cache, run

  def of(self, round: int, phase: str | None = None) -> types.Totals:
    """Totals of a round, or of one phase of it."""
    return self._cache.totals(self._run, round, phase)

  def total(self) -> types.Totals:
    """Totals of the run."""
    return self._cache.totals(self._run)

  def requests_sent(self) -> int:
    """HTTP requests sent, retries among them."""
    return self._cache.requests_sent(self._run)


class Budget:
  """Hard caps in dollars and HTTP requests: money is reserved before a request and settled after.

  Lives in one event loop: one for each ask.
  """

  def __init__(self, *, spent: float, requests: int, max_dollars: float, max_requests: int):
    self.spent, self.requests = spent, requests
    self._max_dollars, self._max_requests = max_dollars, max_requests
    self._reserved = 0.0
    self.in_flight = 0
    self._released = asyncio.Event()

  async def reserve(self, need: float) -> None:
    """Sets `need` dollars aside and counts a request.

    Waits for requests in flight if they may leave enough. Raises errors.UserError at a cap.
    """
    while self.in_flight and self.spent + self._reserved + need > self._max_dollars:
      self._released.clear()
      await self._released.wait()
    if self.spent + need > self._max_dollars:
      raise errors.budget(
        f"the next teacher request may cost ${need:.4f}, but ${self.spent:.4f} of"
        f" ${self._max_dollars:.4f} are spent; nothing is lost, raise --config.teacher.max_dollars"
        " and run the same command again"
      )
    if self.requests + 1 > self._max_requests:
      raise errors.budget(
        f"{self.requests} teacher requests were sent, 1 more is needed, the cap is"
        f" {self._max_requests}; nothing is lost, raise --config.teacher.max_requests and run the"
        " same command again"
      )
    self.requests += 1
    self._reserved += need
    self.in_flight += 1

  def release(self, need: float, *, sent: bool) -> None:
    """Gives a reservation back, whatever became of the request."""
    self.in_flight -= 1
    self.requests -= not sent
    self._reserved = self._reserved - need if self.in_flight else 0.0
    self._released.set()

  def spend(self, dollars: float) -> None:
    self.spent += dollars
