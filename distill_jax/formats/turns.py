"""What a format's conversation yields: who is asked what."""

from typing import NamedTuple


class Turn(NamedTuple):
  student: str  # who is asked: a name in the format's `students`
  prompt: str
  stage: str = ""


def reject_unsupported(**options) -> None:
  """Raises ValueError if one of a conversation's options is used of which the format has none."""
  if used := [name for name, value in options.items() if value]:
    raise ValueError(f"this format's conversation has no {', '.join(used)}")


def one_line(text: str) -> str:
  """A text in one line, whatever white space it has."""
  return " ".join(text.split())
