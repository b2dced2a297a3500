"""Costs of the teacher, computed from the teacher cache, and the caps on them."""

import asyncio

from distill_jax import errors, settings
from distill_jax.teacher import types
from distill_jax.teacher.store import cache


def dollars(
  prices: settings.Prices, tokens_in: int, tokens_out: int, tokens_cached: int = 0
) -> float:
  """Price of a call in dollars.

  Args:
    prices: Dollars per million tokens. A negative `prices.cached` means the price of other input.
    tokens_in: Prompt tokens, including the cached ones.
    tokens_out: Completion tokens.
    tokens_cached: Prompt tokens that the server had in its own cache.
  """
  cached_price = prices.input if prices.cached < 0 else prices.cached
  fresh = tokens_in - tokens_cached
  return (fresh * prices.input + tokens_cached * cached_price + tokens_out * prices.output) / 1e6


class RunLedger:
  """Totals of one run in a teacher cache. A run that was killed and resumed has the same totals."""

  def __init__(self, store: cache.ReplyCache, run: str):
    self._store, self._run = store, run

  def of(self, round: int, phase: str | None = None) -> types.Totals:
    """Totals of a round, or of one of its phases."""
    return self._store.totals(self._run, round, phase)

  def total(self) -> types.Totals:
    """Totals of the run."""
    return self._store.totals(self._run)

  def requests_sent(self) -> int:
    """Number of HTTP requests sent, retries included."""
    return self._store.requests_sent(self._run)


class Budget:
  """Hard caps on dollars and HTTP requests.

  Each request reserves its highest possible cost before it is sent, and releases it afterward.
  Belongs to one event loop.

  Attributes:
    spent: Dollars spent by the run.
    requests: HTTP requests sent by the run.
    in_flight: Requests with a reservation.
  """

  def __init__(self, *, spent: float, requests: int, max_dollars: float, max_requests: int):
    self.spent, self.requests = spent, requests
    self.in_flight = 0
    self._max_dollars, self._max_requests = max_dollars, max_requests
    self._reserved = 0.0
    self._released = asyncio.Event()

  async def reserve(self, need: float) -> None:
    """Reserves `need` dollars and counts a request.

    Waits while requests in flight may still leave enough.

    Raises:
      errors.UserError: The request could exceed a cap.
    """
    while self.in_flight and self.spent + self._reserved + need > self._max_dollars:
      self._released.clear()
      await self._released.wait()
    if self.spent + need > self._max_dollars:
      raise errors.budget(
        f"the next teacher request may cost ${need:.4f}, but ${self.spent:.4f} of"
        f" ${self._max_dollars:.4f} are spent; nothing is lost: raise --config.teacher.max_dollars"
        " and run the same command again"
      )
    if self.requests + 1 > self._max_requests:
      raise errors.budget(
        f"{self.requests} teacher requests were sent, 1 more is needed, but"
        f" config.teacher.max_requests is {self._max_requests}; nothing is lost: raise"
        " --config.teacher.max_requests and run the same command again"
      )
    self.requests += 1
    self._reserved += need
    self.in_flight += 1

  def release(self, need: float, *, sent: bool) -> None:
    """Releases a reservation of `need` dollars. A request that was not sent is not counted."""
    self.in_flight -= 1
    if not sent:
      self.requests -= 1
    self._reserved = self._reserved - need if self.in_flight else 0.0
    self._released.set()

  def spend(self, dollars: float) -> None:
    """Adds what a request has cost."""
    self.spent += dollars
