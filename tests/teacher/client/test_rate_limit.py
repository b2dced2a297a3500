"""The client settles on what the server bears, and all requests wait when one is told to."""

import asyncio
import collections
import heapq
import math
import random

import pytest

from distill_jax.teacher.client import rate_limit

LATENCY = 0.05


def answered(limiter, now, rounds=1, sound=True):
  """As many requests as may leave at once, all taken, `rounds` times."""
  for k in range(rounds):
    at, count = now + k * LATENCY, 0
    while limiter.delay(1, at) == 0:
      limiter.on_send(1, at)
      count += 1
    for _ in range(count):
      limiter.on_done(0, at + LATENCY)
      if sound:
        limiter.on_accepted(at, at + LATENCY)
      else:
        limiter.on_server_error()
  return now + rounds * LATENCY


def refusal(limiter, now, asked=0.0, left_at=None):
  limiter.on_send(1, now if left_at is None else left_at)
  limiter.on_done(0, now)
  return limiter.on_rate_limited(now if left_at is None else left_at, asked, now)


def test_the_limit_doubles_by_the_round_until_the_most():
  limiter = rate_limit.AdaptiveLimiter(100, 0.0)
  limits = []
  for k in range(5):
    limits.append(int(limiter.limit))
    answered(limiter, k * LATENCY)
  assert limits == [8, 16, 32, 64, 100]


def test_a_limit_that_holds_nothing_back_does_not_grow():
  limiter = rate_limit.AdaptiveLimiter(100, 0.0)
  for k in range(50):
    limiter.on_send(1, k)
    limiter.on_done(0, k + 0.1)
    limiter.on_accepted(k, k + 0.1)
  assert limiter.limit == rate_limit.INITIAL_CONCURRENCY


def test_an_episode_of_refusals_cuts_once():
  limiter = rate_limit.AdaptiveLimiter(64, 0.0)
  now = answered(limiter, 0.0, rounds=3)
  while limiter.delay(1, now) == 0:
    limiter.on_send(1, now)
  flying, limits = limiter.in_flight, []
  for k in range(20):  # all of one volley
    limiter.on_done(0, now + 0.01 * k)
    limiter.on_rate_limited(now, 1.0, now + 0.01 * k)
    limits.append(limiter.limit)
  assert flying == 64 and set(limits) == {rate_limit.DECREASE_FACTOR * 64}
  assert sum(change.reason == "rate limited" for change in limiter.history) == 1


def test_after_a_cut_the_limit_grows_by_a_step_a_round():
  limiter = rate_limit.AdaptiveLimiter(64, 0.0)
  now = answered(limiter, 0.0)
  refusal(limiter, now)
  low = limiter.limit
  now = answered(limiter, now + 1.0)
  assert low + 0.8 <= limiter.limit <= low + 1.2
  answered(limiter, now, rounds=3)
  assert limiter.limit <= low + 4.5


def test_failures_of_the_server_pause_growth_and_cut_nothing():
  limiter = rate_limit.AdaptiveLimiter(64, 0.0)
  now = answered(limiter, 0.0, sound=False)
  assert limiter.limit == rate_limit.INITIAL_CONCURRENCY
  now = answered(limiter, now)  # a calm round
  assert limiter.limit == rate_limit.INITIAL_CONCURRENCY
  answered(limiter, now)
  assert limiter.limit > rate_limit.INITIAL_CONCURRENCY


@pytest.mark.parametrize("asked", [1.5, 40.0, 400.0])
def test_everyone_waits_as_long_as_one_was_told(asked):
  limiter = rate_limit.AdaptiveLimiter(64, 0.0)
  answered(limiter, 0.0)
  assert refusal(limiter, 1.0, asked=asked) == pytest.approx(asked)
  assert limiter.delay(1, 1.0 + asked / 2) >= asked / 2
  assert limiter.pause_left(1.0) == pytest.approx(asked)
  assert limiter.delay(1, 1.0 + asked + 2.0) == 0


def test_a_shorter_wait_does_not_end_a_longer_one():
  limiter = rate_limit.AdaptiveLimiter(64, 0.0)
  limiter.pause(10.0, 0.0)
  limiter.pause(1.0, 0.5)
  assert limiter.pause_left(0.5) == 9.5


def test_a_wait_that_proves_too_short_becomes_longer(monkeypatch):
  monkeypatch.setattr(rate_limit, "BACKOFF", 0.5)
  random.seed(0)
  limiter, now, waits = rate_limit.AdaptiveLimiter(64, 0.0), 0.0, []
  for _ in range(12):
    waits.append(refusal(limiter, now, asked=0.0))
    now += waits[-1] + 0.01
  assert waits[0] == 0 and max(waits[6:]) > 1.0 and max(waits) <= rate_limit.BACKOFF_MAX


def test_the_backoff_is_full_jitter_under_a_bound_that_doubles(monkeypatch):
  monkeypatch.setattr(rate_limit, "BACKOFF", 0.5)
  random.seed(1)
  for attempt, bound in ((1, 0.5), (2, 1.0), (4, 4.0), (50, rate_limit.BACKOFF_MAX)):
    drawn = [rate_limit.backoff(attempt) for _ in range(400)]
    assert 0 <= min(drawn) < 0.05 * bound and 0.95 * bound < max(drawn) <= bound


