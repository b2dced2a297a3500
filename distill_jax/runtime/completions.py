"""Completions of a student, and the interface of a watcher of their progress."""

import bisect
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from distill_jax import records, thinking

Tokens = Sequence[int] | np.ndarray


class Completion(NamedTuple):
  """The text that a student wrote after a prompt."""

  text: str
  finish: str  # stop | length
  tokens: int
  logprob: float  # nats, summed over the tokens


class Written(NamedTuple):
  """The text that a student wrote after a prompt, with its tokens."""

  text: str
  finish: str  # stop | length
  ids: np.ndarray  # int32; with the end token if it was written
  logprobs: np.ndarray  # float32, nats at temperature 1, one per id

  def completion(self) -> Completion:
    """Returns this without the tokens."""
    logprob = float(np.sum(self.logprobs, dtype=np.float64))
    return Completion(self.text, self.finish, len(self.ids), logprob)


class Watcher(Protocol):
  """Watches a call of `Student.generate`, and may have completions of an earlier call."""

  def known(self, name: str) -> Completion | None:
    """Returns the completion of the request with this name, if it has been stored."""
    ...

  def begin(self, waiting: int) -> None:
    """Called with the number of rows without a stored completion, before they are decoded."""
    ...

  def progress(self, new: dict[str, Completion], tokens: int, running: int, waiting: int) -> None:
    """Called regularly: new completions and tokens, and the numbers of running and waiting rows."""
    ...


def group_prompts(
  requests: Sequence[tuple[records.Prompt, Any]], limit: int
) -> list[tuple[records.Prompt, list[int]]]:
  """Groups neighbors that share a prompt.

  Returns:
    (prompt, indices of at most `limit` neighboring requests), in order.
  """
  groups: list[tuple[records.Prompt, list[int]]] = []
  for index, (prompt, _) in enumerate(requests):
    if groups and groups[-1][0] == prompt and len(groups[-1][1]) < limit:
      groups[-1][1].append(index)
    else:
      groups.append((prompt, [index]))
  return groups


def fit_prompt(tokens: list[int], start: int, limit: int) -> list[int]:
  """Cuts a prompt to `limit` tokens: keeps its `start` first tokens and its end."""
  excess = max(len(tokens) - limit, 0)
  return tokens[:start] + tokens[start + excess :]


def text_before(text: str, stop: Sequence[str]) -> str | None:
  """Returns the text before the first of the texts `stop`; None if it contains none of them.

  Stop texts within thinking that the text begins with do not count.
  """
  start = thinking.end(text)
  if start is None:
    return None
  positions = [position for s in stop if (position := text.find(s, start)) >= 0]
  return text[: min(positions)] if positions else None


def contains(decode: Callable[[Tokens], str], tokens: Tokens, stop: Sequence[str]) -> bool:
  """Returns whether the text of tokens contains one of the texts `stop`."""
  return text_before(decode(tokens), stop) is not None


def cut(
  decode: Callable[[Tokens], str],
  tokens: np.ndarray,
  logprobs: np.ndarray,
  *,
  ended: bool,
  stop: Sequence[str],
) -> Written:
  """Returns the text and tokens of a row, up to the first of the texts `stop`.

  Args:
    decode: Returns the text of tokens.
    tokens: Of the row.
    logprobs: Of the tokens.
    ended: Whether the row stopped at an end token.
    stop: Texts that end it.
  """
  text = decode(tokens)
  if text_before(text, stop) is not None:
    # Cut at the first token that completes a stop text, however far the row has been decoded.
    count = bisect.bisect_left(
      range(len(tokens)), True, key=lambda n: contains(decode, tokens[:n], stop)
    )
    tokens, ended = tokens[:count], True
    text = text_before(decode(tokens), stop) or ""
  return Written(text, "stop" if ended else "length", tokens, logprobs[: len(tokens)])


def key_data(seed: int, name: str) -> np.ndarray:
  """Returns the data of a random key, two uint32 words, as a hash of seed and name."""
  return np.frombuffer(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], np.uint32)
