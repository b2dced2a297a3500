"""Preference pairs from attempts (Piao & Park 2025, as in their code; Ranaldi & Freitas 2024)."""

import itertools

import hypothesis
import pytest
from hypothesis import strategies

from distill_jax import records
from distill_jax.data import pairing

texts = strategies.lists(strategies.sampled_from("abcdefgh"), max_size=9)
often = hypothesis.settings(max_examples=100, deadline=None, derandomize=True, database=None)


def matched(chosen, rejected, *, spare=(), most=0, fill=True, key="k"):
  return pairing.match(chosen, rejected, spare=spare, max_pairs=most, fill=fill, key=key)


@often
@hypothesis.given(texts, texts, texts, strategies.booleans())
def test_a_text_on_both_sides_is_dropped_from_both(chosen, rejected, spare, fill):
  pairs = matched(chosen, rejected, spare=spare, fill=fill)
  both = set(chosen) & set(rejected)
  assert not both & {t for pair in pairs for t in pair}
  assert not {c for c, _ in pairs} & {r for _, r in pairs}
  assert {c for c, _ in pairs} <= {*chosen, *spare} and {r for _, r in pairs} <= {*rejected}


@often
@hypothesis.given(texts, texts)
def test_filling_pairs_every_text_of_the_longer_side(chosen, rejected):
  right, wrong = set(chosen) - set(rejected), set(rejected) - set(chosen)
  pairs = matched(chosen, rejected)
  if not right or not wrong:
    assert pairs == []
  elif len(right) >= len(wrong):  # rejected texts are drawn again, each at least once
    assert sorted(c for c, _ in pairs) == sorted(right)
    assert {r for _, r in pairs} == wrong
  else:  # there are no spare texts
    assert len(pairs) == len(right)


@often
@hypothesis.given(texts, texts, texts)
def test_spare_texts_fill_what_is_missing_and_no_more(chosen, rejected, spare):
  right, wrong = set(chosen) - set(rejected), set(rejected) - set(chosen)
  pairs = matched(chosen, rejected, spare=spare)
  new = [c for c, _ in pairs if c not in right]
  assert len(new) == len(set(new)) and set(new) <= set(spare)
  if len(right) >= len(wrong):
    assert not new
  else:
    others = set(spare) - set(chosen) - set(rejected)
    assert len(new) == min(len(wrong) - len(right), len(others))


def test_without_filling_the_shorter_side_decides_and_spare_texts_are_unused():
  assert matched("ab", "xyz", spare="cd", fill=False) == [("a", "x"), ("b", "y")]
  assert matched("abc", "x", fill=False) == [("a", "x")]
  assert matched("", "x", spare="c", fill=False) == []


def test_spare_texts_alone_are_enough_and_without_a_rejected_text_there_is_no_pair():
  assert matched("", "xy", spare="abc") == [("a", "x"), ("b", "y")]
  assert matched("abc", "") == matched("abc", "abc") == matched("ab", "", spare="c") == []


def test_there_are_at_most_max_pairs_and_no_empty_texts():
  assert matched("abc", "xyz", most=2) == [("a", "x"), ("b", "y")]
  assert matched(["", "a"], ["", "x"]) == [("a", "x")]
  assert matched([""], ["x"]) == matched(["a"], [""]) == []


def test_redrawn_texts_depend_on_the_key_alone():
  long = [f"c{n}" for n in range(30)]
  draw = lambda key: matched(long, "xyz", key=key)
  assert draw("one") == draw("one") and draw("one") != draw("other")
  assert {r for _, r in draw("one")[3:]} == {*"xyz"}, "drawn from all of them"


def attempt(text, correct, *, finish="stop", style="", turns=(), answer=None, stage=""):
  return records.Attempt(
    "p", text, answer, correct, round=1, sample=0, finish=finish, tokens=1, logprob=0.0,
    style=style, stage=stage, turns=turns,
  )  # fmt: skip


RULES = {"max_pairs": 0, "fill": True}


def test_right_attempts_are_chosen_over_wrong_ones_with_their_prompt():
  (pair,) = pairing.by_outcome([attempt("good", True), attempt("bad", False)], "Q", **RULES)
  assert pair == ("p", "Q", "good", "bad", "")


def test_a_truncated_attempt_is_never_chosen_but_may_be_rejected():
  cut = [attempt("good and so", True, finish="length"), attempt("bad and", False, finish="length")]
  assert pairing.by_outcome(cut, "Q", **RULES) == []
  (pair,) = pairing.by_outcome([*cut, attempt("good", True)], "Q", **RULES)
  assert (pair.chosen, pair.rejected) == ("good", "bad and")
  styled = [attempt("so", True, finish="length", style="cot"), attempt("5", False, style="plain")]
  assert pairing.by_style(styled, "Q", outcome=True, **RULES) == []


