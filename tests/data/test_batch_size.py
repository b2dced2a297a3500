"""The rows of a batch: as many as are set, or as many as a number of tokens holds."""

import hypothesis
from hypothesis import strategies

from distill_jax.data.batch_size import BatchSize

often = hypothesis.settings(max_examples=100, deadline=None, derandomize=True, database=None)
counts, lengths = strategies.integers(1, 64), strategies.integers(1, 3000)
multiples = strategies.integers(1, 8)


def test_a_number_of_rows_holds_for_every_length():
  size = BatchSize(8, multiple=4)
  assert [size.complete(length) for length in (1, 64, 4096)] == [8, 8, 8]


@often
@hypothesis.given(strategies.integers(1, 10_000), lengths, multiples)
def test_tokens_allow_as_many_rows_as_fit_but_one_for_each_device_at_least(
  tokens, length, multiple
):
  rows = BatchSize(tokens=tokens, multiple=multiple).complete(length)
  assert rows % multiple == 0 and rows >= multiple
  assert rows * length <= tokens or rows == multiple
  assert (rows + multiple) * length > tokens, "another one would fit"


def test_long_rows_are_fewer():
  size = BatchSize(tokens=2048, multiple=2)
  assert [size.complete(length) for length in (64, 160, 700, 4096)] == [32, 12, 2, 2]


@often
@hypothesis.given(counts, lengths, multiples, strategies.booleans())
def test_arrays_hold_the_rows_of_a_batch_and_only_incomplete_ones_are_smaller(
  count, length, multiple, shrinks
):
  size = BatchSize(tokens=64 * 3000, multiple=multiple, shrinks=shrinks)
  complete = size.complete(length)
  rows = size.allocated(min(count, complete), length)
  assert min(count, complete) <= rows <= complete and rows % multiple == 0
  assert size.allocated(complete, length) == complete
  if not shrinks:
    assert rows == complete


def test_shrinking_leaves_few_shapes_and_at_most_half_of_them_empty():
  size = BatchSize(24, multiple=2, shrinks=True)
  assert [size.allocated(n, 64) for n in (1, 2, 3, 4, 5, 6, 7, 12, 13, 24)] == [
    *(2, 2, 4, 4, 6, 6, 12, 12, 24, 24)
  ]
  assert BatchSize(6, multiple=4, shrinks=True).allocated(1, 64) == 4
