"""Batches: the arrays of each step."""

import dataclasses

import numpy as np
import pytest

from distill_jax import settings
from distill_jax.data import batches, collate, encode
from distill_jax.data.batch_size import BatchSize

SFT = settings.Sft(prompt_weight=0.0, denominator="weights")
TRIPLET = settings.Triplet(margin=1.0, pool="last", detach_prompt=False, max_response=99)


def examples(number: int = 30):
  """Tokens that encode question and role: 100s targets, 200s positives, 300s negatives."""
  rng = np.random.Generator(np.random.PCG64(0))
  several = lambda first, n: tuple((first + k, 50 + n, 1) for k in range(4))
  out = []
  for n in range(number):
    prompt = tuple([50 + n] * int(rng.integers(1, 9)))
    target = (100, 50 + n, 1)
    has_triplet = n % 3 > 0
    out.append(
      encode.EncodedExample(
        f"q{n}",
        prompt,
        target,
        (target, *several(200, n)) if has_triplet else (),
        several(300, n) if has_triplet else (),
      )
    )
  return out


def corpus(
  some=None,
  *,
  batch=4,
  size=None,
  buckets=(12, 24),
  seed=0,
  with_triplets=True,
  packed=False,
  start=None,
  interval=0,
  **triplet,
):
  kind = collate.SupervisedCollator(
    SFT, dataclasses.replace(TRIPLET, **triplet), with_triplets=with_triplets, start=start
  )
  some = examples() if some is None else some
  return batches.Corpus(
    some,
    kind,
    size=size or BatchSize(batch),
    buckets=buckets,
    seed=seed,
    pad=0,
    packed=packed,
    interval=interval,
  )


def assert_equal(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], name)


def branch(arrays, row: int, segment: int) -> list[int]:
  return arrays["tokens"][row][arrays["segments"][row] == segment].tolist()


def test_a_triplet_that_does_not_fit_is_left_out_and_counted():
  assert sum_of_valid(corpus(buckets=(24,))) > 0
  tight = corpus(buckets=(11,))
  tight.batch(0)
  roomy = corpus(buckets=(24,))
  roomy.batch(0)
  assert roomy.lost_triplets == 0 < tight.lost_triplets
  assert tight.too_long == 0


def sum_of_valid(some) -> float:
  return sum(some.batch(n)["valid"].sum() for n in range(8))


def test_steps_read_in_random_order_equal_steps_read_in_order():
  one = corpus()
  walked = [one.batch(n) for n in range(30)]
  for n in (29, 2, 15, 0):
    assert_equal(corpus().batch(n), walked[n])
  again = corpus()
  for n in (29, 2, 15, 0):  # back over an epoch boundary
    assert_equal(again.batch(n), walked[n])


def test_another_seed_gives_other_rows():
  first = lambda seed: corpus(seed=seed, buckets=(24,)).batch(0)["tokens"]
  assert (first(0) != first(1)).any()


def test_rows_fit_their_bucket_and_are_padded_on_the_right():
  one = corpus()
  lengths = set()
  for n in range(30):
    out = one.batch(n)
    length = out["tokens"].shape[1]
    lengths.add(length)
    assert length in (12, 24) and out["valid"].shape == (4, 1)
    used = out["segments"] > 0
    assert (out["tokens"][~used] == 0).all() and (out["tokens"][used] > 0).all()
    assert (np.diff(used.astype(int), axis=1) <= 0).all()
    np.testing.assert_array_equal(out["roots"], used * encode.PROMPT)
  assert lengths == {12, 24}


def test_targets_have_the_same_width_in_every_batch_of_a_bucket():
  """Then a bucket has one shape and compiles once."""
  one = corpus(buckets=(12, 24, 64))
  shapes = {(b["tokens"].shape[1], b["where"].shape[1]) for b in map(one.batch, range(40))}
  assert len(shapes) == len({length for length, _ in shapes})


def test_the_positive_differs_from_the_target_and_negatives_are_the_questions_own():
  one, seen = corpus(), set()
  for n in range(60):
    out = one.batch(n)
    for row in np.flatnonzero(out["valid"][:, 0]):
      target, positive, negative = (branch(out, row, s) for s in (2, 3, 4))
      assert target[0] == 100 and positive[0] in range(200, 204) and negative[0] in range(300, 304)
      assert target[1] == positive[1] == negative[1] == branch(out, row, 1)[0]
      seen |= {positive[0], negative[0]}
  assert seen == {*range(200, 204), *range(300, 304)}, "all are drawn eventually"


def test_triplets_are_drawn_anew_in_each_epoch():
  one = corpus()
  first = [r.tokens for r in one._epoch_rows(0)]
  assert first != [r.tokens for r in one._epoch_rows(1)]
  assert first == [r.tokens for r in one._epoch_rows(0)]


