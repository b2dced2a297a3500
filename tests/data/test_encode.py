"""Token rows: the drawings of data/encode.py, repeated."""

import dataclasses
import itertools

import pytest

from distill_jax.data import encode

PROMPT, TARGET, POSITIVE, NEGATIVE = (10, 11, 12), (20, 21, 1), (30, 1), (40, 41, 1)


def plain(prompt=PROMPT, target=TARGET, *, prompt_weight=0.0, denominator="weights", start=None):
  return encode.supervised_row(
    prompt, target, prompt_weight=prompt_weight, denominator=denominator, start=start
  )


def pair(start=None, **more):
  return encode.preference_row(
    PROMPT, TARGET, POSITIVE, references=(-3.0, -4.5), start=start, **more
  )


def tree(row=None, *, pool="last", detach=False, max_response=9):
  row = row or plain()
  return encode.add_triplet(
    row, POSITIVE, NEGATIVE, pool=pool, detach=detach, max_response=max_response
  )


# fmt: off
def test_a_plain_row_is_as_drawn():
  assert plain() == encode.Row(
    tokens=   [10, 11, 12, 20, 21, 1],
    positions=[ 0,  1,  2,  3,  4, 5],
    segments= [ 1,  1,  1,  2,  2, 2],
    roots=    [ 1,  1,  1,  1,  1, 1],
    detached= [ 0,  0,  0,  0,  0, 0],
    slots=    [ 0,  0,  0,  0,  0, 0],
    shares=   [ 0,  0,  0,  0,  0, 0],
    where=            [2,   3,  4],
    labels=          [20,  21,  1],
    weights=        [1.0, 1.0, 1.0],
    denominator=3.0)


def test_a_row_with_a_triplet_is_as_drawn():
  assert dataclasses.asdict(tree()) == dataclasses.asdict(plain()) | dict(
    tokens=   [10, 11, 12, 20, 21, 1, 30, 1, 40, 41, 1],
    positions=[ 0,  1,  2,  3,  4, 5,  3, 4,  3,  4, 5],
    segments= [ 1,  1,  1,  2,  2, 2,  3, 3,  4,  4, 4],
    roots=    [ 1] * 11,
    detached= [ 0] * 11,
    slots=    [ 0,  0,  0,  0,  0, 1,  0, 2,  0,  0, 3],
    shares=   [ 0,  0,  0,  0,  0, 1,  0, 1,  0,  0, 1],
    triplets=1)


def test_a_detached_row_has_a_copy_of_the_anchor_and_pools_that():
  assert dataclasses.asdict(tree(detach=True)) == dataclasses.asdict(plain()) | dict(
    tokens=   [10, 11, 12, 20, 21, 1, 20, 21, 1, 30, 1, 40, 41, 1],
    positions=[ 0,  1,  2,  3,  4, 5,  3,  4, 5,  3, 4,  3,  4, 5],
    segments= [ 1,  1,  1,  2,  2, 2,  5,  5, 5,  3, 3,  4,  4, 4],
    roots=    [ 1] * 14,
    detached= [ 0,  0,  0,  0,  0, 0,  1,  1, 1,  1, 1,  1,  1, 1],
    slots=    [ 0,  0,  0,  0,  0, 0,  0,  0, 1,  0, 2,  0,  0, 3],
    shares=   [ 0,  0,  0,  0,  0, 0,  0,  0, 1,  0, 1,  0,  0, 1],
    triplets=1)


def test_a_preference_row_is_as_drawn():
  assert pair() == encode.Row(
    tokens=   [10, 11, 12, 20, 21, 1, 30, 1],
    positions=[ 0,  1,  2,  3,  4, 5,  3, 4],
    segments= [ 1,  1,  1,  2,  2, 2,  3, 3],
    roots=    [ 1] * 8,
    detached= [ 0] * 8,
    slots=    [ 0] * 8,
    shares=   [ 0] * 8,
    where=    [2,  3,  4,  2, 6],
    labels=   [20, 21, 1, 30, 1],
    owners=   [0,  0,  0,  1, 1],
    weights=  [1.0] * 5,
    denominator=5.0,
    references=[-3.0, -4.5])


def test_pads_after_the_chosen_side_belong_to_no_side():
  row = pair(pads=(0, 0))
  assert row.tokens == [10, 11, 12, 20, 21, 1, 0, 0, 30, 1]
  assert row.where == [2, 3, 4, 5, 6, 2, 8]
  assert row.labels == [20, 21, 1, 0, 0, 30, 1]
  assert row.owners == [0, 0, 0, encode.ANCHORED, encode.ANCHORED, 1, 1]


