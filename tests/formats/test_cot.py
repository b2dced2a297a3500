"""Plain chain of thought: training and inference use the same prompts."""

import pytest

from distill_jax import formats, records
from distill_jax.formats import cot

FORMAT = cot.Cot()
PROBLEM = records.Problem("p", "train", "Q", "7")
QUESTION = "Tom has 3 apples and buys 4 more. How many apples does he have?"
RATIONALE = "Tom has 3 + 4 = 7 apples."


def ended(conversation, text: str) -> str:
  """What a conversation returns after the reply `text`."""
  with pytest.raises(StopIteration) as end:
    conversation.send([text])
  return end.value.value


def test_prompt_and_target_are_as_drawn():
  drawn = f"Question: {QUESTION}\nReasoning:\n{RATIONALE}\nAnswer: 7"
  assert FORMAT.prompt(QUESTION) + cot.target(RATIONALE, "7") == drawn
  assert drawn.splitlines() == [line.strip() for line in cot.__doc__.strip().splitlines()[2:]]


def test_worked_examples_come_first_separated_by_a_blank_line():
  shots = [("Q1?", "R1.\nAnswer: 1\n"), ("Q2?", "R2.\nAnswer: 2")]
  assert FORMAT.prompt("Q3?", shots) == (
    "Question: Q1?\nReasoning:\nR1.\nAnswer: 1\n\n"
    "Question: Q2?\nReasoning:\nR2.\nAnswer: 2\n\n"
    "Question: Q3?\nReasoning:\n"
  )


@pytest.mark.parametrize("shots", [(), (("Q?", "R.\nAnswer: 1"),)])
def test_a_student_is_prompted_as_it_is_trained(shots):
  conversation = FORMAT.conversation(PROBLEM, QUESTION, shots)
  (turn,) = next(conversation)
  target = FORMAT.target(RATIONALE, "7")
  written = records.Rationale("p", target, "7", "teacher", 0, "annotate", 0, 0.7)
  (example,) = FORMAT.examples(PROBLEM, QUESTION, written, shots)
  assert turn.student in FORMAT.students
  assert (turn.prompt, target) == (example.prompt, example.target)
  assert ended(conversation, target) == target, "a perfect student's attempt is the target itself"


def test_a_conversation_ends_where_the_next_worked_example_would_begin():
  conversation = FORMAT.conversation(PROBLEM, QUESTION)
  next(conversation)
  assert ended(conversation, " a\nAnswer: 7\n\nQuestion: Next?\nAnswer: 9") == "a\nAnswer: 7"


def test_with_a_hint_worked_examples_have_theirs_too():
  assert FORMAT.prompt("Q?", [("Old?", "R.\nAnswer: 1")], hint="7") == (
    "Question: Old?\nHint: The answer is 1.\nReasoning:\nR.\nAnswer: 1\n\n"
    "Question: Q?\nHint: The answer is 7.\nReasoning:\n"
  )
  (turn,) = next(FORMAT.conversation(PROBLEM, "Q?", hint="7"))
  assert turn.prompt == FORMAT.prompt("Q?", hint="7")


@pytest.mark.parametrize("option", [{"style": "plain"}, {"given": (("recall", "x"),)}])
def test_unsupported_options_are_rejected(option):
  with pytest.raises(ValueError, match=next(iter(option))):
    next(FORMAT.conversation(PROBLEM, QUESTION, **option))


@pytest.mark.parametrize(
  ("text", "kept"),
  [
    ("a\n\nb", "a"),
    ("a\nb ", "a\nb"),
    ("", ""),
    ("\n\na", ""),
    ("  a  ", "a"),
    ("a\n \nb", "a\n \nb"),
  ],
)
def test_text_is_cut_at_the_first_blank_line(text, kept):
  assert cot.cut_at_stop(text) == kept


CLOSING = [
  "Answer: 7",
  "answer: 7",
  "The answer is 7.",
  "So the answer is 7.",
  "Thus, the final answer is 7",
  "Therefore, the answer: 7 apples",
  "Final answer: $7",
  "#### 7",
  "The final answer",
  "**Answer: 7**",
  "**Final Answer:** 7",
  "## Answer: 7",
  "$\\boxed{7}$",
]


