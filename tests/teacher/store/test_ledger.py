"""What the teacher cost: prices, sums, caps, coverage; and how fast what was paid for is found."""

import asyncio
import time
import types

import pytest
from scripted import ask, wanted

from distill_jax import errors
from distill_jax.teacher import reply_rate
from distill_jax.teacher import types as asking
from distill_jax.teacher.store import cache, ledger


def prices(cached):
  return types.SimpleNamespace(input=2.0, output=8.0, cached=cached)


@pytest.mark.parametrize("cached, expected", [(-1.0, 2.0), (0.0, 0.8), (0.5, 1.1)])
def test_cached_tokens_have_their_own_price(cached, expected):
  million = ledger.dollars(prices(cached), 1_000_000, 0, 600_000)
  assert million == pytest.approx(expected)
  assert ledger.dollars(prices(cached), 10, 20) == pytest.approx((20 + 160) / 1e6)


def test_sums_of_phases_are_those_of_rounds_and_those_of_rounds_are_the_runs(tmp_path):
  store = cache.ReplyCache(tmp_path / "teacher.sqlite")
  book = ledger.RunLedger(store, "r")
  for n, (round_, phase) in enumerate([(0, "a"), (0, "b"), (1, "a")]):
    place = cache.RunPhase("r", round_, phase)
    made = asking.Reply("x", "stop", "m", 10 + n, 5, 0.5, False, 3, 2)
    lost = asking.Failure("length", "cut", 1, 7, 4, 0.25, 200, "id", 1, 1)
    store.store_many([("{}", {(0, f"k{n}"): made}, place), ("{}", {(0, f"f{n}"): lost}, place)])
    store.record_sent(place, 3, 1)
  store.store("{}", {(0, "k9"): made}, cache.RunPhase("another", 0, "a"))
  for name in ("calls", "retries", "failures", "tokens_in", "tokens_cached", "tokens_reasoning",
               "tokens_out", "dollars"):  # fmt: skip
    of = lambda *place, name=name: getattr(book.of(*place), name)
    assert of(0) == of(0, "a") + of(0, "b") and getattr(book.total(), name) == of(0) + of(1)
  assert (book.total().calls, book.total().tokens_cached, book.requests_sent()) == (3, 12, 9)
  store.close()


def test_a_cap_counts_what_failures_cost_before_they_were_asked_again(tmp_path):
  store = cache.ReplyCache(tmp_path / "teacher.sqlite")
  place = cache.RunPhase("r", 0, "a")
  store.store("{}", {(0, "k"): asking.Failure("length", "cut", 1, 7, 4, 0.75)}, place)
  store.reset_failures("r", ())
  spent = ledger.RunLedger(store, "r").total().dollars
  budget = ledger.Budget(spent=spent, requests=0, max_dollars=1.0, max_requests=9)
  with pytest.raises(errors.UserError, match=r"\$0\.7500 of \$1\.0000 are spent"):
    asyncio.run(budget.reserve(0.3))
  store.close()


def test_what_is_stored_is_found_five_thousand_times_a_second(serve, connect):
  server = serve()
  requests = wanted(1500, samples=4)
  ask(connect(server.url, max_concurrency=64, max_requests=10**6), requests)
  sent = server.stats.requests
  teacher, begun = connect(server.url), time.process_time()
  replies = ask(teacher, requests)
  seconds = time.process_time() - begun  # of this process: others may be busy
  assert sum(map(len, replies)) == 6000 and server.stats.requests == sent
  assert 6000 / seconds >= 5000


def outcomes(replies, **failures):
  made = [asking.Reply("x", "stop", "m", 1, 1, 0.0, False)] * replies
  return made + [asking.Failure(k, f"why {k}", 1) for k, n in failures.items() for _ in range(n)]


def checked(found, least):
  reply_rate.check(found, least, round=1, phase="1_feedback", workdir="runs/x")


def test_half_of_the_samples_is_enough_where_half_is_wanted():
  checked(outcomes(5, refusal=5), 0.5)
  checked([], 1.0)
  checked(outcomes(0, gave_up=3), 0.0)


def test_too_few_replies_are_told_with_why_and_what_to_type():
  found = outcomes(3, refusal=4, gave_up=2, filtered=1)
  with pytest.raises(errors.UserError, match="3 of the 10 samples of round 1 1_feed") as refusal:
    checked(found, 0.5)
  said = str(refusal.value)
  assert refusal.value.code == errors.TEACHER and "4 refusal (why refusal), 2 gave_up" in said
  assert "--retry_failed" in said and "min_reply_rate=0.3" in said and "--failures" in said
  with pytest.raises(errors.UserError) as refusal:
    checked(outcomes(0, gave_up=2), 0.5)  # these are asked again anyway
  assert "--retry_failed" not in str(refusal.value)


def test_a_share_that_is_exactly_what_is_wanted_is_enough():
  for came in range(101):
    checked(outcomes(came, refusal=100 - came), came / 100)
