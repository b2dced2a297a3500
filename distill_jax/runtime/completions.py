"""What a student has written after a prompt, and who follows how it is written."""

from typing import NamedTuple, Protocol


class Completion(NamedTuple):
  """What a student wrote after a prompt."""

  text: str
  finish: str  # stop | length
  tokens: int
  logprob: float  # nats, summed over the tokens


class Watcher(Protocol):
  """Follows a call of `Student.generate`, and may know completions of an earlier call."""

  def known(self, name: str) -> Completion | None:
    """Returns the completion of the request with this name, if it has been stored."""
    ...

  def begin(self, waiting: int) -> None:
    """Is called with the number of rows that are not known, before they are decoded."""
    ...

  def progress(self, new: dict[str, Completion], tokens: int, running: int, waiting: int) -> None:
    """Is called regularly with new completions and tokens, and how many rows run and wait."""
    ...
