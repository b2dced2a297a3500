"""Runs many conversations of a format with students at once.

In each step, all conversations that wait for the same student are answered in one batch.
"""

from collections.abc import Collection, Generator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from distill_jax import records
from distill_jax.formats.turns import Turn
from distill_jax.runtime.student import Completion, Params


class Responder(Protocol):
  """The interface of a student that conversations need."""

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


class _Pending(NamedTuple):
  """A turn that waits for its answer."""

  turn: Turn
  name: str  # seeds the random numbers
  conversation: int


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
    names: A unique name for each. Together with the number of a turn it decides the turn's random
      numbers, so the other conversations do not matter.
    students: {name: (student, weights)}.
    sampled_stages: Stages that are sampled at the decoding temperature; the others are greedy.
      None: all are sampled.
    **decoding: See Student.generate.

  Returns:
    The transcripts, in the order of `conversations`.
  """
  transcripts: dict[int, Transcript] = {}
  history: list[list[_Exchange]] = [[] for _ in conversations]
  waiting = {n: next(conversation) for n, conversation in enumerate(conversations)}
  while waiting:
    pending = [
      _Pending(turn, f"{names[n]}/{number}", n)
      for n, turns in waiting.items()
      for number, turn in enumerate(turns, len(history[n]))
    ]
    completions = _complete(pending, students, sampled_stages, decoding)
    for (turn, _, n), completion in zip(pending, completions, strict=True):
      history[n].append(_Exchange(turn, completion))
    answered, waiting = waiting, {}
    for n, turns in answered.items():
      try:
        texts = [exchange.completion.text for exchange in history[n][-len(turns) :]]
        waiting[n] = conversations[n].send(texts)
      except StopIteration as end:
        transcripts[n] = _transcript(end.value, history[n])
  return [transcripts[n] for n in range(len(conversations))]


def _complete(
  pending: Sequence[_Pending],
  students: Mapping[str, tuple[Responder, Params]],
  sampled_stages: Collection[str] | None,
  decoding: Mapping[str, Any],
) -> list[Completion]:
  """Completes turns, in order. Equal prompts are made neighbors, so they share a prefill."""
  completions: dict[int, Completion] = {}
  first: dict[records.Prompt, int] = {}  # prompt -> index of the first turn that has it
  groups: dict[tuple[str, bool], list[int]] = {}
  for index, (turn, _, _) in enumerate(pending):
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
