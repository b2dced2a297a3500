"""Row order: laws for any lengths, questions and sizes."""

import collections
import itertools
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from distill_jax.data import row_order
from distill_jax.data.batch_size import BatchSize

BUCKETS = (4, 8, 16)
rows = strategies.lists(
  strategies.tuples(strategies.integers(1, 20), strategies.integers(0, 6)), max_size=40
)
sizes = strategies.integers(1, 7)
seeds = strategies.integers(0, 2**31)
often = hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)


def batches_of(rows, batch: int, seed: int):
  lengths, questions = [n for n, _ in rows], [q for _, q in rows]
  return row_order.epoch_batches(
    lengths, questions, buckets=BUCKETS, size=BatchSize(batch), key=(seed, 0)
  )


def order_of(rows, batch: int, seed: int = 0, lengths_of=None):
  lengths, questions = lengths_of or (lambda epoch: [n for n, _ in rows]), [q for _, q in rows]
  return row_order.BatchOrder(
    lambda epoch: row_order.epoch_batches(
      lengths(epoch), questions, buckets=BUCKETS, size=BatchSize(batch), key=(seed, epoch)
    )
  )


@often
@hypothesis.given(rows, sizes, seeds)
def test_every_row_that_fits_occurs_once_per_epoch(rows, batch, seed):
  seen = [n for _, numbers in batches_of(rows, batch, seed) for n in numbers]
  assert sorted(seen) == [n for n, (length, _) in enumerate(rows) if length <= 16]


@often
@hypothesis.given(rows, sizes, seeds)
def test_a_batch_is_not_too_large_its_rows_fit_and_its_questions_differ(rows, batch, seed):
  for bucket, numbers in batches_of(rows, batch, seed):
    assert bucket in BUCKETS and 1 <= len(numbers) <= batch
    assert all(rows[n][0] <= bucket for n in numbers)
    assert len({rows[n][1] for n in numbers}) == len(numbers)


@often
@hypothesis.given(strategies.lists(strategies.integers(1, 16), max_size=60), sizes, seeds)
def test_if_all_questions_differ_at_most_one_batch_is_incomplete(lengths, batch, seed):
  out = batches_of([(length, n) for n, length in enumerate(lengths)], batch, seed)
  assert sum(len(numbers) < batch for _, numbers in out) <= 1


@often
@hypothesis.given(rows, strategies.integers(1, 64), seeds)
def test_a_batch_of_tokens_has_no_more_tokens_unless_it_is_one_row(rows, tokens, seed):
  lengths, questions = [n for n, _ in rows], [q for _, q in rows]
  size = BatchSize(tokens=tokens)
  out = row_order.epoch_batches(lengths, questions, buckets=BUCKETS, size=size, key=(seed, 0))
  assert all(len(some) * bucket <= tokens or len(some) == 1 for bucket, some in out)
  fit = [n for n, length in enumerate(lengths) if length <= 16]
  assert sorted(n for _, some in out for n in some) == fit


@often
@hypothesis.given(rows, sizes, seeds)
def test_no_bucket_is_longer_than_the_longest_row_needs(rows, batch, seed):
  needed = [row_order.bucket_of(length, BUCKETS) for length, _ in rows if length <= 16]
  assert all(bucket <= max(needed) for bucket, _ in batches_of(rows, batch, seed))


def some_rows(number: int = 50):
  rng = np.random.Generator(np.random.PCG64(0))
  return [(int(rng.integers(1, 17)), int(rng.integers(0, 30))) for _ in range(number)]


def test_steps_run_through_the_epochs_in_order():
  one = order_of(some_rows(), 4)
  walked = [(e, *rest) for e in range(3) for rest in one.epoch(e)]
  assert [one[n] for n in range(len(walked))] == walked
  assert [epoch for epoch, _, _ in walked] == sorted(epoch for epoch, _, _ in walked)


def test_the_order_is_a_pure_function_of_seed_and_step():
  """A fresh order read in random order equals one that is read step by step."""
  rows = some_rows()
  one = order_of(rows, 4)
  walked = [one[n] for n in range(45)]
  for n in (44, 3, 17, 0, 30):
    assert order_of(rows, 4)[n] == walked[n]
  assert order_of(rows, 4, seed=1)[0] != walked[0]


