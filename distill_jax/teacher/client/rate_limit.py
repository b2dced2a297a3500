"""Client-side rate limiting that adapts to what the server accepts.

AdaptiveLimiter  the rules; pure: times are seconds of one clock that the caller passes in
Gate             one AdaptiveLimiter shared by all workers of an event loop
TokenBucket      a per-minute allowance that is known beforehand

Two numbers adapt: the concurrency limit (requests in flight) and the rate (requests per second).

The concurrency limit doubles each round trip until the server first answers 429 (slow start). It is
multiplied by DECREASE_FACTOR once per episode of 429s, and grows by one step per round trip while
it is what holds requests back (AIMD).

A concurrency limit, a small integer, cannot approximate a rate well. Therefore the acceptance rate
measured when the server answers 429 becomes a rate limit as well. It is held slightly below the
measurement and probed upwards after a while. The more often the server answers 429 at the same
rate, the smaller the decrease.

Server errors suspend growth. A timeout does too, and halves the concurrency limit. A wait that the
server requests applies to all requests.
"""

import asyncio
import collections
import dataclasses
import math
import random
import time
from collections.abc import Callable

INITIAL_CONCURRENCY = 8.0
DECREASE_FACTOR = 0.8  # of the concurrency limit, per episode; of a rate that failed at once
SHORT_RUN_FACTOR = 0.92  # of a rate that lasted for at least SHORT_RUN
LONG_RUN_FACTOR = 0.97  # of a rate that lasted for LONG_RUN, so is close to the server's limit
SHORT_RUN, LONG_RUN = 2.0, 4.0  # seconds
CONCURRENCY_STEP = 0.05  # growth of the concurrency limit per round trip, at least one request
INITIAL_RATE_GROWTH = 0.5  # of the rate per second; halved with each episode
MIN_RATE_GROWTH = 0.01  # lower bound; applies immediately near a rate that lasted for LONG_RUN
HOLD = 20.0  # seconds (times the wait, if longer than 1 s) before such a rate is probed again
CEILING_SLACK = 1.04  # a rate this far above the last measured one shows that it was no limit
MIN_WINDOW = 1.0  # seconds over which an acceptance rate can be measured
MIN_RATE = 1 / 60  # requests per second; a lower rate is not measured
CATCH_UP = 0.02  # seconds of delay that late requests may make up for
BACKOFF = 0.5  # seconds; the k-th consecutive wait is uniform in [0, BACKOFF * 2**(k - 1)]
BACKOFF_MAX = 30.0  # seconds
BURST = 2.0  # seconds of flow that a token bucket holds
HISTORY = 10_000  # entries


def backoff(attempt: int) -> float:
  """Seconds to wait after attempt number `attempt`: exponential backoff with full jitter."""
  return random.uniform(0.0, min(BACKOFF_MAX, BACKOFF * 2.0 ** min(attempt - 1, 30)))


class TokenBucket:
  """An allowance of `per_minute`; unused amounts can be returned."""

  def __init__(self, per_minute: float, now: float):
    self._per_second = per_minute / 60.0
    self._capacity = max(1.0, self._per_second * BURST)
    self._level, self._updated = self._capacity, now

  def delay(self, amount: float, now: float) -> float:
    """Seconds until `amount`, or a full bucket if that is less, is available."""
    self._refill(now)
    return max(0.0, min(amount, self._capacity) - self._level) / self._per_second

  def take(self, amount: float, now: float) -> None:
    """Takes `amount`, available or not: whoever comes next waits for a debt."""
    self._refill(now)
    self._level = min(self._capacity, self._level - amount)

  def _refill(self, now: float) -> None:
    gained = (now - self._updated) * self._per_second
    self._level = min(self._capacity, self._level + gained)
    self._updated = now


@dataclasses.dataclass(frozen=True)
class LimitChange:
  """An entry of the limiter's history: the limits from time `at` on, and the reason."""

  at: float
  concurrency: int
  rate: float  # requests per second; inf while unknown
  reason: str