def test_pairs_of_a_turn_compare_only_that_turns_text():
  turns = lambda recall, last: (("recall", "P", recall), ("summarize", "S", last))
  some = [
    attempt("whole 1", True, turns=turns("r1", "A"), stage="recall"),
    attempt("whole 2", False, turns=turns("r2", "B"), stage="recall"),
    attempt("whole 3", True, turns=turns("r3", "A"), stage="recall"),
    attempt("whole 4", False, turns=turns("r3", "B"), stage="recall"),
  ]
  pairs = pairing.by_outcome(some, "P", stage="recall", turn=0, spare=["taught"], **RULES)
  assert pairs == [("p", "P", "r1", "r2", "recall")]


@pytest.mark.parametrize("outcome", [False, True])
def test_a_chain_of_thought_is_chosen_over_a_plain_answer_and_by_outcome_if_asked(outcome):
  some = [
    attempt("cot right", True, style="cot"),
    attempt("cot wrong", False, style="cot"),
    attempt("plain wrong", False, style="plain"),
    attempt("plain right", True, style="plain"),
  ]
  pairs = pairing.by_style(some, "Q", outcome=outcome, **RULES)
  sides = {(c.chosen, c.rejected) for c in pairs}
  if outcome:
    assert sides == {("cot right", "plain wrong")}
  else:
    assert sides == {("cot right", "plain wrong"), ("cot wrong", "plain right")}


LABELS = ("A", "B", "C")


def staged_attempt(answer, *analyses, correct=None, finish="stop"):
  """An attempt with these analyses of A, B and C, all after the same recall."""
  turns = [("recall", "R", "recalled")]
  turns += [("analyze", f"On {label}", t) for label, t in zip(LABELS, analyses, strict=True)]
  turns.append(("summarize", f"S {analyses}", f"option {answer}"))
  right = answer == "A" if correct is None else correct
  return attempt(
    f"{analyses}", right, turns=tuple(turns), answer=answer, stage="analyze", finish=finish
  )


def by_option(*attempts, spare=(), most=0):
  return pairing.by_option(attempts, "A", LABELS, spare=spare, max_pairs=most, fill=True)


def test_a_match_gives_the_analyses_of_the_right_option_and_of_the_chosen_one():
  pairs = by_option(staged_attempt("A", "a+", "b+", "c+"), staged_attempt("C", "a-", "b-", "c-"))
  assert pairs == [("p", "On A", "a+", "a-", "analyze"), ("p", "On C", "c+", "c-", "analyze")]


def test_an_analysis_that_is_equal_in_both_attempts_gives_no_pair():
  assert by_option(staged_attempt("A", "a", "b+", "c"), staged_attempt("B", "a", "b-", "c")) == [
    ("p", "On B", "b+", "b-", "analyze")
  ]


@pytest.mark.parametrize("answer", [None, "D", "a"])
def test_an_attempt_that_chose_no_option_of_the_question_is_left_out(answer):
  assert (
    by_option(staged_attempt("A", "a+", "b+", "c+"), staged_attempt(answer, "a-", "b-", "c-")) == []
  )


def test_without_a_right_attempt_the_spare_one_is_used():
  origin, wrong = staged_attempt("A", "a0", "b0", "c0"), staged_attempt("B", "a-", "b-", "c-")
  assert [(c.chosen, c.rejected) for c in by_option(wrong, spare=[origin])] == [
    ("a0", "a-"), ("b0", "b-")
  ]  # fmt: skip
  right = staged_attempt("A", "a+", "b+", "c+")
  assert {c.chosen for c in by_option(right, wrong, spare=[origin])} == {"a+", "b+"}


def test_a_truncated_attempt_is_not_chosen_among_analyses_either():
  cut, wrong = (
    staged_attempt("A", "a+", "b+", "c+", finish="length"),
    staged_attempt("B", "a-", "b-", "c-"),
  )
  assert by_option(cut, wrong) == by_option(wrong, spare=[cut]) == []


def test_two_analyses_that_are_each_better_than_the_other_give_no_pair():
  """a1 and a2 are each in a right attempt and in a wrong one."""
  some = [staged_attempt("A", "a1", "b", "c"), staged_attempt("A", "a2", "b", "c")]
  some += [staged_attempt("B", "a2", "b2", "c"), staged_attempt("B", "a1", "b1", "c")]
  pairs = by_option(*some)
  sides = {(c.chosen, c.rejected) for c in pairs}
  assert not any((r, c) in sides for c, r in sides)
  assert {c.prompt for c in pairs} == {"On B"}


def test_pairs_depend_on_the_attempts_alone():
  some = [staged_attempt("A", f"a{n}", f"b{n}", "c") for n in range(9)] + [
    staged_attempt(x, f"a-{x}", f"b-{x}", "c-") for x in "BC"
  ]
  first = by_option(*some)
  assert first == by_option(*some) and len(first) == len(set(first))
  assert by_option(*some, most=1) == first[:2]
  for one, other in itertools.pairwise(first):
    assert one != other


def test_a_pair_gets_its_reference_log_probabilities():
  pair = pairing.UnscoredPair("p", "Q", "good", "bad", "recall")
  assert pairing.add_references(pair, -1.5, -2.5) == records.PreferencePair(
    "p", "Q", "good", "bad", "recall", -1.5, -2.5
  )
