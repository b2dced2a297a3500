"""Answer readers: texts of people, teachers and students, and texts made to break them."""

import fractions
import time

import hypothesis
import pytest
from hypothesis import strategies

from distill_jax.tasks import answers

SETTINGS = hypothesis.settings(max_examples=150, deadline=None, derandomize=True)


@pytest.mark.parametrize(
  ("text", "answer"),
  [
    ("Answer: 7", "7"),
    ("#### 7", "7"),
    ("So the answer is 7.", "7"),
    ("The final answer is: **7**", "7"),
    ("**Answer:** 7 apples", "7"),
    ("Answer:\n7", "7"),
    ("answer 7", "7"),
    ("The answer to the question is 7", "7"),
    ("Answer: 3-2 = 1", "1"),  # the released reader reads 3
    ("Answer: 3 + 4 = 7 apples", "7"),
    ("Answer: 3 apples + 4 apples = 7 apples", "7"),
    ("Answer: 2 * (3 + 4) = 14", "14"),
    ("Answer: 7 (since 3 + 5 = 8, less 1)", "7"),
    ("Answer: 7, because 2 = 2.", "7"),
    ("Answer: x = 7", "7"),
    ("Answer: 3 - 2", None),
    ("Answer: 62.00", "62"),
    ("Answer: 3.50", "3.5"),
    ("Answer: 0.0", "0"),
    ("Answer: .5", "0.5"),
    ("Answer: 1,234,567.80", "1234567.8"),
    ("Answer: 10\u202f000", "10000"),
    ("Answer: 1{,}000", "1000"),
    ("Answer: 1, 2 and 3", None),
    ("Answer: $5", "5"),
    ("Answer: -$5", "-5"),
    ("Answer: $-5", "-5"),
    ("Answer: Rs.50", "50"),
    ("Answer: €1,000.", "1000"),
    ("Answer: \u22125", "-5"),
    ("Answer: 25%", "25"),
    ("Answer: 25\\%", "25"),
    ("Answer: 3/4", "0.75"),
    ("Answer: 1/3 of it", "1/3"),
    ("Answer: 1 1/2", "1.5"),
    ("Answer: 2½ cups", "2.5"),
    ("Answer: 5/0", None),
    ("The answer is $\\boxed{42}$.", "42"),
    ("\\boxed{\\frac{3}{4}}", "0.75"),
    ("\\boxed{\\text{about } {7}}", "7"),
    ("Answer: $-\\dfrac{3}{4}$", "-0.75"),
    ("Answer: 3\\frac12", "3.5"),
    ("Answer: 1.5e3", "1500"),
    ("Answer: 1.2 \\times 10^{3}", "1200"),
    ("Answer: 1e999999999", None),
    ("Answer: 2e" + "0" * 200 + "1", "20"),
    ("Answer: " + "so " * 98 + "7 or 12345", "7"),
    ("Answer: " + "so " * 99 + "12345", None),
    ("Answer: 2E-3", "0.002"),
    ("Answer: " + "9" * 61, None),
    ("3 + 4 = 7\nAnswer: 8", "8"),  # the answer line, not the last step
    ("Answer: 8\nWait, that is wrong.\nAnswer: 7", "7"),
    ("Answer: 7\nThat is the answer: done", "7"),
    ("Answer: 7\n\nQuestion: 1 + 1?\nAnswer: 2", "7"),
    ("Tom has 3 + 4 = 7.", "7"),
    ("The total is $1,200.00.", "1200"),
    ("COVID-19", None),
    ("3 + 4 = 7\nAnswer:", None),
    ("no number", None),
    ("", None),
  ],
)
def test_an_answer_is_read_as_it_is_meant(text, answer):
  assert answers.read_number(text) == answer


def test_without_a_marker_the_last_number_is_read_unless_disabled():
  assert answers.read_number("3 + 4 = 7") == "7"
  assert answers.read_number("3 + 4 = 7", last_number=False) is None


@SETTINGS
@hypothesis.given(strategies.fractions(max_denominator=10**6), strategies.sampled_from(["", "$"]))
def test_every_fraction_survives_writing_and_reading(value, currency):
  text = f"Answer: {value}" if value < 0 else f"Answer: {currency}{value}"
  read = answers.read_number(text)
  assert fractions.Fraction(read) == value
  assert answers.same_number(read, str(value))
  assert answers.read_number(f"Answer: {read}") == read  # a canonical number is a fixed point


