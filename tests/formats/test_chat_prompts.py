"""Prompts as messages: training and inference use the same ones, and each turn alternates."""

import pytest

from distill_jax import records
from distill_jax.formats import answer_only, cot, instruct, socratic, staged
from tests.formats import led, test_socratic, test_staged

QUESTION = "Tom has 3 apples and buys 4 more.\n\nHow many?"
PROBLEM = records.Problem("p", "train", QUESTION, "7")
SHOTS = (("1 + 1?", "It is 2.\nAnswer: 2"),)


def always() -> bool:
  return True


COT, ANSWER = cot.Cot(always), answer_only.AnswerOnly(always)
INSTRUCT = instruct.Instruct("Solve it.", "Think.", always)


def test_the_users_message_is_the_question_and_worked_examples_are_earlier_turns():
  shot = (("user", "1 + 1?"), ("assistant", "It is 2.\nAnswer: 2"))
  assert COT.prompt(QUESTION) == (("user", QUESTION),)
  assert COT.prompt(QUESTION, SHOTS) == (*shot, ("user", QUESTION))
  hinted = COT.prompt(QUESTION, SHOTS, hint="7")
  assert [text for _, text in hinted] == [
    "1 + 1?\nHint: The answer is 2.",
    SHOTS[0][1],
    f"{QUESTION}\nHint: The answer is 7.",
  ]
  assert ANSWER.prompt(QUESTION, SHOTS)[1:] == (("assistant", "Answer: 2"), ("user", QUESTION))
  assert INSTRUCT.prompt(QUESTION) == (("user", f"Solve it.\n\n{QUESTION}\n\nThink."),)
  assert INSTRUCT.prompt(QUESTION, style="plain") == (("user", f"Solve it.\n\n{QUESTION}"),)


@pytest.mark.parametrize("shape", [COT, ANSWER, INSTRUCT])
def test_a_student_of_one_turn_is_prompted_as_it_is_trained(shape):
  shown = shape.examples(PROBLEM, QUESTION, led.rationale(text="3 + 4 = 7.\nAnswer: 7"))
  asked, _ = led.lead(shape.conversation(PROBLEM, QUESTION), led.taught(shown))
  assert [(turn.student, turn.prompt, turn.stage) for turn in asked] == led.pairs(shown)


@pytest.mark.parametrize("stages", test_staged.STAGES)
def test_each_stage_is_a_turn(stages):
  shape, problem = staged.Staged(stages, is_chat=always), test_staged.PROBLEM
  shown = shape.examples(
    problem, test_staged.QUESTION, led.rationale(test_staged.PARTS, answer="B")
  )
  conversation = shape.conversation(problem, test_staged.QUESTION)
  asked, text = led.lead(conversation, led.taught(shown))
  assert asked == [staged.turns.Turn(*x) for x in led.pairs(shown)]
  assert test_staged.TASK.read_answer(text, problem) == "B"
  assert asked[0].prompt == shape.prompt(test_staged.QUESTION)
  assert all(alternates(example.prompt) for example in shown)


def test_stages_are_as_drawn():
  question, parts = test_staged.QUESTION, test_staged.PARTS
  shown = staged.Staged(is_chat=always).examples(
    test_staged.PROBLEM, question, led.rationale(parts, answer="B")
  )
  recall = (("user", f"{question}\nRecall:"), ("assistant", "Lamps give light, when lit."))
  assert shown[0].prompt == recall[:1]
  assert shown[2].prompt == (*recall, ("user", "Analyze: For option B,"))
  assert [text for role, text in shown[-1].prompt if role == "user"] == [
    f"{question}\nRecall:",
    *(f"Analyze: For option {label}," for label in "ABC"),
    "Summarize:",
  ]


@pytest.mark.parametrize("solutions", [True, False])
@pytest.mark.parametrize("questions", ["model", "gold"])
def test_decomposer_and_solver_alternate_with_the_user(solutions, questions):
  shape = socratic.Iterative(questions, 8, solutions, is_chat=always)
  shown = test_socratic.shown(shape)
  conversation = shape.conversation(test_socratic.PROBLEM, test_socratic.QUESTION)
  asked, text = led.lead(conversation, led.taught(shown))
  prompts = led.pairs(shown) if questions == "model" else led.pairs(shown)[1::2]
  assert [(turn.student, turn.prompt, turn.stage) for turn in asked] == prompts
  assert text.endswith("Answer: 3")
  assert all(alternates(example.prompt) for example in shown)
  decomposer, solver = shown[2].prompt, shown[3].prompt
  first = f"{test_socratic.QUESTION}\nSub-question:"
  told = "Solution: He has 3 + 4 = 7 apples.\n" if solutions else ""
  assert decomposer == (
    ("user", first), ("assistant", "How many has he?"), ("user", f"{told}Sub-question:")
  )  # fmt: skip
  assert solver == (
    ("user", f"{first} How many has he?\nSolution:"),
    ("assistant", "He has 3 + 4 = 7 apples."),
    ("user", "Sub-question: How many does he sell?\nSolution:"),
  )
  (example,) = test_socratic.shown(socratic.Unified(is_chat=always))
  assert example.prompt == (("user", f"{test_socratic.QUESTION}\nSteps:"),)


def alternates(messages) -> bool:
  return [role for role, _ in messages] == [
    ("user", "assistant")[n % 2] for n in range(len(messages))
  ] and len(messages) % 2 == 1
