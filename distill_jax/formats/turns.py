"""Turns: what a format's conversation yields."""

from collections.abc import Generator, Sequence
from typing import NamedTuple


class Turn(NamedTuple):
  """One prompt to one student."""

  student: str  # one of the format's `students`
  prompt: str
  stage: str = ""


# Yields turns that are sampled together, receives their texts in the same order, and returns the
# text of the attempt.
Conversation = Generator[tuple[Turn, ...], list[str], str]
Shots = Sequence[tuple[str, str]]  # worked examples: (question, rationale)


def reject_unsupported(**options: object) -> None:
  """Raises ValueError if an option is set; for options that a format does not have."""
  if used := [name for name, value in options.items() if value]:
    raise ValueError(f"this format does not support {', '.join(used)}")


def one_line(text: str) -> str:
  """The text with every run of white space as a single space."""
  return " ".join(text.split())
