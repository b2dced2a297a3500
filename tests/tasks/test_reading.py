"""Answers are read as a person reads them, whatever the kind of text."""

import json
import pathlib

import pytest

from distill_jax import records
from distill_jax.tasks import expressions, task
from tests.tasks import reader_cases as cases

TASK = task.Task("test", lambda split: [])
GIVEN = pathlib.Path(__file__).parents[3] / "shared" / "faults" / "readers.jsonl"
OPTIONS = {"choice": (("A", "river"), ("B", "bank"), ("C", "park"), ("D", "shop"), ("E", "lamp"))}


def _read(text: str, kind: str, choices=(), whole: bool = True) -> str | None:
  problem = records.Problem("", "", "", "", kind, choices=choices)
  return TASK.read_answer(text, problem, whole=whole)


def _flat(table: dict) -> list[tuple]:
  return [
    pytest.param(*case, id=f"{kind} {n}") for kind in table for n, case in enumerate(table[kind])
  ]


def test_every_kind_has_eight_cases():
  for table in (cases.NUMBER, cases.CHOICE, cases.BOOLEAN, cases.EXPRESSION):
    assert all(len(rows) >= 8 for rows in table.values())


@pytest.mark.parametrize(("text", "answer"), _flat(cases.NUMBER))
def test_a_number_is_read_as_a_person_reads_it(text, answer):
  assert _read(text, "number") == answer


@pytest.mark.parametrize(("text", "answer"), cases.CUT)
def test_a_text_that_was_cut_off_is_read_only_after_a_marker(text, answer):
  assert _read(text, "number", whole=False) == answer


@pytest.mark.parametrize(("text", "answer"), _flat(cases.CHOICE))
def test_a_choice_is_read_as_a_person_reads_it(text, answer):
  assert _read(text, "choice", cases.OPTIONS) == answer


@pytest.mark.parametrize(("word", "answer"), [("six", "C"), ("five", None)])
def test_the_words_that_two_options_share_choose_none(word, answer):
  options = (("A", "five"), ("B", "five"), ("C", "six"))
  assert _read(f"Answer: {word}", "choice", options) == answer


@pytest.mark.parametrize(
  ("text", "options", "answer"),
  [
    ("Answer: 1,250", ("250", "1250", "125"), "B"),
    ("Answer: $250", ("$250", "$1,250"), "A"),
    ("Answer: 0.5", ("5", "10", "0.5"), "C"),
    ("Answer: 0.5", ("5", "10"), None),
    ("Answer: −5", ("5", "7", "-5"), "C"),
    ("Answer: 3:1", ("1:3", "3:1"), "B"),
    ("Answer: 1/2 cup", ("2 cups", "1/2 cup"), "B"),
    ("Answer: _5 cups_", ("2 cups", "5cups"), "B"),
  ],
)
def test_an_option_that_is_a_number_is_read_as_a_whole(text, options, answer):
  assert _read(text, "choice", tuple(zip("ABC", options, strict=False))) == answer


@pytest.mark.parametrize(
  ("text", "answer"),
  [
    ("Answer: **5**", "5"),
    ("**Answer: 5**", "5"),
    ("The final answer is `5`.", "5"),
    ("The answer is **x^2+1**.", "x^2+1"),
    ("Answer: __5__", "5"),
    ("Answer: z^*", "z^*"),
    ("Answer: 2**3", "2**3"),
    ("The answer is:\n$$\n18x\n$$", "18x"),
    ("Final answer:\n\n\\[\nx+1\n\\]", "x+1"),
  ],
)
def test_emphasis_and_the_marks_of_a_formula_are_no_part_of_an_expression(text, answer):
  assert _read(text, "expression") == answer


@pytest.mark.parametrize("kind", ["choice", "boolean"])
def test_a_label_or_word_of_a_text_that_was_cut_off_is_not_read(kind):
  assert _read("(B) is yes", kind, cases.OPTIONS) is not None
  assert _read("(B) is yes", kind, cases.OPTIONS, whole=False) is None


@pytest.mark.parametrize(("text", "answer"), _flat(cases.BOOLEAN))
def test_a_boolean_is_read_as_a_person_reads_it(text, answer):
  assert _read(text, "boolean") == answer


@pytest.mark.parametrize(("text", "gold", "same"), _flat(cases.EXPRESSION))
def test_two_expressions_are_the_same_or_not(text, gold, same):
  answer = expressions.read_expression(f"So it is $\\boxed{{{text}}}$.")
  assert answer is not None
  assert (answer == expressions.normalize(gold)) is same


@pytest.mark.skipif(not GIVEN.is_file(), reason="the given cases are not available")
def test_the_given_cases_are_read_as_wanted():
  missed = []
  given = [json.loads(line) for line in GIVEN.read_text(encoding="utf-8").splitlines()]
  for case in given:
    if case["reader"] == "expression":
      answer = expressions.read_expression(case["text"])
      same = answer is not None and answer == expressions.normalize(case["gold"])
      is_right = same == case["same"]
    else:
      answer = _read(case["text"], case["reader"], OPTIONS.get(case["reader"], ()))
      is_right = str(answer or "null") in case["want"].split(" or ")
    missed += [] if is_right else [(case["text"], answer)]
  assert not missed