def test_a_row_without_a_distinct_positive_or_without_a_negative_has_no_triplet():
  target, other = (100, 1), (200, 1)
  some = [
    encode.EncodedExample("a", (9,), target, (target,), (other,)),
    encode.EncodedExample("b", (9,), target, (other,), ()),
    encode.EncodedExample("c", (9,), target),
    encode.EncodedExample("d", (9,), target, (target, other), (other,)),
  ]
  out = corpus(some).batch(0)
  assert out["valid"].sum() == 1
  np.testing.assert_array_equal(out["shares"].sum(axis=1), 3 * out["valid"][:, 0])
  assert (out["denominator"] == 2).all()


def test_examples_too_long_for_every_bucket_are_counted_and_left_out():
  long = encode.EncodedExample("long", (9,) * 20, (100,) * 4 + (1,))
  fits = encode.EncodedExample("fits", (9,) * 20, (100,) * 3 + (1,))
  one = corpus([*examples(3), long, fits])
  assert one.too_long == 1 and [x.problem for x in one.examples] == ["q0", "q1", "q2", "fits"]


def test_a_tree_too_long_for_every_bucket_is_trained_without_its_triplet():
  wide = encode.EncodedExample("wide", (9,) * 18, (100, 1), ((200, 1),), ((300, 1),))
  wider = encode.EncodedExample("wider", (9,) * 19, (100, 1), ((200, 1),), ((300, 1),))
  out = corpus([wide, wider], batch=2)
  made = [out.batch(n) for n in range(len(out.batch_order.epoch(0)))]
  by_row = {int((b["segments"][r] == 1).sum()): b["valid"][r] for b in made for r in range(2)}
  assert by_row[18] == 1 and by_row[19] == 0 and out.too_long == 0


def test_rows_missing_from_a_batch_have_no_weight():
  out = corpus(examples(3), batch=8).batch(0)
  for name in ("weights", "denominator", "valid", "slots", "shares", "segments"):
    assert (out[name][3:] == 0).all(), name
  assert (out["denominator"][:3] > 0).all()


@pytest.mark.parametrize("packed", [False, True])
def test_an_incomplete_batch_that_shrinks_loses_only_rows_without_weight(packed):
  size = BatchSize(8, shrinks=True)
  whole = corpus(examples(18), batch=8, packed=packed)
  shrunk = corpus(examples(18), size=size, packed=packed)
  rows = set()
  for step in range(len(whole.batch_order.epoch(0))):
    all_rows, fewer = whole.batch(step), shrunk.batch(step)
    count = len(fewer["tokens"])
    rows.add(count)
    assert fewer["tokens"].shape == shrunk.shape(step)
    assert_equal(fewer, {name: array[:count] for name, array in all_rows.items()})
    assert not any(all_rows[name][count:].any() for name in ("weights", "denominator", "valid"))
  assert max(rows) == 8 and min(rows) < 8, rows


@pytest.mark.parametrize("packed", [False, True])
def test_a_batch_of_tokens_has_more_rows_where_they_are_short(packed):
  one = corpus(examples(60), size=BatchSize(tokens=96), packed=packed)
  steps = range(len(one.batch_order.epoch(0)))
  shapes = {one.batch(step)["tokens"].shape for step in steps}
  assert shapes == ({(4, 24)} if packed else {(8, 12), (4, 24)})
  trained = [n for step in steps for row in one.batch_order[step][2] for n in row]
  assert sorted(trained) == list(range(60))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("pool", ["last", "mean"])
def test_pooling_weights_sum_to_one_over_their_own_response(pool, packed):
  out = corpus(pool=pool, packed=packed).batch(1)
  for row, triplet in np.argwhere(out["valid"]):
    for branch in range(3):
      inside = out["slots"][row] == 1 + 3 * triplet + branch
      np.testing.assert_allclose(out["shares"][row][inside].sum(), 1, rtol=1e-6)
      segment = set(out["segments"][row][inside])
      assert len(segment) == 1
      assert inside.sum() == (1 if pool == "last" else (out["segments"][row] == [*segment]).sum())
  assert (out["shares"][out["slots"] == 0] == 0).all()
  assert out["slots"].max() <= 3 * out["valid"].shape[1]


def test_without_triplets_no_row_is_a_tree():
  """Then an example is one segment, and attention can use its faster paths."""
  out, trees = corpus(with_triplets=False).batch(0), corpus().batch(0)
  assert trees.keys() - out.keys() == {"roots", "detached", "slots", "shares", "valid"}
  for n in range(20):
    got = corpus(with_triplets=False).batch(n)
    assert set(np.unique(got["segments"])) <= {0, 1}