def test_a_bucket_gives_what_was_not_used_back():
  bucket = rate_limit.TokenBucket(600, 0.0)  # ten a second, twenty at once
  assert bucket.delay(20, 0.0) == 0
  bucket.take(20, 0.0)
  assert bucket.delay(5, 0.0) == pytest.approx(0.5)
  bucket.take(-15, 0.0)
  assert bucket.delay(5, 0.0) == 0 and bucket.delay(20, 0.0) == pytest.approx(0.5)
  assert bucket.delay(10_000, 5.0) == 0  # more than it holds: when it is full
  bucket.take(10_000, 5.0)
  assert bucket.delay(1, 5.0) == pytest.approx(998.1)


@pytest.mark.parametrize(
  "allowances", [{"requests_per_minute": 300}, {"tokens_per_minute": 30_000}]
)
def test_no_more_leaves_in_a_minute_than_is_allowed(allowances):
  limiter, now, left = rate_limit.AdaptiveLimiter(1000, 0.0, **allowances), 0.0, 0
  while now < 60:
    if (seconds := limiter.delay(100, now)) == 0:
      limiter.on_send(100, now)
      limiter.on_done(0, now)
      limiter.on_accepted(now, now)
      left += 1
    now += seconds + 1e-6
  assert 300 <= left <= 300 + 5 * rate_limit.BURST + 1


def test_tokens_that_were_not_used_let_more_leave():
  limiter, now, left = rate_limit.AdaptiveLimiter(1000, 0.0, tokens_per_minute=30_000), 0.0, 0
  while now < 60:
    if (seconds := limiter.delay(100, now)) == 0:
      limiter.on_send(100, now)
      limiter.on_done(75, now)
      left += 1
    now += seconds + 1e-6
  assert left >= 4 * 295


class Bucket:
  def __init__(self, allowed):
    self.allowed, self.level, self.at = allowed, allowed, 0.0

  def __call__(self, now):
    self.level = min(self.allowed, self.level + (now - self.at) * self.allowed)
    self.at = now
    self.level -= (taken := self.level >= 1)
    return taken


class Sliding:
  def __init__(self, allowed):
    self.allowed, self.taken = allowed, collections.deque()

  def __call__(self, now):
    while self.taken and self.taken[0] <= now - 1.0:
      self.taken.popleft()
    if taken := len(self.taken) < self.allowed:
      self.taken.append(now)
    return taken


class Fixed:
  def __init__(self, allowed):
    self.allowed, self.count = allowed, collections.Counter()

  def __call__(self, now):
    self.count[int(now)] += 1
    return self.count[int(now)] <= self.allowed


def simulate(server, seconds, retry_after):
  """[(when, taken?)] of a client with more to ask than time, on a clock that is only counted."""
  limiter, now, coming, log = rate_limit.AdaptiveLimiter(256, 0.0), 0.0, [], []
  while now < seconds:
    while (wait := limiter.delay(1, now)) == 0:
      limiter.on_send(1, now)
      back = now + LATENCY * random.uniform(0.8, 1.4)
      heapq.heappush(coming, (back, now, server(now + LATENCY / 2)))
    now = min(coming[0][0] if coming else math.inf, now + wait + 1e-6)
    while coming and coming[0][0] <= now:
      _, left_at, taken = heapq.heappop(coming)
      log.append((now, taken))
      limiter.on_done(0, now)
      if taken:
        limiter.on_accepted(left_at, now)
      else:
        limiter.on_rate_limited(left_at, retry_after, now)
  return log


@pytest.mark.parametrize("retry_after", [None, 1.0])
@pytest.mark.parametrize("kind", [Bucket, Sliding, Fixed])
@pytest.mark.parametrize("allowed", [20, 100])
def test_the_client_settles_within_a_tenth_of_what_the_server_allows(
  kind, allowed, retry_after, monkeypatch
):
  monkeypatch.setattr(rate_limit, "BACKOFF", 0.5)
  random.seed(3)
  late = [taken for at, taken in simulate(kind(allowed), 70, retry_after) if at > 10]
  assert 0.9 * allowed <= sum(late) / 60 <= 1.1 * allowed
  assert sum(not taken for taken in late) < 0.02 * len(late)


def test_turns_are_given_in_order_and_those_who_waited_before_come_first():
  async def play():
    limiter = rate_limit.AdaptiveLimiter(1, 0.0)
    gate, came = rate_limit.Gate(limiter), []

    async def one(name, first=False):
      assert await gate.acquire(1, first=first)
      came.append(name)

    tasks = [asyncio.create_task(one(name)) for name in "abc"]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(one("again", first=True)))
    for _ in range(4):
      await asyncio.sleep(0.001)
      gate.release(0)
    await asyncio.gather(*tasks)
    return came

  assert asyncio.run(play()) == ["a", "again", "b", "c"]


def test_nobody_leaves_through_a_closed_gate():
  async def play():
    gate = rate_limit.Gate(rate_limit.AdaptiveLimiter(1, 0.0))
    assert await gate.acquire(1)
    waiting = asyncio.create_task(gate.acquire(1))
    await asyncio.sleep(0)
    gate.close()
    gate.release(0)
    return await waiting, await gate.acquire(1)

  assert asyncio.run(play()) == (False, False)
