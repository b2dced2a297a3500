"""Costs of the teacher, computed from the teacher cache, and the caps on them."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator

from distill_jax import errors, settings
from distill_jax.teacher import types
from distill_jax.teacher.store import batches, cache

WRITE_SURCHARGE = 0.25  # of the price of prompt tokens (Anthropic, 5 minutes; pricing of 2025)


def dollars(
  prices: settings.Prices,
  tokens_in: int,
  tokens_out: int,
  tokens_cached: int = 0,
  tokens_written: int = 0,
) -> float:
  """Price of a call in dollars.

  Args:
    prices: Dollars per million tokens. A negative `prices.cached` means the price of other input.
    tokens_in: Prompt tokens, including the cached ones.
    tokens_out: Completion tokens.
    tokens_cached: Prompt tokens that the server had in its own cache.
    tokens_written: Prompt tokens that the server wrote to it.
  """
  cached_price = prices.input if prices.cached < 0 else prices.cached
  fresh = tokens_in - tokens_cached
  fresh += WRITE_SURCHARGE * tokens_written
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

  def unanswered(self, round: int | None = None, phase: str | None = None) -> types.Unanswered:
    """The estimated cost of requests without a reported usage: of the run, a round or a phase."""
    return self._store.unanswered(self._run, round, phase)

  def spent(self) -> float:
    """Dollars of the run that count toward its cap: measured and estimated."""
    return self.total().dollars + self.unanswered().dollars

  def requests_sent(self) -> int:
    """Number of HTTP requests sent, retries included."""
    return self._store.requests_sent(self._run)


class Budget:
  """Hard caps on dollars and HTTP requests.

  Each request reserves its highest possible cost before it is sent; afterward, what it has cost, or
  may have, replaces the reservation. Requests in batches and files do the same together. Several
  event loops in several threads may share one.

  Attributes:
    spent: Dollars spent by the run, estimates included.
    estimated: The part of `spent` that is an estimate; see `types.Unanswered`.
    requests: HTTP requests sent by the run.
    in_flight: Requests with a reservation, apart from those in batches and files.
  """

  def __init__(
    self,
    *,
    spent: float,
    requests: int,
    max_dollars: float,
    max_requests: int,
    estimated: float = 0.0,
    held: float = 0.0,
  ):
    self.spent, self.requests, self.estimated = spent, requests, estimated
    self.in_flight = 0
    self._max_dollars, self._max_requests = max_dollars, max_requests
    self._reserved, self._held = 0.0, held  # dollars: in flight; in batches and files
    self._lock = threading.Lock()
    self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

  async def reserve(
    self, need: float, stop_reason: Callable[[], BaseException | None] = lambda: None
  ) -> None:
    """Reserves `need` dollars and counts a request.

    Waits while requests in flight may still leave enough.

    Args:
      need: The most that the request may cost.
      stop_reason: Why nothing may be sent any more; None as long as requests may be sent. After a
        change, call `wake`.

    Raises:
      errors.UserError: The request could exceed a cap.
      BaseException: The reason to stop.
    """
    while True:
      if (reason := stop_reason()) is not None:
        raise reason
      with self._lock:
        used = self.spent + self._held + self._reserved
        if not self.in_flight or used + need <= self._max_dollars:
          self._check(need, 1)
          self.requests += 1
          self._reserved += need
          self.in_flight += 1
          return
        loop = asyncio.get_running_loop()
        released: asyncio.Future[None] = loop.create_future()
        self._waiting.append((loop, released))
      await released

  def release(self, need: float, *, sent: bool, cost: float = 0.0, estimate: float = 0.0) -> None:
    """Replaces a reservation of `need` dollars by what the request has cost.

    Args:
      need: The reservation.
      sent: Whether the request was sent; otherwise it is not counted.
      cost: Dollars that it has cost.
      estimate: Dollars that it may have cost beyond that.
    """
    with self._lock:
      self.in_flight -= 1
      if not sent:
        self.requests -= 1
      self._reserved = self._reserved - need if self.in_flight else 0.0
      self.spent += cost + estimate
      self.estimated += estimate
    self.wake()

  def wake(self) -> None:
    """Lets every `reserve` that waits look again."""
    with self._lock:
      waiting, self._waiting = self._waiting, []
    for loop, released in waiting:
      with contextlib.suppress(RuntimeError):  # a loop that was closed has no use for it
        loop.call_soon_threadsafe(_finish, released)

  def hold(self, dollars: float, requests: int) -> None:
    """Reserves `dollars` for requests that are sent together, and counts them.

    Raises:
      errors.UserError: They could exceed a cap; then none may be sent.
    """
    with self._lock:
      self._check(dollars, requests)
      self._held += dollars
      self.requests += requests

  def drop(self, dollars: float, *, unsent: int = 0, cost: float = 0.0) -> None:
    """Replaces `dollars` that were held by what the requests have `cost`.

    Args:
      dollars: What was held for them.
      unsent: How many of them were not sent.
      cost: Dollars.
    """
    with self._lock:
      self._held -= dollars
      self.requests -= unsent
      self.spent += cost
    self.wake()

  def spend(self, dollars: float) -> None:
    """Adds dollars that were not reserved."""
    with self._lock:
      self.spent += dollars

  def _check(self, dollars: float, count: int) -> None:
    """Raises errors.UserError if `count` further requests could exceed a cap."""
    reserved = self._held + self._reserved
    need = reserved + dollars
    if self.spent + need > self._max_dollars:
      requests = "request" if count == 1 else f"{count} requests"
      estimated = f" (${self.estimated:.4f} of it estimated)" if self.estimated else ""
      others = f" and ${reserved:.4f} reserved" if reserved else ""
      raise errors.budget(
        f"the next teacher {requests} may cost ${dollars:.4f}, but ${self.spent:.4f} of"
        f" ${self._max_dollars:.4f} are spent{estimated}{others}; nothing is lost: raise"
        " --config.teacher.max_dollars and run the same command again"
      )
    if self.requests + count > self._max_requests:
      raise errors.budget(
        f"{self.requests} teacher requests were sent, and {count} more would be, but"
        f" config.teacher.max_requests is {self._max_requests}; nothing is lost: raise"
        " --config.teacher.max_requests and run the same command again"
      )


def _finish(future: asyncio.Future[None]) -> None:
  if not future.done():
    future.set_result(None)


_shared: dict[tuple[str, str], tuple[Budget, int]] = {}  # {(file, run): (budget, users)}
_sharing = threading.Lock()


@contextlib.contextmanager
def shared_budget(
  store: cache.ReplyCache, run: str, *, max_dollars: float, max_requests: int
) -> Iterator[Budget]:
  """Yields the budget of a run; teachers of a pool that ask at the same time get the same one.

  Args:
    store: Knows what the run has spent.
    run: The run.
    max_dollars: Cap on the run's cost.
    max_requests: Cap on the run's HTTP requests.
  """
  name = (os.path.realpath(store.path), run)
  with _sharing:
    budget, users = _shared.get(name, (None, 0))
    if budget is None:
      estimated = store.unanswered(run).dollars
      budget = Budget(
        spent=store.totals(run).dollars + estimated,
        estimated=estimated,
        held=batches.pending_dollars(store.path, run),
        requests=store.requests_sent(run),
        max_dollars=max_dollars,
        max_requests=max_requests,
      )
    _shared[name] = (budget, users + 1)
  try:
    yield budget
  finally:
    with _sharing:
      _, users = _shared.pop(name)
      if users > 1:
        _shared[name] = (budget, users - 1)
