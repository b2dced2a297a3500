"""How fast requests leave: as many at once, and as many a second, as the server is found to bear.

Pace    the rules, pure: times are seconds of one clock that is passed in
Gate    one Pace for all workers of an event loop
Bucket  so much a minute, where the limit is known beforehand

Two numbers adapt. The limit on requests in flight doubles by the round until the server first
refuses (slow start), is cut once for each episode of refusals, and grows by a step a round while
it is what holds requests back. What was accepted a second when the server refused becomes a rate,
which stays a little below, tries a little more after a while, and is cut by less the more often the
server refuses at the same rate: the limit alone, a whole number, cannot come near a rate.
Failures of the server and timeouts pause growth. What one request is told
to wait, all wait.
"""

import asyncio
import collections
import dataclasses
import math
import random
import time

START = 8.0  # requests in flight to begin with
CUT = 0.8  # of the limit, once for each episode; of a rate that was refused at once
PRESS = 0.92  # of a rate that the server took for a while
TRIM = 0.97  # of a rate that it took for long, and so is about the one that it allows
SHORT, KNOWN = 2.0, 4.0  # seconds: a while, long
STEP = 0.05  # growth of the limit in a round, at least one request
FIRST_GROWTH = 0.5  # of the rate in a second, halved with each episode
LEAST_GROWTH = 0.01  # down to this, which it is at once about a rate that is known
HOLD = 20.0  # seconds, or times the wait, for which such a rate is not tried again
BEYOND = 1.04  # times the rate once refused that is taken: it was refused for something else
LOOK = 1.0  # seconds over which a rate can be told
SLACK = 0.02  # seconds by which a late request may be made up for
BACKOFF = 0.5  # seconds; the k-th wait in a row is between 0 and BACKOFF * 2**(k - 1)
BACKOFF_MAX = 30.0  # seconds
BURST = 2.0  # seconds of a bucket's flow that it can hold
KEPT = 10_000  # entries of the history


def backoff(attempt: int) -> float:
  """Seconds before attempt `attempt` + 1: full jitter under a bound that doubles."""
  return random.uniform(0.0, min(BACKOFF_MAX, BACKOFF * 2.0 ** min(attempt - 1, 30)))


class Bucket:
  """A flow of `a_minute`; what is taken comes back when it turns out not to be used."""

  def __init__(self, a_minute: float, now: float):
    self._flow = a_minute / 60.0
    self._most = max(1.0, self._flow * BURST)
    self._level, self._at = self._most, now

  def wait(self, amount: float, now: float) -> float:
    """Seconds until `amount`, or, of more than the bucket holds, a whole bucket is there."""
    self._fill(now)
    return max(0.0, min(amount, self._most) - self._level) / self._flow

  def take(self, amount: float, now: float) -> None:
    """Takes it, whether it is there or not: a debt is waited for by whoever comes next."""
    self._fill(now)
    self._level = min(self._most, self._level - amount)

  def _fill(self, now: float) -> None:
    self._level = min(self._most, self._level + (now - self._at) * self._flow)
    self._at = now


@dataclasses.dataclass(frozen=True)
class Change:
  """An entry of the history: what held from then on, and why."""

  at: float
  limit: int  # requests in flight
  rate: float  # requests a second; inf while none is known
  why: str


