"""Packing: laws for any sizes and questions."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from distill_jax import settings
from distill_jax.data import batches, collate, encode, pack
from distill_jax.data.batch_size import BatchSize

often = hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
ROOM = pack.RowSize(tokens=20, source=20, targets=12, triplets=2, pairs=1)
one_size = strategies.tuples(*(strategies.integers(0, n) for n in ROOM))
some_sizes = strategies.lists(strategies.tuples(one_size, strategies.integers(0, 6)), max_size=40)
numbers = strategies.integers(1, 5)
seeds = strategies.integers(0, 2**31)

SFT = settings.Sft(prompt_weight=0.1, denominator="weights")
TRIPLET = settings.Triplet(margin=1.0, pool="mean", detach_prompt=True, max_response=9)
COLLATORS = {
  "triplets": collate.SupervisedCollator(SFT, TRIPLET, with_triplets=True),
  "plain": collate.SupervisedCollator(SFT, TRIPLET, with_triplets=False),
  "encoder-decoder": collate.SupervisedCollator(
    settings.Sft(prompt_weight=0.0, denominator="weights"), TRIPLET, with_triplets=True, start=0
  ),
  "preferences": collate.PreferenceCollator(),
}
every_collator = pytest.mark.parametrize("name", COLLATORS)


def examples(name: str, number: int = 90, seed: int = 0):
  """Example n has the prompt (100 + n,) * k, which identifies it in a row."""
  draw = np.random.Generator(np.random.PCG64(seed))
  text = lambda: (*draw.integers(2, 99, draw.integers(1, 12)).tolist(), 1)
  several = lambda n: tuple(text() for _ in range(3)) if n % 3 else ()
  out = []
  for n in range(number):
    question, prompt = f"q{n // 2}", (100 + n,) * int(draw.integers(1, 9))
    if name == "preferences":
      out.append(encode.EncodedPair(question, prompt, text(), text(), references=(-1.0 * n, -2.0)))
    else:
      out.append(encode.EncodedExample(question, prompt, text(), several(n), several(n)))
  return out


def corpus(name: str, *, packed: bool = True, batch: int = 3, seed: int = 0, buckets=(64, 80)):
  return batches.Corpus(
    examples(name),
    COLLATORS[name],
    size=BatchSize(batch),
    buckets=buckets,
    seed=seed,
    pad=0,
    packed=packed,
  )


def epoch(one) -> list[dict]:
  return [one.batch(n) for n in range(len(one.batch_order.epoch(0)))]


def in_row(out, row: int) -> list[int]:
  """The examples of a row, identified by their prompts."""
  read = out["source"] if "source" in out else out["tokens"]
  return np.unique(read[row][read[row] >= 100] - 100).tolist()


@often
@hypothesis.given(some_sizes, numbers, seeds)
def test_every_example_occurs_once_no_row_overflows_and_a_batchs_questions_differ(
  some, batch, seed
):
  sizes, questions = [s for s, _ in some], [q for _, q in some]
  out = pack.epoch_batches(sizes, questions, room=ROOM, batch=batch, key=(seed, 0))
  flat = [n for rows in out for row in rows for n in row]
  assert sorted(flat) == list(range(len(some)))
  for rows in out:
    assert 1 <= len(rows) <= batch and all(rows)
    for row in rows:
      assert (np.sum([sizes[n] for n in row], axis=0) <= ROOM).all()
    of = [questions[n] for row in rows for n in row]
    assert len(set(of)) == len(of)


def test_an_example_larger_than_a_row_is_rejected():
  for n in range(len(ROOM)):
    large = tuple(room + (k == n) for k, room in enumerate(ROOM))
    with pytest.raises(ValueError, match="fit"):
      pack.epoch_batches([large], ["q"], room=ROOM, batch=2, key=0)


def test_rows_are_nearly_full():
  """If only length matters, rows are at least 95 % full."""
  draw = np.random.Generator(np.random.PCG64(0))
  sizes = [(int(n), 0, 1, 0, 0) for n in draw.integers(10, 200, 2000)]
  room = pack.RowSize(512, 512, 512, 0, 0)
  out = pack.epoch_batches(sizes, range(2000), room=room, batch=8, key=0)
  used = sum(n for n, *_ in sizes) / (512 * 8 * len(out))
  assert used > 0.95


@every_collator
def test_a_packed_epoch_holds_every_example_once(name):
  one = corpus(name)
  got = [n for out in epoch(one) for row in range(3) for n in in_row(out, row)]
  assert sorted(got) == list(range(90))
  assert max(len(in_row(out, row)) for out in epoch(one) for row in range(3)) > 1


@every_collator
def test_shapes_are_the_same_in_all_of_50_steps(name):
  one = corpus(name)
  shapes = lambda out: {key: (value.shape, value.dtype) for key, value in out.items()}
  first = shapes(one.batch(0))
  assert len(one.batch_order.epoch(0)) < 25, "otherwise this test sees one epoch only"
  assert all(shapes(one.batch(n)) == first for n in range(50))


@every_collator
def test_the_packed_batch_is_a_pure_function_of_seed_and_step(name):
  one = corpus(name)
  walked = [one.batch(n) for n in range(45)]
  for n in (44, 3, 17, 0):
    fresh = corpus(name).batch(n)
    for key in fresh:
      np.testing.assert_array_equal(fresh[key], walked[n][key], key)
  assert (corpus(name, seed=1).batch(0)["tokens"] != walked[0]["tokens"]).any()


@every_collator
def test_an_epoch_adds_up_to_the_same_denominators_packed_or_not(name):
  keys = {"denominator", "valid", "pairs", "weights"}
  sums = lambda one: {
    key: sum(float(out[key].sum()) for out in epoch(one)) for key in keys & one.batch(0).keys()
  }
  packed, apart = sums(corpus(name)), sums(corpus(name, packed=False))
  assert packed == pytest.approx(apart, rel=1e-6) and packed["denominator"] > 0
  assert corpus(name).lost_triplets == corpus(name, packed=False).lost_triplets


@every_collator
def test_a_packed_row_is_its_examples_one_after_the_other(name):
  collator, rng = COLLATORS[name], np.random.Generator(np.random.PCG64(0))
  rows = [collator.row(x, rng, 99) for x in examples(name, 7)]
  packed = pack.join_rows(rows)
  assert packed.denominator == pytest.approx(sum(row.denominator for row in rows))
  start = targets = source = above = triplets = pairs = 0
  for row in rows:
    span = slice(start, start + len(row.tokens))
    for name in ("tokens", "positions", "detached", "shares"):
      assert getattr(packed, name)[span] == getattr(row, name)
    assert [s - above for s in packed.segments[span]] == row.segments
    assert [s - above for s in packed.roots[span]] == row.roots
    assert [max(s - 3 * triplets, 0) for s in packed.slots[span]] == row.slots
    mine = slice(targets, targets + len(row.where))
    assert [w - start for w in packed.where[mine]] == row.where
    assert packed.labels[mine] == row.labels and packed.weights[mine] == row.weights
    assert [o - 2 * pairs for o in packed.owners[mine]] == row.owners
    read = slice(source, source + len(row.source))
    assert packed.source[read] == row.source
    assert [s - above for s in packed.source_segments[read]] == row.source_segments
    start, targets, source = span.stop, mine.stop, read.stop
    above, triplets, pairs = (
      max(packed.segments[span]),
      triplets + row.triplets,
      pairs + row.pairs,
    )
  assert (triplets, pairs) == (packed.triplets, packed.pairs)
  assert (
    start == len(packed.tokens) and targets == len(packed.where) and source == len(packed.source)
  )


def test_targets_have_room_for_the_widest_and_for_little_more_than_their_average():
  """Then the output head does not run over prompts."""
  collator = COLLATORS["plain"]
  rows = [
    collator.plain_row(encode.EncodedExample(f"q{n}", (9,) * 90, (5,) * 10)) for n in range(50)
  ]
  for row in rows:
    row.where = row.where[-10:]
  shared = pack.capacity(rows, 1000, packed=True, with_triplets=True)
  assert shared == pack.RowSize(1000, 1000, 128, 4, 0)  # 1.15 * 100, rounded up to 32s
  rows.append(collator.plain_row(encode.EncodedExample("wide", (9,), (5,) * 200)))
  assert pack.capacity(rows, 1000, packed=True, with_triplets=True).targets == 224
  assert pack.capacity(rows, 1000, packed=False, with_triplets=True) == pack.RowSize(
    1000, 1000, 224, 1, 0
  )
