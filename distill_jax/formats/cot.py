"""Plain chain of thought: one prompt, one answer.

Question: Tom has 3 apples and buys 4 more. How many apples does he have?
Reasoning:
Tom has 3 + 4 = 7 apples.
Answer: 7
"""

import re
from collections.abc import Generator

NAME = "cot"
STUDENTS = ("student",)
STOP = "\n\n"  # a blank line ends an answer: worked examples are separated by one

_CLOSING = re.compile(
  r"(so |thus,? |therefore,? )?(the )?(final )?answer( is\b|:|$)|####|\$*\\boxed", re.IGNORECASE
)
_ANSWER_LINE = re.compile(r"(final )?answer[*_ ]*:", re.IGNORECASE)
_NEXT = re.compile(r"(question|q) ?\d{0,4} ?:", re.IGNORECASE)
_MARKS = " *_#"  # Markdown around a label


def prompt(question: str, shots=()) -> str:
  """What the student sees; `shots` are (question, rationale) pairs put in front."""
  worked = [f"Question: {q}\nReasoning:\n{r.strip()}\n\n" for q, r in shots]
  return "".join(worked) + f"Question: {question}\nReasoning:\n"


def target(text: str, answer: str) -> str:
  """What the student should write: the reasoning without blank lines, and one answer line at the
  end.

  A closing sentence that only states the answer gives way to the answer line, and so does what
  follows an answer line: a next question, pleasantries.
  """
  lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
  answered = None
  for number, line in enumerate(lines):
    if _ANSWER_LINE.match(line.lstrip(_MARKS)):
      answered = number
    elif answered is not None and _NEXT.match(line.lstrip(_MARKS)):
      break
  if answered is not None:
    body = lines[:answered]
  else:
    body = lines[:-1] if lines and is_closing(lines[-1]) else lines
  return "\n".join([*body, f"Answer: {answer}"])


def is_closing(line: str) -> bool:
  """Does this line do nothing but state the answer?"""
  return any(_CLOSING.match(start) for start in (line.strip(), line.lstrip(_MARKS)))


def cut(text: str) -> str:
  """A student's answer, up to where the next worked example would begin."""
  return text.split(STOP, 1)[0].strip()


def conversation(question: str, shots=()) -> Generator[tuple[str, str], str, str]:
  """Yields (student, prompt), receives that student's text, returns the whole attempt."""
  text = yield "student", prompt(question, shots)
  return cut(text)