class AdaptiveLimiter:
  """Decides when another request may leave.

  Attributes:
    limit: Concurrency limit; its integer part applies.
    rate: Requests per second; inf while unknown.
    in_flight: Requests that have left and are not done.
    history: The latest changes of the limits.
  """

  def __init__(
    self,
    max_concurrency: int,
    now: float,
    *,
    requests_per_minute: float = 0,
    tokens_per_minute: float = 0,
  ):
    """Creates a limiter.

    Args:
      max_concurrency: Upper bound on the concurrency limit.
      now: The current time.
      requests_per_minute: The server's published limit; 0 if unknown.
      tokens_per_minute: Likewise.
    """
    self._max_concurrency = max_concurrency
    self.limit, self.rate = min(INITIAL_CONCURRENCY, float(max_concurrency)), math.inf
    self.in_flight = 0
    start = LimitChange(now, int(self.limit), self.rate, "start")
    self.history: collections.deque[LimitChange] = collections.deque([start], HISTORY)
    self._requests = TokenBucket(requests_per_minute, now) if requests_per_minute else None
    self._tokens = TokenBucket(tokens_per_minute, now) if tokens_per_minute else None
    self._slow_start = True
    self._next_at = now  # when the rate allows the next request
    self._paused_until = now
    self._cut_at = -math.inf  # requests sent before belong to an episode that was handled
    self._episode_at = -math.inf  # start of the latest episode
    self._consecutive = 0  # 429s without an acceptance between them
    self._ceiling = math.inf  # acceptance rate at the latest 429
    self._rate_growth = INITIAL_RATE_GROWTH
    self._hold_until = self._grew_at = now  # of the rate
    self._calm = 0  # successes needed before the limits grow again
    self._saturated_at = -math.inf  # when the concurrency limit last held a request back
    self._rate_bound = False  # whether the rate held a request back since it last grew
    self._accepted: collections.deque[float] = collections.deque(maxlen=100_000)  # times
    self._resumed_at = now  # end of the latest wait
    self._timeout_at = -math.inf  # the latest timeout that reduced the limit
    self._answered = False  # whether the server has accepted a request

  def delay(self, tokens: float, now: float) -> float:
    """Seconds until a request of `tokens` tokens may leave.

    Returns inf if it has to wait for another request to finish.
    """
    if self.in_flight >= int(self.limit):
      self._saturated_at = now
      return math.inf
    delays = [self._paused_until - now, self._next_at - now]
    self._rate_bound = self._rate_bound or delays[1] > 0
    if self._requests:
      delays.append(self._requests.delay(1, now))
    if self._tokens:
      delays.append(self._tokens.delay(tokens, now))
    return max(0.0, *delays)

  def pause_left(self, now: float) -> float:
    """Seconds that all requests still wait because the server asked for it."""
    return max(0.0, self._paused_until - now)

  def on_send(self, tokens: float, now: float) -> None:
    """Records that a request of at most `tokens` tokens is sent."""
    self.in_flight += 1
    self._next_at = max(self._next_at, now - CATCH_UP) + 1.0 / self.rate
    if self._requests:
      self._requests.take(1, now)
    if self._tokens:
      self._tokens.take(tokens, now)

  def on_done(self, unused: float, now: float) -> None:
    """A request is over, whatever its outcome; `unused` of its tokens were not needed."""
    self.in_flight -= 1
    if self._tokens:
      self._tokens.take(-unused, now)

  def on_accepted(self, sent_at: float, now: float) -> None:
    """The server accepted a request that left at `sent_at`."""
    self._accepted.append(now)
    self._answered = True
    if sent_at < self._episode_at:
      return
    self._consecutive = 0
    if self._calm:
      self._calm -= 1
    elif sent_at <= self._saturated_at:  # the limit held another request back meanwhile
      self._grow_concurrency(now)
    if self._rate_bound and not self._calm and now >= self._hold_until:
      self._grow_rate(now)

  def on_rate_limited(self, sent_at: float, requested: float | None, now: float) -> float:
    """The server answered 429 to a request that left at `sent_at`.

    Args:
      sent_at: When the request left.
      requested: Seconds that the server asks to wait; None if it does not say.
      now: The current time.

    Returns:
      Seconds that all requests now wait.
    """
    same_episode = sent_at < self._cut_at or self._consecutive > 0
    if sent_at >= self._cut_at:  # else it left before the cut could have any effect
      self._consecutive += 1
      pause = backoff(self._consecutive) if requested is None or self._consecutive > 1 else 0.0
      pause = max(pause, requested or 0.0)
      if not same_episode:
        self._episode_at = now
        self._decrease(pause, now)
      self._cut_at = now
      if self.rate < math.inf:
        self._resumed_at = now + pause
    else:
      pause = requested or 0.0
    self.pause(pause, now)
    return self.pause_left(now)

  def cap(self, max_concurrency: int) -> None:
    """Lowers the upper bound on the concurrency limit."""
    self._max_concurrency = min(self._max_concurrency, max_concurrency)
    self.limit = min(self.limit, float(self._max_concurrency))

  def on_timeout(self, sent_at: float, now: float) -> None:
    """A request that left at `sent_at` has timed out: too many are in flight.

    The limit is halved once for all requests that left before; it is 1 as long as the server has
    never answered, since it may handle one request at a time.
    """
    if sent_at >= self._timeout_at:
      self._timeout_at, self._slow_start = now, False
      self.limit = max(1.0, self.limit / 2) if self._answered else 1.0
      self._record(now, "timeout")

  def on_server_error(self) -> None:
    """The server failed or timed out: nothing grows for one round trip."""
    self._calm = max(int(self.limit), int(INITIAL_CONCURRENCY))
    self._rate_bound = False

  def pause(self, seconds: float, now: float) -> None:
    """Holds all requests for `seconds`; after that, they are sent one by one."""
    if now + seconds > self._paused_until:
      self._paused_until = now + seconds
      self._next_at = max(self._next_at, self._paused_until)

  def _grow_concurrency(self, now: float) -> None:
    step = 1.0 if self._slow_start else max(1.0, CONCURRENCY_STEP * self.limit) / self.limit
    before = int(self.limit)
    self.limit = min(float(self._max_concurrency), self.limit + step)
    if int(self.limit) != before:
      self._record(now, "growth")

  def _grow_rate(self, now: float) -> None:
    """Grows slowly near the last measured rate, faster the longer it stays accepted beyond."""
    if self.rate > self._ceiling * CEILING_SLACK:
      self._rate_growth = min(1.0, self._rate_growth * 2.0 ** ((now - self._grew_at) / 5.0))
    self.rate *= 1 + self._rate_growth * min(1.0, now - self._grew_at)
    self._grew_at, self._rate_bound = now, False
    if self.rate > 1.01 * self.history[-1].rate:
      self._record(now, "growth")

  def _decrease(self, pause: float, now: float) -> None:
    self.limit = max(1.0, DECREASE_FACTOR * min(self.limit, self.in_flight + 1))
    self._slow_start = False
    if measured := self._measured_rate(now):
      lasted = now - self._resumed_at
      known = self.rate < math.inf and lasted >= LONG_RUN
      if known:
        factor = LONG_RUN_FACTOR
      else:
        factor = DECREASE_FACTOR if lasted < SHORT_RUN else SHORT_RUN_FACTOR
      self._ceiling, self.rate = measured, measured * factor
      growth = MIN_RATE_GROWTH if known else max(MIN_RATE_GROWTH, self._rate_growth / 2)
      self._rate_growth = growth
      self._resumed_at = now + pause
      hold = HOLD * max(1.0, pause) if known else 0.0
      self._hold_until = self._grew_at = self._resumed_at + hold
      self._next_at = max(self._next_at, now + 1.0 / self.rate)
      self._accepted.clear()
    self._record(now, "rate limited")

  def _measured_rate(self, now: float) -> float | None:
    """Requests per second that were accepted before a 429; None if the window is too short."""
    window = now - max(self._resumed_at, self._accepted[0]) if self._accepted else 0.0
    if window < MIN_WINDOW:
      return self.rate if self.rate < math.inf else None
    last_second = sum(at > now - 1.0 for at in self._accepted)
    return max(MIN_RATE, min(self.rate, max(last_second, len(self._accepted) / window)))

  def _record(self, now: float, reason: str) -> None:
    self.history.append(LimitChange(now, int(self.limit), self.rate, reason))


