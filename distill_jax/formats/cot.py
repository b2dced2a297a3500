"""Plain chain of thought: one prompt, one answer.

Question: Tom has 3 apples and buys 4 more. How many apples does he have?
Reasoning:
Tom has 3 + 4 = 7 apples.
Answer: 7
"""

import re
from collections.abc import Generator

from distill_jax import records
from distill_jax.formats import turns

STOP = "\n\n"  # a blank line ends an answer: worked examples are separated by one

_CLOSING = re.compile(
  r"(so |thus,? |therefore,? )?(the )?(final )?answer( is\b|:|$)|####|\$*\\boxed", re.IGNORECASE
)
_ANSWER_LINE = re.compile(r"(final )?answer[*_ ]*:", re.IGNORECASE)
_NEXT = re.compile(r"(question|q) ?\d{0,4} ?:", re.IGNORECASE)
_MARKS = " *_#"  # Markdown around a label


class Cot:
  students = ("student",)
  stages = ("",)
  stop = (STOP,)
  request_kind = "annotate"

  def prompt(self, question: str, shots=(), style: str = "", hint: str = "") -> str:
    """What the student sees; `shots` are (question, rationale) pairs put in front.

    With a `hint`, the right answer, it is asked to justify that answer, and the worked examples
    show how (STaR, Zelikman et al. 2022: rationalization); trained on is the prompt without it.
    """
    turns.reject_unsupported(style=style)
    worked = [
      f"{_asked(q, hint and r.rpartition('Answer:')[2].strip())}{r.strip()}\n\n" for q, r in shots
    ]
    return "".join(worked) + _asked(question, hint)

  def conversation(
    self, problem: records.Problem, question: str, shots=(), *, style="", given=(), hint=""
  ) -> Generator[tuple[turns.Turn, ...], list[str], str]:
    """One turn; returns its text."""
    turns.reject_unsupported(given=given)
    (text,) = yield (turns.Turn("student", self.prompt(question, shots, style, hint)),)
    return cut_at_stop(text)

  def target(self, text: str, answer: str) -> str:
    """What the student should write: see `target` below."""
    return target(text, answer)

  def examples(
    self, problem: records.Problem, question: str, rationale: records.Rationale, shots=()
  ) -> list[records.Example]:
    """The rationale as it stands, since `target` made it."""
    return [records.Example(problem.id, self.prompt(question, shots), rationale.text)]


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


def cut_at_stop(text: str) -> str:
  """A student's answer, up to where the next worked example would begin."""
  return text.split(STOP, 1)[0].strip()


def _asked(question: str, hint: str) -> str:
  hinted = f"Hint: The answer is {hint}.\n" if hint else ""
  return f"Question: {question}\n{hinted}Reasoning:\n"
