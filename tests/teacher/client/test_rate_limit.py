"""The limiter converges to what the server accepts; a requested wait applies to all requests."""

import asyncio
import collections
import heapq
import math
import random

import pytest

from distill_jax.teacher.client import rate_limit

LATENCY = 0.05


def round_trips(limiter, now, rounds=1, succeed=True):
  """Sends as many requests as the limiter allows, `rounds` times; returns the time after them."""
  for k in range(rounds):
    at, count = now + k * LATENCY, 0
    while limiter.delay(1, at) == 0:
      limiter.on_send(1, at)
      count += 1
    for _ in range(count):
      limiter.on_done(0, at + LATENCY)
      if succeed:
        limiter.on_accepted(at, at + LATENCY)
      else:
        limiter.on_server_error()
  return now + rounds * LATENCY


def rate_limited(limiter, now, requested=0.0, sent_at=None):
  limiter.on_send(1, now if sent_at is None else sent_at)
  limiter.on_done(0, now)
  return limiter.on_rate_limited(now if sent_at is None else sent_at, requested, now)


def test_the_limit_doubles_each_round_trip_up_to_the_maximum():
  limiter = rate_limit.AdaptiveLimiter(100, 0.0)
  limits = []
  for k in range(5):
    limits.append(int(limiter.limit))
    round_trips(limiter, k * LATENCY)
  assert limits == [8, 16, 32, 64, 100]


def test_a_limit_that_holds_nothing_back_does_not_grow():
  limiter = rate_limit.AdaptiveLimiter(100, 0.0)
  for k in range(50):
    limiter.on_send(1, k)
    limiter.on_done(0, k + 0.1)
    limiter.on_accepted(k, k + 0.1)
  assert limiter.limit == rate_limit.INITIAL_CONCURRENCY


def test_an_episode_of_rate_limiting_decreases_the_limit_once():
  limiter = rate_limit.AdaptiveLimiter(64, 0.0)
  now = round_trips(limiter, 0.0, rounds=3)
  while limiter.delay(1, now) == 0:
    limiter.on_send(1, now)
  in_flight, limits = limiter.in_flight, []
  for k in range(20):  # all sent together
    limiter.on_done(0, now + 0.01 * k)
    limiter.on_rate_limited(now, 1.0, now + 0.01 * k)
    limits.append(limiter.limit)
  assert in_flight == 64 and set(limits) == {rate_limit.DECREASE_FACTOR * 64}
  assert sum(change.reason == "rate limited" for change in limiter.history) == 1


def test_after_a_decrease_the_limit_grows_by_one_step_per_round_trip():
  limiter = rate_limit.AdaptiveLimiter(64, 0.0)
  now = round_trips(limiter, 0.0)
  rate_limited(limiter, now)
  low = limiter.limit
  now = round_trips(limiter, now + 1.0)
  assert low + 0.8 <= limiter.limit <= low + 1.2
  round_trips(limiter, now, rounds=3)
  assert limiter.limit <= low + 4.5


def test_server_errors_suspend_growth_and_decrease_nothing():
  limiter = rate_limit.AdaptiveLimiter(64, 0.0)
  now = round_trips(limiter, 0.0, succeed=False)
  assert limiter.limit == rate_limit.INITIAL_CONCURRENCY
  now = round_trips(limiter, now)  # a round trip without errors
  assert limiter.limit == rate_limit.INITIAL_CONCURRENCY
  round_trips(limiter, now)
  assert limiter.limit > rate_limit.INITIAL_CONCURRENCY


@pytest.mark.parametrize("requested", [1.5, 40.0, 400.0])
def test_all_requests_wait_as_long_as_the_server_asks(requested):
  limiter = rate_limit.AdaptiveLimiter(64, 0.0)
  round_trips(limiter, 0.0)
  assert rate_limited(limiter, 1.0, requested=requested) == pytest.approx(requested)
  assert limiter.delay(1, 1.0 + requested / 2) >= requested / 2
  assert limiter.pause_left(1.0) == pytest.approx(requested)
  assert limiter.delay(1, 1.0 + requested + 2.0) == 0


def test_a_shorter_wait_does_not_end_a_longer_one():
  limiter = rate_limit.AdaptiveLimiter(64, 0.0)
  limiter.pause(10.0, 0.0)
  limiter.pause(1.0, 0.5)
  assert limiter.pause_left(0.5) == 9.5


def test_waits_that_prove_too_short_become_longer(monkeypatch):
  monkeypatch.setattr(rate_limit, "BACKOFF", 0.5)
  random.seed(0)
  limiter, now, waits = rate_limit.AdaptiveLimiter(64, 0.0), 0.0, []
  for _ in range(12):
    waits.append(rate_limited(limiter, now, requested=0.0))
    now += waits[-1] + 0.01
  assert waits[0] == 0 and max(waits[6:]) > 1.0 and max(waits) <= rate_limit.BACKOFF_MAX


def test_the_backoff_has_full_jitter_under_a_doubling_bound(monkeypatch):
  monkeypatch.setattr(rate_limit, "BACKOFF", 0.5)
  random.seed(1)
  for attempt, bound in ((1, 0.5), (2, 1.0), (4, 4.0), (50, rate_limit.BACKOFF_MAX)):
    drawn = [rate_limit.backoff(attempt) for _ in range(400)]
    assert 0 <= min(drawn) < 0.05 * bound and 0.95 * bound < max(drawn) <= bound


