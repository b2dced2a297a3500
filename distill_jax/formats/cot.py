"""Plain chain of thought: one prompt, one answer.

Question: Tom has 3 apples and buys 4 more. How many apples does he have?
Reasoning:
Tom has 3 + 4 = 7 apples.
Answer: 7
"""

import re
from collections.abc import Callable, Sequence

from distill_jax import records, thinking
from distill_jax.formats import turns

BLANK_LINE = "\n\n"  # ends an answer: worked examples are separated by a blank line

# Start of a sentence that states the answer: "So the answer is", "#### 7", "$\boxed{7}".
_CLOSING = re.compile(
  r"(so |thus,? |therefore,? )?(the )?(final )?answer( is\b|:|$)|####|\$*\\boxed", re.IGNORECASE
)
_ANSWER_LINE = re.compile(r"(final )?answer[*_ ]*:", re.IGNORECASE)  # "Answer:", "Final answer:"
_REASON = re.compile(r"\b(?:because|since)\b", re.IGNORECASE)
_SHORT = 3  # words of an answer with its unit
_NEXT_QUESTION = re.compile(r"(question|q) ?\d{0,4} ?:", re.IGNORECASE)  # "Question 2:", "Q:"
_MARKDOWN = " *_#"  # may surround a label, as in "**Answer:**"


class Cot:
  """The student writes its reasoning and an answer line in one turn.

  In a chat the user's message is the question, and worked examples are earlier turns.

  Attributes:
    stop_texts: Texts that end an attempt; None for the beginning of a next question in a plain
      prompt, and nothing in a chat.
    next_question: How a next question begins in a plain prompt.
    thinking_marks: Returns the marks in which thinking is laid out before a rationale; None if the
      student does not learn any thinking.
  """

  students = ("student",)
  stages = ("",)
  request_kind = "annotate"
  stop_texts: tuple[str, ...] | None = (BLANK_LINE,)
  next_question = "\nQuestion:"
  thinking_marks: Callable[[], thinking.Marks] | None = None

  def __init__(self, is_chat: turns.IsChat = turns.never):
    """`is_chat`: whether the student is prompted with messages."""
    self._is_chat = is_chat

  @property
  def stop(self) -> tuple[str, ...]:
    """Texts that end a turn; see `stop_texts`."""
    return stop_of(self.stop_texts, self.next_question, self._is_chat)

  def prompt(
    self, question: str, shots: turns.Shots = (), style: str = "", hint: str = ""
  ) -> records.Prompt:
    """The student's prompt.

    Args:
      question: The question.
      shots: Worked examples, placed before the question.
      style: Not supported.
      hint: The correct answer, if the student is asked to justify it; the worked examples then also
        show their answers as hints. Training uses the prompt without the hint (rationalization in
        STaR, Zelikman et al. 2022).
    """
    turns.reject_unsupported(style=style)
    worked = [(q, r.rpartition("Answer:")[2].strip() if hint else "", r.strip()) for q, r in shots]
    if self._is_chat():
      return turns.messages([(_user(q, h), r) for q, h, r in worked], _user(question, hint))
    return "".join(f"{_prompt(q, h)}{r}\n\n" for q, h, r in worked) + _prompt(question, hint)

  def conversation(
    self,
    problem: records.Problem,
    question: str,
    shots: turns.Shots = (),
    *,
    style: str = "",
    given: Sequence[tuple[str, str]] = (),
    hint: str = "",
  ) -> turns.Conversation:
    """One turn; returns its text."""
    turns.reject_unsupported(given=given)
    (text,) = yield (turns.Turn("student", self.prompt(question, shots, style, hint)),)
    return cut_at_stop(text, self.stop)

  def target(self, text: str, answer: str) -> str:
    """The reasoning of `text` and one answer line; see the function `target`."""
    return target(text, answer)

  def written(self, rationale: records.Rationale) -> str:
    """The rationale, unchanged, since `target` has formatted it; after its thinking if kept."""
    if self.thinking_marks is None or not rationale.thinking:
      return rationale.text
    return thinking.lay_out(rationale.thinking, rationale.text, self.thinking_marks())

  def examples(
    self,
    problem: records.Problem,
    question: str,
    rationale: records.Rationale,
    shots: turns.Shots = (),
  ) -> list[records.Example]:
    """One example; see `written`."""
    return [records.Example(problem.id, self.prompt(question, shots), self.written(rationale))]


def target(text: str, answer: str) -> str:
  """The reasoning of a text without blank lines, followed by one answer line.

  A last line that only states the answer is replaced by the answer line. If the text has an answer
  line, everything after it is dropped, such as another question or a closing remark; but an answer
  line at the top may be the heading of the whole solution.
  """
  lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
  answer_line, end = None, len(lines)
  for n, line in enumerate(lines):
    if _ANSWER_LINE.match(line.lstrip(_MARKDOWN)):
      answer_line = n
    elif answer_line is not None and _NEXT_QUESTION.match(line.lstrip(_MARKDOWN)):
      end = n
      break
  if answer_line is not None:
    reasoning = lines[:answer_line] or _solution_below(lines[answer_line:end])
  elif len(lines) == 1 and _REASON.search(lines[0]):
    reasoning = lines
  else:
    reasoning = lines[:-1] if lines and is_closing(lines[-1]) else lines
  return "\n".join([*reasoning, f"Answer: {answer}"])


def _solution_below(lines: Sequence[str]) -> list[str]:
  """The solution whose heading is the answer line `lines[0]`; [] if that states the answer."""
  said = _ANSWER_LINE.sub("", lines[0].lstrip(_MARKDOWN), count=1).strip(_MARKDOWN)
  body = [*filter(None, [said]), *lines[1:]]
  if len(body) < 2 or len(body[0].split()) <= _SHORT:
    return []
  closes = is_closing(body[-1])
  if said and not closes:
    return []
  return body[:-1] if closes else body


def is_closing(line: str) -> bool:
  """Whether a line only states the answer."""
  return any(_CLOSING.match(start) for start in (line.strip(), line.lstrip(_MARKDOWN)))


def stop_of(
  texts: tuple[str, ...] | None, next_question: str, is_chat: turns.IsChat
) -> tuple[str, ...]:
  """Texts that end a turn; see `Cot.stop_texts`."""
  if texts is not None:
    return texts
  return () if is_chat() else (next_question,)


def cut_at_stop(text: str, stop: Sequence[str] = (BLANK_LINE,)) -> str:
  """A student's answer up to the first of the texts `stop`.

  Stop texts in thinking before the answer end nothing.
  """
  start = thinking.end(text)
  if start is None:
    return text.strip()
  answer = text[start:]
  for one in stop:
    answer = answer.split(one, 1)[0]
  return (text[:start] + answer).strip()


def _prompt(question: str, hint: str) -> str:
  hint_line = f"Hint: The answer is {hint}.\n" if hint else ""
  return f"Question: {question}\n{hint_line}Reasoning:\n"


def _user(question: str, hint: str) -> str:
  """The user's message of a chat."""
  return f"{question}\nHint: The answer is {hint}." if hint else question
