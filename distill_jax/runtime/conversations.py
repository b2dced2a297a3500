"""Runs many conversations of a format with students at once.

In each step, all conversations that wait for the same student are answered in one batch.
"""

from collections.abc import Collection, Generator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from distill_jax import records
from distill_jax.formats.turns import Turn
from distill_jax.runtime.student import Completion, Params


class Responder(Protocol):
  """The part of a student's interface that conversations use."""

  def generate(self, *args: Any, **kwargs: Any) -> list[Completion]:
    """See Student.generate."""
    ...


class Transcript(NamedTuple):
  """A finished conversation."""

  text: str  # what the conversation returned
  finish: str  # stop | length: length if any of its turns was cut off
  tokens: int  # of all turns
  logprob: float  # nats, summed over all turns
  turns: tuple[tuple[str, records.Prompt, str], ...]  # (stage, prompt, text) of each, in order


class _Exchange(NamedTuple):
  """A turn that has been answered."""

  turn: Turn
  completion: Completion


class Pending(NamedTuple):
  """A turn that is waiting for its answer."""

  turn: Turn
  name: str  # seeds the random numbers


class Dialogue:
  """A conversation in progress.

  Attributes:
    pending: The turns that are waiting for their answers.
    transcript: The transcript; None until the conversation has ended.
  """

  def __init__(self, conversation: Generator[tuple[Turn, ...], list[str], str], name: str):
    """`conversation`: a generator of a format; `name`: see `run_conversations`."""
    self._conversation, self._name = conversation, name
    self._history: list[_Exchange] = []
    self.pending = self._named(next(conversation))
    self.transcript: Transcript | None = None

  def _named(self, turns: Sequence[Turn]) -> list[Pending]:
    first = len(self._history)
    return [Pending(turn, f"{self._name}/{n}") for n, turn in enumerate(turns, first)]

  def answer(self, completions: Sequence[Completion]) -> None:
    """Continues the conversation with the answers of its pending turns."""
    for waiting, completion in zip(self.pending, completions, strict=True):
      self._history.append(_Exchange(waiting.turn, completion))
    try:
      turns = self._conversation.send([completion.text for completion in completions])
    except StopIteration as end:
      self.pending, self.transcript = [], _transcript(end.value, self._history)
    else:
      self.pending = self._named(turns)


def run_conversations(
  conversations: Sequence[Generator[tuple[Turn, ...], list[str], str]],
  names: Sequence[str],
  *,
  students: Mapping[str, tuple[Responder, Params]],
  sampled_stages: Collection[str] | None = None,
  **decoding: Any,
) -> list[Transcript]:
  """Runs conversations to their ends.

  Args:
    conversations: Generators of a format (see formats/).
    names: A unique name for each. The name and the index of a turn determine the turn's random
      numbers, so they do not depend on the other conversations.
    students: {name: (student, weights)}.
    sampled_stages: Stages that are sampled at the decoding temperature; the others are greedy.
      None: all are sampled.
    **decoding: See Student.generate.

  Returns:
    The transcripts, in the order of `conversations`.
  """
  pairs = zip(conversations, names, strict=True)
  dialogues = [Dialogue(conversation, name) for conversation, name in pairs]
  while waiting := [dialogue for dialogue in dialogues if dialogue.transcript is None]:
    pending = [turn for dialogue in waiting for turn in dialogue.pending]
    completions = iter(_complete(pending, students, sampled_stages, decoding))
    for dialogue in waiting:
      dialogue.answer([next(completions) for _ in dialogue.pending])
  return [dialogue.transcript for dialogue in dialogues if dialogue.transcript is not None]


def _complete(
  pending: Sequence[Pending],
  students: Mapping[str, tuple[Responder, Params]],
  sampled_stages: Collection[str] | None,
  decoding: Mapping[str, Any],
) -> list[Completion]:
  """Completes turns, in order. Equal prompts are put next to each other to share a prefill."""
  completions: dict[int, Completion] = {}
  first: dict[records.Prompt, int] = {}  # prompt -> index of the first turn that has it
  groups: dict[tuple[str, bool], list[int]] = {}
  for index, (turn, _) in enumerate(pending):
    first.setdefault(turn.prompt, index)
    greedy = sampled_stages is not None and turn.stage not in sampled_stages
    groups.setdefault((turn.student, greedy), []).append(index)
  for (name, greedy), indices in sorted(groups.items()):
    indices.sort(key=lambda index: first[pending[index].turn.prompt])
    student, params = students[name]
    requests = [(pending[index].turn.prompt, pending[index].name) for index in indices]
    options = {**decoding, "temperature": 0.0} if greedy else decoding
    results = student.generate(params, requests, **options)
    completions.update(zip(indices, results, strict=True))
  return [completions[index] for index in range(len(pending))]


def _transcript(text: str, history: Sequence[_Exchange]) -> Transcript:
  completions = [exchange.completion for exchange in history]
  complete = all(completion.finish == "stop" for completion in completions)
  return Transcript(
    text,
    "stop" if complete else "length",
    sum(completion.tokens for completion in completions),
    sum(completion.logprob for completion in completions),
    tuple((turn.stage, turn.prompt, completion.text) for turn, completion in history),
  )