def test_a_bucket_takes_back_what_was_not_used():
  bucket = rate_limit.TokenBucket(600, 0.0)  # 10 per second, 20 at once
  assert bucket.delay(20, 0.0) == 0
  bucket.take(20, 0.0)
  assert bucket.delay(5, 0.0) == pytest.approx(0.5)
  bucket.take(-15, 0.0)
  assert bucket.delay(5, 0.0) == 0 and bucket.delay(20, 0.0) == pytest.approx(0.5)
  assert bucket.delay(10_000, 5.0) == 0  # more than it holds: waits until it is full
  bucket.take(10_000, 5.0)
  assert bucket.delay(1, 5.0) == pytest.approx(998.1)


@pytest.mark.parametrize(
  "allowances", [{"requests_per_minute": 300}, {"tokens_per_minute": 30_000}]
)
def test_no_more_requests_leave_per_minute_than_allowed(allowances):
  limiter, now, left = rate_limit.AdaptiveLimiter(1000, 0.0, **allowances), 0.0, 0
  while now < 60:
    if (seconds := limiter.delay(100, now)) == 0:
      limiter.on_send(100, now)
      limiter.on_done(0, now)
      limiter.on_accepted(now, now)
      left += 1
    now += seconds + 1e-6
  assert 300 <= left <= 300 + 5 * rate_limit.BURST + 1


def test_unused_tokens_let_more_requests_leave():
  limiter, now, left = rate_limit.AdaptiveLimiter(1000, 0.0, tokens_per_minute=30_000), 0.0, 0
  while now < 60:
    if (seconds := limiter.delay(100, now)) == 0:
      limiter.on_send(100, now)
      limiter.on_done(75, now)
      left += 1
    now += seconds + 1e-6
  assert left >= 4 * 295


class BucketServer:
  def __init__(self, allowed, size=None):
    self.allowed, self.level, self.at = allowed, allowed, 0.0
    self.size = size or allowed

  def __call__(self, now):
    self.level = min(self.size, self.level + (now - self.at) * self.allowed)
    self.at = now
    self.level -= (taken := self.level >= 1)
    return taken


class SlidingWindowServer:
  def __init__(self, allowed):
    self.allowed, self.taken = allowed, collections.deque()

  def __call__(self, now):
    while self.taken and self.taken[0] <= now - 1.0:
      self.taken.popleft()
    if taken := len(self.taken) < self.allowed:
      self.taken.append(now)
    return taken


class FixedWindowServer:
  def __init__(self, allowed):
    self.allowed, self.count = allowed, collections.Counter()

  def __call__(self, now):
    self.count[int(now)] += 1
    return self.count[int(now)] <= self.allowed


def simulate(server, seconds, retry_after):
  """[(time, accepted)] of a client that always has requests left, on a simulated clock."""
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
@pytest.mark.parametrize("kind", [BucketServer, SlidingWindowServer, FixedWindowServer])
@pytest.mark.parametrize("allowed", [20, 100])
def test_the_rate_converges_to_within_a_tenth_of_the_servers_limit(
  kind, allowed, retry_after, monkeypatch
):
  monkeypatch.setattr(rate_limit, "BACKOFF", 0.5)
  random.seed(3)
  late = [taken for at, taken in simulate(kind(allowed), 70, retry_after) if at > 10]
  assert 0.9 * allowed <= sum(late) / 60 <= 1.1 * allowed
  assert sum(not taken for taken in late) < 0.02 * len(late)


@pytest.mark.parametrize("allowed", [0.1, 0.64])
def test_a_limit_below_one_request_per_second_is_learned(allowed, monkeypatch):
  monkeypatch.setattr(rate_limit, "BACKOFF", 0.5)
  random.seed(3)
  late = [accepted for at, accepted in simulate(BucketServer(allowed, 1.0), 2000, None) if at > 400]
  assert 0.8 * allowed <= sum(late) / 1600
  assert sum(not accepted for accepted in late) < 0.25 * len(late)


def test_a_429_never_raises_the_rate():
  limiter, rates = rate_limit.AdaptiveLimiter(64, 0.0), []
  for k in range(30):
    limiter.on_send(1, 10.0 * k)
    limiter.on_done(0, 10.0 * k)
    limiter.on_accepted(10.0 * k, 10.0 * k)
    rate_limited(limiter, 10.0 * k + 5.0)
    rates.append(limiter.rate)
  assert rates == sorted(rates, reverse=True) and rates[-1] < 0.2


def test_the_gate_is_first_in_first_out_except_for_retries():
  async def scenario():
    limiter = rate_limit.AdaptiveLimiter(1, 0.0)
    gate, passed = rate_limit.Gate(limiter), []

    async def one(name, first=False):
      assert await gate.acquire(1, first=first)
      passed.append(name)

    tasks = [asyncio.create_task(one(name)) for name in "abc"]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(one("again", first=True)))
    for _ in range(4):
      await asyncio.sleep(0.001)
      gate.release(0)
    await asyncio.gather(*tasks)
    return passed

  assert asyncio.run(scenario()) == ["a", "again", "b", "c"]


def test_no_request_passes_a_closed_gate():
  async def scenario():
    gate = rate_limit.Gate(rate_limit.AdaptiveLimiter(1, 0.0))
    assert await gate.acquire(1)
    waiting = asyncio.create_task(gate.acquire(1))
    await asyncio.sleep(0)
    gate.close()
    gate.release(0)
    return await waiting, await gate.acquire(1)

  assert asyncio.run(scenario()) == (False, False)