class Gate:
  """Queue in which workers wait for the limiter, first in, first out; belongs to one event loop."""

  def __init__(self, limiter: AdaptiveLimiter, clock: Callable[[], float] | None = None):
    self._limiter, self._clock = limiter, clock or time.monotonic
    self._waiting: collections.deque[tuple[float, asyncio.Future[bool]]] = collections.deque()
    self._timer: asyncio.TimerHandle | None = None
    self._closed = False

  async def acquire(self, tokens: float, *, first: bool = False) -> bool:
    """Waits until a request of `tokens` tokens may leave, and counts it as sent.

    Args:
      tokens: Upper bound on the request's tokens.
      first: Goes to the front of the queue, because the request has waited before.

    Returns:
      False if the gate is closed: the request must not leave.
    """
    if self._closed:
      return False
    turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    if first:
      self._waiting.appendleft((tokens, turn))
    else:
      self._waiting.append((tokens, turn))
    self._wake()
    return await turn

  def release(self, unused: float) -> None:
    """A request is over; `unused` of its tokens were not needed."""
    self._limiter.on_done(unused, self._clock())
    self._wake()

  def close(self) -> None:
    """Closes the gate: no further request may be sent."""
    self._closed = True
    while self._waiting:
      _, turn = self._waiting.popleft()
      if not turn.done():
        turn.set_result(False)
    if self._timer is not None:
      self._timer.cancel()

  def _wake(self) -> None:
    """Admits the requests that may be sent now, and schedules itself for the next one."""
    if self._timer is not None:
      self._timer.cancel()
      self._timer = None
    while self._waiting:
      tokens, turn = self._waiting[0]
      now = self._clock()
      seconds = self._limiter.delay(tokens, now)
      if seconds > 0:
        if seconds < math.inf:
          self._timer = asyncio.get_running_loop().call_later(seconds, self._wake)
        return
      self._waiting.popleft()
      if not turn.done():
        self._limiter.on_send(tokens, now)
        turn.set_result(True)