def test_with_a_start_token_the_longer_of_source_and_target_decides_the_bucket():
  """Source 20 and target 4 need the bucket of 24, and so do source 4 and target 20."""
  long, short = (9,) * 20, (9,) * 4
  some = [encode.EncodedExample("a", long, short), encode.EncodedExample("b", short, long)]
  some += [encode.EncodedExample("c", short, short), encode.EncodedExample("d", (9,) * 25, short)]
  one = corpus(some, batch=1, with_triplets=False, start=7)
  assert one.too_long == 1
  by_bucket = {}
  for n in range(3):
    out = one.batch(n)
    assert out["source"].shape == out["source_segments"].shape == out["tokens"].shape
    assert out["tokens"][0, 0] == 7 and out["where"][0, 0] == 0
    np.testing.assert_array_equal(out["source_segments"] > 0, out["source"] > 0)
    by_bucket.setdefault(out["tokens"].shape[1], []).append(n)
  assert {bucket: len(n) for bucket, n in by_bucket.items()} == {12: 1, 24: 2}
  assert "source" not in corpus(some, with_triplets=False).batch(0)


def test_preference_rows_carry_their_references_and_have_no_triplet():
  some = [
    encode.EncodedPair(f"q{n}", (9,) * (n + 1), (20 + n, 1), (30, 30 + n, 1), (-1.0 * n, -2.0 * n))
    for n in range(5)
  ]
  one = batches.Corpus(
    some,
    collate.PreferenceCollator(),
    size=BatchSize(8),
    buckets=(16,),
    seed=0,
    pad=0,
    packed=False,
  )
  out = one.batch(0)
  assert not {"slots", "shares", "valid", "source"} & out.keys() and one.lost_triplets == 0
  np.testing.assert_array_equal(out["pairs"], np.float32([[1]] * 5 + [[0]] * 3))
  for row in range(5):
    n = (out["segments"][row] == encode.PROMPT).sum() - 1
    np.testing.assert_array_equal(out["references"][row], [-n, -2 * n])
    real = out["weights"][row] > 0
    for owner, side in enumerate(([20 + n, 1], [30, 30 + n, 1])):
      assert out["labels"][row][real & (out["owners"][row] == owner)].tolist() == side


def test_an_empty_corpus_has_no_step():
  one = corpus([])
  assert one.examples == [] and one.too_long == 0
  with pytest.raises(ValueError, match="no row"):
    one.batch(0)


STAGES = ("recall", "analyze", "summarize")


def staged(number: int = 12, options: int = 3):
  """Questions with a recall, an analysis per option and a summary; the target encodes which."""
  shape = {"recall": 1, "analyze": options, "summarize": 1}
  return [
    encode.EncodedExample(f"q{n}", (9,) * (1 + n % 5), (100 * s + n, 10 + k, 1), stage=stage)
    for n in range(number)
    for s, stage in enumerate(STAGES)
    for k in range(shape[stage])
  ]


def targets_of(one, step: int) -> list[tuple[int, int, int]]:
  """(stage, question, option) of each target of a step."""
  out, targets = one.batch(step), []
  for labels, weights in zip(out["labels"], out["weights"], strict=True):
    tokens = labels[weights > 0].reshape(-1, 3)
    targets += [(first // 100, first % 100, option) for first, option, _ in tokens.tolist()]
  return targets


@pytest.mark.parametrize("packed", [False, True])
def test_with_an_interval_every_example_occurs_once_per_epoch_and_a_batch_holds_one_stage(packed):
  one = corpus(staged(), batch=4, with_triplets=False, packed=packed, interval=2)
  for epoch in range(2):
    steps = len(one.batch_order.epoch(epoch))
    first = epoch * len(one.batch_order.epoch(0))
    by_step = [targets_of(one, first + n) for n in range(steps)]
    assert all(len({stage for stage, _, _ in targets}) == 1 for targets in by_step)
    everything = [x for targets in by_step for x in targets]
    assert len(everything) == len(set(everything)) == 12 * 5


def test_a_stage_with_more_batches_has_a_longer_interval():
  """12 questions in batches of 4: three batches of recall and of summarize, nine of analyze."""
  one = corpus(staged(), batch=4, with_triplets=False, interval=1, buckets=(24,))
  stages = [targets_of(one, n)[0][0] for n in range(15)]
  assert stages == [0, 1, 1, 1, 2] * 3


def test_without_an_interval_a_batch_may_hold_several_stages():
  one = corpus(staged(), batch=4, with_triplets=False)
  by_step = [{stage for stage, _, _ in targets_of(one, n)} for n in range(15)]
  assert any(len(stages) > 1 for stages in by_step)


def test_with_an_interval_a_batch_is_a_function_of_seed_and_step():
  make = lambda seed: corpus(staged(), batch=4, with_triplets=False, interval=2, seed=seed)
  walked = [make(0).batch(n) for n in range(40)]
  for n in (39, 0, 17):
    fresh = make(0).batch(n)
    assert all((fresh[name] == walked[n][name]).all() for name in fresh)
  assert any((make(1).batch(n)["tokens"] != walked[n]["tokens"]).any() for n in range(3))
  assert targets_of(make(0), 0) != targets_of(make(0), len(make(0).batch_order.epoch(0))), (
    "epochs differ"
  )
