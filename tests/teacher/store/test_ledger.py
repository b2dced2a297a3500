"""Costs of the teacher: prices, sums, caps, reply rate; and how fast stored replies are found."""

import asyncio
import time

import pytest
from scripted import ask, wanted

from distill_jax import errors, settings
from distill_jax.teacher import reply_rate, types
from distill_jax.teacher.store import cache, ledger


def prices(cached):
  return settings.Prices(input=2.0, output=8.0, cached=cached)


@pytest.mark.parametrize("cached, expected", [(-1.0, 2.0), (0.0, 0.8), (0.5, 1.1)])
def test_cached_tokens_have_their_own_price(cached, expected):
  million = ledger.dollars(prices(cached), 1_000_000, 0, 600_000)
  assert million == pytest.approx(expected)
  assert ledger.dollars(prices(cached), 10, 20) == pytest.approx((20 + 160) / 1e6)


def test_phases_add_up_to_their_round_and_rounds_to_the_run(tmp_path):
  store = cache.ReplyCache(tmp_path / "teacher.sqlite")
  run_ledger = ledger.RunLedger(store, "r")
  for n, (round_index, phase) in enumerate([(0, "a"), (0, "b"), (1, "a")]):
    run_phase = cache.RunPhase("r", round_index, phase)
    made = types.Reply("x", "stop", "m", 10 + n, 5, 0.5, False, 3, 2)
    lost = types.Failure("length", "cut", 1, 7, 4, 0.25, 200, "id", 1, 1)
    store.store_many(
      [("{}", {(0, f"k{n}"): made}, run_phase), ("{}", {(0, f"f{n}"): lost}, run_phase)]
    )
    store.record_sent(run_phase, 3, 1)
  store.store("{}", {(0, "k9"): made}, cache.RunPhase("another", 0, "a"))
  for name in ("calls", "retries", "failures", "tokens_in", "tokens_cached", "tokens_reasoning",
               "tokens_out", "dollars"):  # fmt: skip
    of = lambda *place, name=name: getattr(run_ledger.of(*place), name)
    assert of(0) == of(0, "a") + of(0, "b") and getattr(run_ledger.total(), name) == of(0) + of(1)
  assert (
    run_ledger.total().calls,
    run_ledger.total().tokens_cached,
    run_ledger.requests_sent(),
  ) == (3, 12, 9)
  store.close()


def test_a_cap_counts_the_cost_of_failures_that_were_reset(tmp_path):
  store = cache.ReplyCache(tmp_path / "teacher.sqlite")
  failure = types.Failure("length", "cut", 1, 7, 4, 0.75)
  store.store("{}", {(0, "k"): failure}, cache.RunPhase("r", 0, "a"))
  store.reset_failures("r", ())
  spent = ledger.RunLedger(store, "r").total().dollars
  budget = ledger.Budget(spent=spent, requests=0, max_dollars=1.0, max_requests=9)
  with pytest.raises(errors.UserError, match=r"\$0\.7500 of \$1\.0000 are spent"):
    asyncio.run(budget.reserve(0.3))
  store.close()


def test_five_thousand_stored_replies_are_found_per_second(serve, connect):
  server = serve()
  requests = wanted(1500, samples=4)
  ask(connect(server.url, max_concurrency=64, max_requests=10**6), requests)
  sent, seconds = server.stats.requests, []
  for _ in range(3):  # the best: the garbage of earlier tests may be collected meanwhile
    teacher, begun = connect(server.url), time.process_time()
    replies = ask(teacher, requests)
    seconds.append(time.process_time() - begun)  # CPU time: other processes may be busy
    assert sum(map(len, replies)) == 6000 and server.stats.requests == sent
  assert 6000 / min(seconds) >= 5000


def outcomes(replies, **failures):
  made = [types.Reply("x", "stop", "m", 1, 1, 0.0, False)] * replies
  return made + [types.Failure(k, f"why {k}", 1) for k, n in failures.items() for _ in range(n)]


def checked(found, least):
  reply_rate.check(found, least, round=1, phase="1_feedback", workdir="runs/x")


def test_half_of_the_samples_is_enough_if_half_is_required():
  checked(outcomes(5, refusal=5), 0.5)
  checked([], 1.0)
  checked(outcomes(0, gave_up=3), 0.0)


def test_too_few_replies_are_an_error_with_the_reasons_and_what_to_type():
  found = outcomes(3, refusal=4, gave_up=2, filtered=1)
  with pytest.raises(errors.UserError, match="3 of the 10 samples of round 1 1_feed") as error:
    checked(found, 0.5)
  said = str(error.value)
  assert error.value.code == errors.TEACHER and "4 refusal (why refusal), 2 gave_up" in said
  assert "--retry_failed" in said and "min_reply_rate=0.3" in said and "--failures" in said
  with pytest.raises(errors.UserError) as error:
    checked(outcomes(0, gave_up=2), 0.5)  # these are requested again anyway
  assert "--retry_failed" not in str(error.value)


def test_exactly_the_required_share_is_enough():
  for came in range(101):
    checked(outcomes(came, refusal=100 - came), came / 100)