@pytest.mark.parametrize("line", CLOSING)
def test_a_closing_sentence_is_replaced_by_the_answer_line(line):
  assert cot.is_closing(line) and cot.is_closing(f"  {line} ")
  assert cot.target(f"{RATIONALE}\n{line}", "7") == f"{RATIONALE}\nAnswer: 7"


@pytest.mark.parametrize(
  "line",
  ["So Tom has 7 apples.", "Answering this takes two steps.", "7", "The answers are 3 and 4.", ""],
)
def test_a_step_of_the_reasoning_is_not_a_closing_sentence(line):
  assert not cot.is_closing(line)
  assert cot.target(f"a\n{line}", "7").startswith("a\n" + (line and f"{line}\n"))


@pytest.mark.parametrize(
  ("text", "reasoning"),
  [
    ("**Answer:**\nTom has 3 apples.\n3 + 4 = 7", "Tom has 3 apples.\n3 + 4 = 7\n"),
    (
      "Answer: Tom starts with 3.\n3 + 4 = 7\nSo the answer is 7.",
      "Tom starts with 3.\n3 + 4 = 7\n",
    ),
    ("The answer is 7 because 3 + 4 = 7.", "The answer is 7 because 3 + 4 = 7.\n"),
    ("**Answer:**\n7 apples\nI hope this helps you a lot!", ""),
    ("Answer: 7\nLet me know if you need more help.", ""),
    ("Answer: 7", ""),
    ("So the answer is 7.", ""),
  ],
)
def test_a_heading_above_the_whole_solution_is_no_answer_line(text, reasoning):
  target = cot.target(text, "7")
  assert target == f"{reasoning}Answer: 7" and cot.target(target, "7") == target


@pytest.mark.parametrize(
  "after",
  [
    "I hope this helps!",
    "\nQuestion: What is 1 + 1?\nReasoning:\n1 + 1 = 2\nAnswer: 2",
    "\n**Question 2:** What is 1 + 1?\n1 + 1 = 2\n**Answer:** 2",
  ],
)
def test_text_after_the_answer_line_is_dropped(after):
  assert cot.target(f"{RATIONALE}\n**Answer:** 7\n{after}", "7") == f"{RATIONALE}\nAnswer: 7"


def test_only_the_last_line_can_be_a_closing_sentence():
  text = "The answer is not clear at once.\nStep two."
  assert cot.target(text, "7") == f"{text}\nAnswer: 7"


@pytest.mark.parametrize(
  "text", ["", "\n\n", "a\n\n\nb\n\n", " a \r\n\r\n b", "Answer: 9", "a\n \nb"]
)
def test_a_target_has_no_blank_line_ends_in_its_answer_and_survives_the_cut(text):
  target = cot.target(text, "7")
  assert cot.cut_at_stop(target) == target
  assert all(line.strip() for line in target.split("\n"))
  assert target.split("\n")[-1] == "Answer: 7" and "Answer: 9" not in target
  assert cot.target(target, "7") == target, "a target is its own target"


@pytest.mark.parametrize(
  ("stop", "init", "is_chat", "texts"),
  [
    ("auto", "scratch", False, ("\n\n",)),
    ("auto", "SOME_DIR", False, ("\nQuestion:",)),
    ("auto", "SOME_DIR", True, ()),
    ("none", "scratch", False, ()),
    ("blank_line", "SOME_DIR", True, ("\n\n",)),
    ("\\nQ:", "SOME_DIR", False, ("\nQ:",)),
  ],
)
def test_what_ends_an_attempt_depends_on_the_student_and_its_prompt(stop, init, is_chat, texts):
  made = cot.Cot(lambda: is_chat)
  made.stop_texts = formats.stop_texts(stop, init)
  assert made.stop == texts


def test_a_student_that_writes_paragraphs_is_not_cut_at_the_first():
  made = cot.Cot()
  made.stop_texts = formats.stop_texts("auto", "SOME_DIR")
  conversation = made.conversation(PROBLEM, QUESTION)
  next(conversation)
  text = "Let's work it out.\n\n3 + 4 = 7\n\nAnswer: 7"
  assert ended(conversation, f"{text}\n\nQuestion: Next?\n9") == text