@SETTINGS
@hypothesis.given(strategies.integers(0, 10**40), strategies.integers(1, 2**99), strategies.data())
def test_a_read_number_is_read_again_unchanged(top, bottom, data):
  power = data.draw(strategies.integers(-70, 70))
  for text in (f"{top}/{bottom}", f"{top}e{power}", f"0.{top}e{power}"):
    read = answers.read_number(f"Answer: {text}")
    assert read is None or answers.read_number(f"Answer: {read}") == read


@SETTINGS
@hypothesis.given(strategies.decimals(-(10**9), 10**9, places=3))
def test_separators_and_trailing_zeros_change_nothing(value):
  plain, grouped = f"{value:f}", f"{value:,f}"
  assert answers.read_number(f"#### {grouped}00") == answers.read_number(f"#### {plain}")
  assert answers.same_number(grouped, plain)


def test_comparison_is_exact():
  assert answers.same_number("1,200.00", "$1200")
  assert not answers.same_number("1/3", "0.3333333333333333")
  assert not answers.same_number("0.30000000000000004", "0.3")
  assert not answers.same_number(None, "3") and not answers.same_number("three", "3")


@SETTINGS
@hypothesis.given(
  strategies.text(
    strategies.sampled_from("0159,.-/ \n$%=+x(){}\\eE:#½\ud800\u2212٣²answeriboxdfc"), max_size=80
  )
)
def test_no_text_raises(text):
  for wrapped in (text, f"Answer: {text}", f"\\boxed{{{text}"):
    read = answers.read_number(wrapped)
    assert read is None or answers.same_number(read, read)
    answers.read_choice(wrapped, ("a", "b", "e"))
    answers.read_boolean(wrapped)


@pytest.mark.parametrize(
  "piece",
  ["1", "1,", "1,111", " ", "{", "answer", "answer is ", "\\boxed{", "answer to ", "1 ", "1/", "-"]
  + ["1e", "\\frac{1", "answer: {", "####\n", "*", "Answer: 1\nQ:", "(a", "yes ", "answer:\n\n\n"]
  + ["\\\\", "1.", "answer:1=", "$", "½", "answer 1x "],
)
def test_a_megabyte_of_anything_is_read_quickly(piece):
  text = piece * (1_000_000 // len(piece))
  start = time.process_time()
  answers.read_number(text)
  answers.read_number("Answer: 1" + text)
  answers.read_choice(text, ("a", "b"))
  answers.read_boolean(text)
  assert time.process_time() - start < 2.0


@pytest.mark.parametrize(
  ("text", "label"),
  [
    ("It is not (a) but the answer is blotter (e).", "e"),  # the released reader reads a
    ("(a) is wet, so (b)", "b"),
    ("Answer: E", "e"),
    ("The answer is E because it blots", "e"),
    ("Answer: option b.", "b"),
    ("The answer is a lamp", None),
    ("The answer is a.", "a"),
    ("e", "e"),
    ("**Answer: (b)**", "b"),
    ("nothing", None),
  ],
)
def test_a_choice_is_the_label_named_last(text, label):
  assert answers.read_choice(text, ("a", "b", "e")) == label


def test_labels_are_returned_as_they_are_spelled():
  assert answers.read_choice("answer is (b)", ("A", "B")) == "B"
  assert answers.read_choice("answer is (b)", ()) is None


@pytest.mark.parametrize(
  ("text", "verdict"),
  [
    ("Yes, I know. So the answer is no.", "no"),
    ("No wonder. Answer: True", "yes"),
    ("It cannot be. So no", "no"),
    ("nobody knows", None),
    ("The answer is unclear", None),
  ],
)
def test_a_boolean_is_read_after_the_marker(text, verdict):
  assert answers.read_boolean(text) == verdict


@pytest.mark.parametrize(
  ("text", "label"),
  [
    ("The answer is (a) salt or (b) sugar.", None),
    ("So the answer is either (a) salt, (b) sugar, or (e) pepper.", None),
    ("The answer is (b) salt or sugar.", "b"),
    ("The answer is (b), not (a) or (e).", "b"),
    ("The answer is (b). One may doubt (a) or (e).", "b"),
  ],
)
def test_a_text_that_names_two_choices_chooses_none(text, label):
  assert answers.read_choice(text, ("a", "b", "e")) == label
