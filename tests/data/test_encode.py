"""The drawings of data/encode.py, repeated."""

import dataclasses

import pytest

from distill_jax.data import encode

PROMPT, TARGET, POSITIVE, NEGATIVE = (10, 11, 12), (20, 21, 1), (30, 1), (40, 41, 1)


def plain(prompt=PROMPT, target=TARGET, *, prompt_weight=0.0, denominator="weights"):
  return encode.plain(prompt, target, prompt_weight=prompt_weight, denominator=denominator)


def tree(row=None, *, pool="last", detach=False, max_response=9):
  row = row or plain()
  return encode.with_contrast(
    row, POSITIVE, NEGATIVE, pool=pool, detach=detach, max_response=max_response
  )


# fmt: off
def test_a_plain_row_is_as_drawn():
  assert plain() == encode.Row(
    tokens=   [10, 11, 12, 20, 21, 1],
    positions=[ 0,  1,  2,  3,  4, 5],
    segments= [ 1,  1,  1,  2,  2, 2],
    detached= [ 0,  0,  0,  0,  0, 0],
    where=            [2,   3,  4],
    labels=          [20,  21,  1],
    weights=        [1.0, 1.0, 1.0],
    denominator=3.0)


def test_a_row_with_a_contrast_is_as_drawn():
  assert dataclasses.asdict(tree()) == dataclasses.asdict(plain()) | dict(
    tokens=   [10, 11, 12, 20, 21, 1, 30, 1, 40, 41, 1],
    positions=[ 0,  1,  2,  3,  4, 5,  3, 4,  3,  4, 5],
    segments= [ 1,  1,  1,  2,  2, 2,  3, 3,  4,  4, 4],
    detached= [0] * 11,
    pool=([5], [7], [10]))


def test_a_detached_row_holds_the_anchor_once_more_and_pools_that_copy():
  assert dataclasses.asdict(tree(detach=True)) == dataclasses.asdict(plain()) | dict(
    tokens=   [10, 11, 12, 20, 21, 1, 20, 21, 1, 30, 1, 40, 41, 1],
    positions=[ 0,  1,  2,  3,  4, 5,  3,  4, 5,  3, 4,  3,  4, 5],
    segments= [ 1,  1,  1,  2,  2, 2,  5,  5, 5,  3, 3,  4,  4, 4],
    detached= [ 0,  0,  0,  0,  0, 0,  1,  1, 1,  1, 1,  1,  1, 1],
    pool=([8], [10], [13]))


def test_a_weighted_prompt_is_learned_from_its_second_token_on():
  row = plain(prompt_weight=0.1)
  assert row.where ==   [ 0,   1,   2,   3,   4]
  assert row.labels ==  [11,  12,  20,  21,   1]
  assert row.weights == [0.1, 0.1, 1.0, 1.0, 1.0]
  assert row.denominator == pytest.approx(3.2)
# fmt: on


@pytest.mark.parametrize("prompt_weight", [0.0, 0.1, 1.0])
def test_all_tokens_counts_every_token_that_has_one_before_it(prompt_weight):
  assert plain(prompt_weight=prompt_weight, denominator="all_tokens").denominator == 5.0


@pytest.mark.parametrize("prompt_weight", [0.0, 0.1])
def test_every_label_is_the_token_after_its_place(prompt_weight):
  for prompt in ((10,), PROMPT):
    for target in ((1,), TARGET):
      row = plain(prompt, target, prompt_weight=prompt_weight)
      assert row.labels == [row.tokens[i + 1] for i in row.where]
      assert row.labels[-len(target) :] == list(target)
      assert row.weights[-len(target) :] == [1.0] * len(target)


def test_the_mean_pools_every_token_of_a_response_and_no_other():
  assert tree(pool="mean").pool == ([3, 4, 5], [6, 7], [8, 9, 10])
  assert tree(pool="mean", detach=True).pool == ([6, 7, 8], [9, 10], [11, 12, 13])


def test_long_responses_are_cut_for_the_contrast_and_the_target_is_learned_whole():
  row = tree(max_response=2)
  assert row.tokens == [10, 11, 12, 20, 21, 1, 30, 1, 40, 41]
  assert row.pool == ([4], [7], [9])  # all three are read as far as 2 tokens
  assert row.labels == [20, 21, 1]
  copied = tree(max_response=2, detach=True, pool="mean")
  assert copied.tokens == [10, 11, 12, 20, 21, 1, 20, 21, 30, 1, 40, 41]
  assert copied.pool == ([6, 7], [8, 9], [10, 11])


def test_a_contrast_changes_nothing_of_what_the_row_teaches():
  row = plain(prompt_weight=0.1)
  hung = tree(row, detach=True)
  for name in ("where", "labels", "weights", "denominator"):
    assert getattr(hung, name) == getattr(row, name)
  assert row.tokens == [*PROMPT, *TARGET], "the row it hangs on is left as it was"
