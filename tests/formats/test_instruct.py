"""The instruct format and the answer-only format."""

import pytest

from distill_jax import records
from distill_jax.formats import answer_only, instruct
from tests.formats import led

QUESTION = "Tom has 3 apples and buys 4 more. How many apples does he have?"
PROBLEM = records.Problem("p", "train", QUESTION, "7")
TEXT = "Tom has 3 + 4 = 7 apples.\nAnswer: 7"
INSTRUCT = instruct.Instruct("Solve the problem.", "Let's think step by step.")
ANSWER = answer_only.AnswerOnly()


def test_a_record_is_as_drawn():
  drawn = INSTRUCT.prompt(QUESTION) + INSTRUCT.target(TEXT, "7")
  assert f"\n{drawn}\n" in instruct.__doc__


def test_the_styles_differ_only_in_the_elicitation():
  assert INSTRUCT.prompt(QUESTION) == INSTRUCT.prompt(QUESTION, style="cot")
  plain = INSTRUCT.prompt(QUESTION, style="plain")
  assert INSTRUCT.prompt(QUESTION) == f"{plain}Let's think step by step.\n"
  with pytest.raises(ValueError, match="loud"):
    INSTRUCT.prompt(QUESTION, style="loud")


@pytest.mark.parametrize("style", ["", "cot", "plain"])
def test_a_conversation_uses_the_given_style(style):
  conversation = INSTRUCT.conversation(PROBLEM, QUESTION, style=style)
  (turn,), text = led.lead(conversation, lambda turn: f"{TEXT}\n\n### Input:\nmore")
  assert (turn.student, turn.prompt) == ("student", INSTRUCT.prompt(QUESTION, style=style))
  assert text == TEXT


@pytest.mark.parametrize("shape", [INSTRUCT, ANSWER])
def test_a_student_is_prompted_as_it_is_trained(shape):
  written = led.rationale(text=shape.target(TEXT, "7"))
  shown = shape.examples(PROBLEM, QUESTION, written)
  asked, text = led.lead(shape.conversation(PROBLEM, QUESTION), led.taught(shown))
  assert [(t.student, t.prompt, t.stage) for t in asked] == led.pairs(shown)
  assert text == shown[0].target


def test_the_answer_alone_is_one_line_and_needs_no_teacher():
  (example,) = ANSWER.examples(PROBLEM, QUESTION, led.rationale(text=TEXT))
  assert (example.prompt, example.target) == (f"Question: {QUESTION}\n", "Answer: 7")
  assert f"\n{example.prompt}{example.target}\n" in answer_only.__doc__
  assert ANSWER.prompt("New?", [("Old?", TEXT)]) == "Question: Old?\nAnswer: 7\n\nQuestion: New?\n"
  assert ANSWER.request_kind == "" and ANSWER.target(TEXT, "7") == "Answer: 7"