def test_with_a_start_token_the_prompt_is_the_source():
  assert plain(start=0) == encode.Row(
    tokens=   [0, 20, 21, 1],
    positions=[0,  1,  2, 3],
    segments= [1,  2,  2, 2],
    roots=    [1,  1,  1, 1],
    detached= [0,  0,  0, 0],
    slots=    [0,  0,  0, 0],
    shares=   [0,  0,  0, 0],
    where=    [0,  1,  2],
    labels=   [20, 21, 1],
    weights=  [1.0, 1.0, 1.0],
    denominator=3.0,
    source=         [10, 11, 12],
    source_segments=[ 1,  1,  1])
  branched = tree(plain(start=0))
  assert branched.tokens ==    [0, 20, 21, 1, 30, 1, 40, 41, 1]
  assert branched.positions == [0,  1,  2, 3,  1, 2,  1,  2, 3]
  assert branched.slots ==     [0,  0,  0, 1,  0, 2,  0,  0, 3]
  sides = pair(start=0)
  assert sides.tokens == [0, 20, 21, 1, 30, 1] and sides.source == list(PROMPT)
  assert sides.where ==  [0,  1,  2, 0,  4]


def test_a_weighted_prompt_is_learned_from_its_second_token_on():
  row = plain(prompt_weight=0.1)
  assert row.where ==   [ 0,   1,   2,   3,   4]
  assert row.labels ==  [11,  12,  20,  21,   1]
  assert row.weights == [0.1, 0.1, 1.0, 1.0, 1.0]
  assert row.denominator == pytest.approx(3.2)
# fmt: on


@pytest.mark.parametrize("prompt_weight", [0.0, 0.1, 1.0])
def test_all_tokens_counts_every_token_but_the_first(prompt_weight):
  assert plain(prompt_weight=prompt_weight, denominator="all_tokens").denominator == 5.0


@pytest.mark.parametrize("prompt_weight", [0.0, 0.1])
def test_every_label_is_the_token_after_its_position(prompt_weight):
  for prompt in ((10,), PROMPT):
    for target in ((1,), TARGET):
      row = plain(prompt, target, prompt_weight=prompt_weight)
      assert row.labels == [row.tokens[i + 1] for i in row.where]
      assert row.labels[-len(target) :] == list(target)
      assert row.weights[-len(target) :] == [1.0] * len(target)


def pooled(row) -> list[list[int]]:
  """The positions pooled for anchor, positive and negative."""
  return [[i for i, slot in enumerate(row.slots) if slot == n] for n in (1, 2, 3)]


def test_the_mean_pools_every_token_of_a_response_and_no_other():
  assert pooled(tree(pool="mean")) == [[3, 4, 5], [6, 7], [8, 9, 10]]
  assert pooled(tree(pool="mean", detach=True)) == [[6, 7, 8], [9, 10], [11, 12, 13]]


def test_shares_of_a_slot_sum_to_one():
  for pool, detach in itertools.product(("last", "mean"), (False, True)):
    row = tree(pool=pool, detach=detach)
    for positions in pooled(row):
      assert sum(row.shares[i] for i in positions) == pytest.approx(1)
    assert sum(row.shares) == pytest.approx(3), "and no other token has a share"


def test_long_responses_are_cut_for_the_triplet_and_the_target_is_learned_completely():
  row = tree(max_response=2)
  assert row.tokens == [10, 11, 12, 20, 21, 1, 30, 1, 40, 41]
  assert pooled(row) == [[4], [7], [9]]  # all three are cut after 2 tokens
  assert row.labels == [20, 21, 1]
  copied = tree(max_response=2, detach=True, pool="mean")
  assert copied.tokens == [10, 11, 12, 20, 21, 1, 20, 21, 30, 1, 40, 41]
  assert pooled(copied) == [[6, 7], [8, 9], [10, 11]]


def test_each_side_of_a_pair_is_learned_from_the_prompts_end_on():
  row = pair()
  for owner, side in enumerate((TARGET, POSITIVE)):
    mine = [n for n, o in enumerate(row.owners) if o == owner]
    assert [row.labels[n] for n in mine] == list(side)
    first, *rest = (row.where[n] for n in mine)
    assert first == len(PROMPT) - 1
    assert [row.tokens[i] for i in rest] == list(side[:-1])


@pytest.mark.parametrize("start", [None, 0])
def test_all_tokens_counts_the_same_for_decoders_and_encoder_decoders(start):
  assert plain(denominator="all_tokens", start=start).denominator == 5.0


def test_a_weighted_source_and_an_empty_prompt_are_rejected():
  with pytest.raises(ValueError, match=r"sft\.prompt_weight"):
    plain(prompt_weight=0.1, start=0)
  for start in (None, 0):
    with pytest.raises(ValueError, match="prompt"):
      plain(prompt=(), start=start)


def test_a_triplet_changes_no_target_of_its_row():
  row = plain(prompt_weight=0.1)
  before = dataclasses.asdict(row)
  branched = tree(row, detach=True)
  for name in ("where", "labels", "weights", "denominator"):
    assert getattr(branched, name) == getattr(row, name)
  assert dataclasses.asdict(row) == before, "the original row is unchanged"
