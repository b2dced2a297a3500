"""The nouns that phases hand each other: frozen dataclasses, one JSON object a line on disk.

Standard library only; every other room may import this one. JSON is written in pure ASCII, so that
no text of a teacher or a student (lone surrogates, U+2028, control characters) can break a line or
a file.
"""

import dataclasses
import json
import types
import typing

from distill_jax import errors


@dataclasses.dataclass(frozen=True)
class Problem:
  """A question with what is known about its answer. `gold` is in the task's canonical form."""

  id: str
  split: str
  question: str
  gold: str
  kind: str = "number"  # number | choice | boolean | text
  rationale: str = ""  # a gold rationale, ending in its answer; "" where the data set has none
  choices: tuple[tuple[str, str], ...] = ()  # (label, text)
  decomposition: tuple[tuple[str, str], ...] = ()  # (sub-question, its solution), in order
  facts: tuple[str, ...] = ()  # what one has to know, where the data set says it


@dataclasses.dataclass(frozen=True)
class Rationale:
  """A text that ends in an answer, with who wrote it, how, why, and at what cost."""

  problem: str
  text: str
  answer: str | None  # as read by the task; None if it could not be read
  writer: str  # the teacher's model name, or "gold"
  round: int
  prompt: str  # annotate | correct | stage | decompose; "" if nobody was asked
  sample: int
  temperature: float
  # its parts, in order: (stage or label of an option, text), or (sub-question, solution)
  parts: tuple[tuple[str, str], ...] = ()
  corrects: str = ""  # the wrong attempt this answers, verbatim
  critique: str = ""  # what the teacher said was wrong with it
  tokens: int = 0  # completion tokens
  dollars: float = 0.0


@dataclasses.dataclass(frozen=True)
class Attempt:
  """A student's rationale with its verdict."""

  problem: str
  text: str
  answer: str | None
  correct: bool
  round: int
  sample: int
  finish: str  # stop | length
  tokens: int
  logprob: float  # nats, summed over the sampled tokens, at temperature 1
  style: str = ""  # how it was asked for, where a format has several ways
  stage: str = ""  # the stage whose texts were sampled; "": all of it
  turns: tuple[tuple[str, str, str], ...] = ()  # (stage, prompt, text), of several or of a stage


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What a question was answered with in the end, after the vote where there is one."""

  problem: str
  answer: str | None
  correct: bool


@dataclasses.dataclass(frozen=True)
class Example:
  """What one row of supervised training shows: a prompt, and the target the student should
  write."""

  problem: str
  prompt: str
  target: str
  student: str = "student"  # whose it is, where there are several
  stage: str = ""


@dataclasses.dataclass(frozen=True)
class PreferencePair:
  """Two answers to one prompt, of which one is to be preferred; what the reference policy thinks of
  them is part of it (0.0 where the loss has no reference)."""

  problem: str
  prompt: str
  chosen: str
  rejected: str
  stage: str
  reference_chosen: float  # nats, summed over the tokens
  reference_rejected: float


@dataclasses.dataclass(frozen=True)
class TripletExample:
  """Targets of one question that are right and wrong; the anchor is the example's own target."""

  problem: str
  positives: tuple[str, ...]
  negatives: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Metrics:
  """Training at a step: means over the steps since the row before; a term that is not computed is
  None. Log-probabilities, margin and KL in nats; what they mean: learning/objectives.py."""

  step: int
  loss: float
  grad_norm: float
  student: str = "student"
  sft: float | None = None
  triplet: float | None = None
  preference: float | None = None
  nll: float | None = None  # of the chosen sides
  margin: float | None = None
  accuracy: float | None = None  # share of pairs whose margin is above 0
  chosen: float | None = None
  rejected: float | None = None
  kl: float | None = None


def dump(record) -> str:
  """One line of JSON, without the line end."""
  return json.dumps(dataclasses.asdict(record), ensure_ascii=True)


def load(kind: type, line: str, where: str):
  """The record in a line of JSON; `where` ("file:line") names it in the one error there is."""
  try:
    fields = json.loads(line)
  except ValueError as error:
    raise errors.data(f"{where}: not JSON ({error}); remove or mend this line") from None
  hints = typing.get_type_hints(kind)
  if not isinstance(fields, dict) or not set(fields) <= set(hints):
    raise errors.data(f"{where}: not a {kind.__name__}; its fields are {', '.join(hints)}")
  required = {f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING}
  if missing := required - set(fields):
    raise errors.data(f"{where}: a {kind.__name__} needs {', '.join(sorted(missing))}")
  return kind(
    **{name: _typed(value, hints[name], f"{where}: {name}") for name, value in fields.items()}
  )


def _typed(value, hint, where: str):
  origin = typing.get_origin(hint)
  if origin is types.UnionType:
    return None if value is None else _typed(value, typing.get_args(hint)[0], where)
  if origin is tuple:
    inner = typing.get_args(hint)
    if not isinstance(value, list) or (inner[-1] is not ... and len(value) != len(inner)):
      raise errors.data(f"{where}: not the list it should be")
    kinds = [inner[0]] * len(value) if inner[-1] is ... else inner
    return tuple(_typed(v, k, where) for v, k in zip(value, kinds, strict=True))
  if hint is float and type(value) is int:
    return float(value)
  if type(value) is not hint:
    raise errors.data(f"{where}: {type(value).__name__} where {hint.__name__} belongs")
  return value