def test_epochs_differ_and_so_do_seeds():
  one, other = order_of(some_rows(), 4), order_of(some_rows(), 4, seed=1)
  assert one.epoch(0) != one.epoch(1) and one.epoch(0) != other.epoch(0)


def test_long_and_short_batches_are_mixed():
  buckets = [bucket for bucket, _ in order_of(some_rows(400), 4).epoch(0)]
  runs = sum(a != b for a, b in itertools.pairwise(buckets))
  assert runs > len(buckets) / 4


def test_rows_left_over_in_a_short_bucket_move_up_to_a_longer_one():
  """Three rows of 4, three of 8, two of 16, in batches of 4: two full batches."""
  rows = [(length, n) for n, length in enumerate([4] * 3 + [8] * 3 + [16] * 2)]
  out = batches_of(rows, 4, 0)
  assert sorted((bucket, len(numbers)) for bucket, numbers in out) == [(8, 4), (16, 4)]
  assert collections.Counter(n for _, numbers in out for n in numbers) == dict.fromkeys(range(8), 1)


def test_a_single_question_gives_batches_of_one():
  assert [len(numbers) for _, numbers in batches_of([(3, 7)] * 5, 4, 0)] == [1] * 5


def test_each_epoch_uses_its_own_lengths():
  one = order_of([(0, n) for n in range(8)], 4, lengths_of=lambda epoch: [3 + 4 * epoch] * 8)
  assert [one[n][:2] for n in range(4)] == [(0, 4), (0, 4), (1, 8), (1, 8)]


@pytest.mark.parametrize("rows", [[], [(17, 0), (99, 1)]])
def test_an_empty_order_has_no_step(rows):
  assert batches_of(rows, 4, 0) == []
  with pytest.raises(ValueError, match="no row"):
    order_of(rows, 4)[0]


def test_a_bucket_holds_rows_up_to_its_own_length():
  assert [row_order.bucket_of(n, BUCKETS) for n in (1, 4, 5, 16, 17)] == [4, 4, 8, 16, None]


stages = strategies.lists(strategies.integers(1, 30), min_size=1, max_size=4)


def of_stages(counts):
  return [[(stage, n) for n in range(count)] for stage, count in enumerate(counts)]


@often
@hypothesis.given(stages, sizes)
def test_interleaving_keeps_every_batch_once_and_each_stage_in_order(counts, interval):
  out = row_order.interleave(of_stages(counts), interval=interval)
  for stage, batches in enumerate(of_stages(counts)):
    assert [b for b in out if b[0] == stage] == batches
  assert len(out) == sum(counts)


def runs(batches) -> list[tuple[int, int]]:
  """(stage, number of consecutive batches), in order."""
  return [(stage, len([*some])) for stage, some in itertools.groupby(s for s, _ in batches)]


def test_a_stage_with_k_times_the_batches_has_k_times_the_interval():
  """Two batches of recall, four times as many of analyze, two of summarize, and so on."""
  out = row_order.interleave(of_stages((6, 24, 6)), interval=2)
  assert runs(out) == [(0, 2), (1, 8), (2, 2)] * 3


@often
@hypothesis.given(strategies.integers(1, 9), strategies.integers(1, 5), sizes)
def test_stages_of_proportional_size_all_last_to_the_end(least, times, interval):
  out = row_order.interleave(of_stages((least, times * least)), interval=interval)
  rounds = math.ceil(least / interval)
  assert [stage for stage, _ in runs(out)] == [0, 1] * rounds


def test_after_a_stage_ends_the_others_continue():
  assert runs(row_order.interleave(of_stages((2, 3)), interval=1)) == [
    (0, 1),
    (1, 2),
    (0, 1),
    (1, 1),
  ]
  assert row_order.interleave(of_stages((0, 2)), interval=1) == [(1, 0), (1, 1)]
  assert row_order.interleave([], interval=1) == []


def test_interleaving_does_not_change_its_arguments():
  given = of_stages((2, 4))
  row_order.interleave(given, interval=1)
  assert given == of_stages((2, 4))
