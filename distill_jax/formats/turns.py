"""Turns: what a format's conversation yields."""

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

from distill_jax import records


class Turn(NamedTuple):
  """One prompt to one student."""

  student: str  # one of the format's `students`
  prompt: records.Prompt
  stage: str = ""


# Yields turns that are sampled together, receives their texts in the same order, and returns the
# text of the attempt.
Conversation = Generator[tuple[Turn, ...], list[str], str]
Shots = Sequence[tuple[str, str]]  # worked examples: (question, rationale)
# Whether the student is prompted with messages; asked when a prompt is made, since it may depend on
# the student's tokenizer.
IsChat = Callable[[], bool]


def never() -> bool:
  """The student is prompted with plain text."""
  return False


def messages(exchanges: Sequence[tuple[str, str]], user: str) -> records.Messages:
  """Earlier (user, assistant) exchanges and the user's next text, as messages."""
  earlier = [
    (role, text)
    for exchange in exchanges
    for role, text in zip(("user", "assistant"), exchange, strict=True)
  ]
  return (*earlier, ("user", user))


def after_question(
  question: str, exchanges: Sequence[tuple[str, str]], cue: str
) -> records.Messages:
  """Messages of earlier (cue, reply) exchanges about a question, and the next cue."""
  cues = [*(earlier for earlier, _ in exchanges), cue]
  cues[0] = f"{question}\n{cues[0]}"
  replies = [reply for _, reply in exchanges]
  return messages(list(zip(cues, replies, strict=False)), cues[-1])


def reject_unsupported(**options: object) -> None:
  """Raises ValueError if an option is set; for options that a format does not have."""
  if used := [name for name, value in options.items() if value]:
    raise ValueError(f"this format does not support {', '.join(used)}")


def one_line(text: str) -> str:
  """The text with every run of white space as a single space."""
  return " ".join(text.split())