class Pace:
  """Whether another request may leave. `most` is the most in flight; buckets are 0 for none."""

  def __init__(
    self, most: int, now: float, *, requests_per_minute: float = 0, tokens_per_minute: float = 0
  ):
    self._most, self.limit, self.rate = most, min(START, float(most)), math.inf
    self.in_flight = 0
    self.history = collections.deque([Change(now, int(self.limit), self.rate, "start")], KEPT)
    self._requests = Bucket(requests_per_minute, now) if requests_per_minute else None
    self._tokens = Bucket(tokens_per_minute, now) if tokens_per_minute else None
    self._slow_start = True
    self._next = now  # when the rate lets the next request go
    self._pause = now  # nobody leaves before
    self._cut_at = -math.inf  # what left before belongs to an episode that was answered
    self._episode_at = -math.inf  # when the last episode began
    self._in_a_row = 0  # refusals without an acceptance between them
    self._ceiling = math.inf  # what was accepted a second when the server last refused
    self._growth = FIRST_GROWTH
    self._hold = self._grown = now  # the rate grows from then on; it last grew
    self._calm = 0  # answers that have to be sound before the limit grows again
    self._full_at = -math.inf  # when the limit last held something back
    self._slowed = False  # has the rate, since it last grew?
    self._accepted = collections.deque(maxlen=100_000)  # when, since
    self._resumed = now  # the last wait ended

  def wait(self, tokens: float, now: float) -> float:
    """Seconds until a request of so many tokens may leave; inf: not before another is back."""
    if self.in_flight >= int(self.limit):
      self._full_at = now
      return math.inf
    waits = [self._pause - now, self._next - now]
    self._slowed = self._slowed or waits[1] > 0
    if self._requests:
      waits.append(self._requests.wait(1, now))
    if self._tokens:
      waits.append(self._tokens.wait(tokens, now))
    return max(0.0, *waits)

  def left(self, now: float) -> float:
    """Seconds that everyone still has to wait because the server said so."""
    return max(0.0, self._pause - now)

  def leave(self, tokens: float, now: float) -> None:
    """A request of so many tokens, at most, is sent."""
    self.in_flight += 1
    self._next = max(self._next, now - SLACK) + 1.0 / self.rate
    if self._requests:
      self._requests.take(1, now)
    if self._tokens:
      self._tokens.take(tokens, now)

  def back(self, unused: float, now: float) -> None:
    """A request is over, whatever became of it, and so many of its tokens were not used."""
    self.in_flight -= 1
    if self._tokens:
      self._tokens.take(-unused, now)

  def accepted(self, left_at: float, now: float) -> None:
    """The server took a request that had left then."""
    self._accepted.append(now)
    if left_at < self._episode_at:
      return
    self._in_a_row = 0
    if self._calm:
      self._calm -= 1
    elif left_at <= self._full_at:  # while it was under way, the limit held another back
      self._grow_limit(now)
    if self._slowed and not self._calm and now >= self._hold:
      self._grow_rate(now)

  def refused(self, left_at: float, asked: float | None, now: float) -> float:
    """The server refuses for its rate, and asked for so many seconds. What everyone now waits."""
    same = left_at < self._cut_at or self._in_a_row > 0
    if left_at >= self._cut_at:  # else it left before anyone knew
      self._in_a_row += 1
      pause = backoff(self._in_a_row) if asked is None or self._in_a_row > 1 else 0.0
      pause = max(pause, asked or 0.0)
      if not same:
        self._episode_at = now
        self._cut(pause, now)
      self._cut_at = now
      if self.rate < math.inf:
        self._resumed = now + pause
    else:
      pause = asked or 0.0
    self.pause(pause, now)
    return self.left(now)

  def strained(self) -> None:
    """The server failed, or was too slow: nothing grows for a round."""
    self._calm = max(int(self.limit), int(START))
    self._slowed = False

  def pause(self, seconds: float, now: float) -> None:
    """Nobody leaves before; requests that were held back leave one after another."""
    if now + seconds > self._pause:
      self._pause = now + seconds
      self._next = max(self._next, self._pause)

  def _grow_limit(self, now: float) -> None:
    step = 1.0 if self._slow_start else max(1.0, STEP * self.limit) / self.limit
    before, self.limit = int(self.limit), min(float(self._most), self.limit + step)
    if int(self.limit) != before:
      self._note(now, "growth")

  def _grow_rate(self, now: float) -> None:
    """Slowly about the rate that was refused; faster the longer nothing is."""
    if self.rate > self._ceiling * BEYOND:
      self._growth = min(1.0, self._growth * 2.0 ** ((now - self._grown) / 5.0))
    self.rate *= 1 + self._growth * min(1.0, now - self._grown)
    self._grown, self._slowed = now, False
    if self.rate > 1.01 * self.history[-1].rate:
      self._note(now, "growth")

  def _cut(self, pause: float, now: float) -> None:
    self.limit = max(1.0, CUT * min(self.limit, self.in_flight + 1))
    self._slow_start = False
    if found := self._found(now):
      lasted = now - self._resumed
      known = self.rate < math.inf and lasted >= KNOWN
      cut = TRIM if known else CUT if lasted < SHORT else PRESS
      self._ceiling, self.rate = found, found * cut
      self._growth = LEAST_GROWTH if known else max(LEAST_GROWTH, self._growth / 2)
      self._resumed = now + pause
      self._hold = self._grown = self._resumed + (HOLD * max(1.0, pause) if known else 0.0)
      self._next = max(self._next, now + 1.0 / self.rate)
      self._accepted.clear()
    self._note(now, "refused")

  def _found(self, now: float) -> float | None:
    """Requests a second that the server took before it refused; None: too short a look to tell."""
    since = now - max(self._resumed, self._accepted[0]) if self._accepted else 0.0
    if since < LOOK:
      return self.rate if self.rate < math.inf else None
    recent = sum(at > now - 1.0 for at in self._accepted)
    return max(1.0, min(self.rate, max(recent, len(self._accepted) / since)))

  def _note(self, now: float, why: str) -> None:
    self.history.append(Change(now, int(self.limit), self.rate, why))


class Gate:
  """Where workers wait for their turn; lives in one event loop."""

  def __init__(self, pace: Pace, clock=time.monotonic):
    self.pace, self._clock = pace, clock
    self._waiting: collections.deque = collections.deque()  # (tokens, future)
    self._timer = None
    self._closed = False

  async def turn(self, tokens: float, *, first: bool = False) -> bool:
    """Returns when a request may leave, and counts it; False: none may any more.

    first: before all that wait, because it has waited before.
    """
    if self._closed:
      return False
    mine = asyncio.get_running_loop().create_future()
    (self._waiting.appendleft if first else self._waiting.append)((tokens, mine))
    self.look()
    return await mine

  def back(self, unused: float) -> None:
    """A request that had its turn is over; so many of its tokens were not used."""
    self.pace.back(unused, self._clock())
    self.look()

  def look(self) -> None:
    """Lets go whoever may go now, and comes back when the next may."""
    if self._timer is not None:
      self._timer.cancel()
      self._timer = None
    while self._waiting:
      tokens, future = self._waiting[0]
      now = self._clock()
      seconds = self.pace.wait(tokens, now)
      if seconds > 0:
        if seconds < math.inf:
          self._timer = asyncio.get_running_loop().call_later(seconds, self.look)
        return
      self._waiting.popleft()
      if not future.done():
        self.pace.leave(tokens, now)
        future.set_result(True)

  def close(self) -> None:
    """Nobody leaves any more."""
    self._closed = True
    while self._waiting:
      _, future = self._waiting.popleft()
      if not future.done():
        future.set_result(False)
    if self._timer is not None:
      self._timer.cancel()
