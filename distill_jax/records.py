"""Records that phases exchange: frozen dataclasses, stored as one JSON object per line.

Every module may import this one; it uses the standard library only. The JSON is pure ASCII, so no
text of a teacher or student (lone surrogates, U+2028, control characters) can break a line or a
file.
"""

import dataclasses
import json
import types
import typing
from typing import Any, ClassVar, Protocol, TypeVar

from distill_jax import errors


class Record(Protocol):
  """Any of the dataclasses below."""

  __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


R = TypeVar("R", bound=Record)

Messages = tuple[tuple[str, str], ...]  # (role, text) of a conversation, the user's last
Prompt = str | Messages  # of a student: plain text, or what its chat template lays out


@dataclasses.dataclass(frozen=True)
class Problem:
  """A question with its gold answer, in the task's canonical form."""

  id: str
  split: str
  question: str
  gold: str
  kind: str = "number"  # number | choice | boolean | expression | text
  rationale: str = ""  # gold rationale, ending in its answer; "" if the data set has none
  choices: tuple[tuple[str, str], ...] = ()  # (label, text)
  decomposition: tuple[tuple[str, str], ...] = ()  # (sub-question, its solution), in order
  facts: tuple[str, ...] = ()  # knowledge needed to answer, if the data set provides it
  accepted: tuple[str, ...] = ()  # further right answers, of kind text


@dataclasses.dataclass(frozen=True)
class Question:
  """A question as `questions.jsonl` of a run directory lists it."""

  id: str
  split: str  # train | validation | test | out_of_domain | cross | also
  question: str
  gold: str
  kind: str = "number"  # number | choice | boolean | expression | text
  choices: tuple[tuple[str, str], ...] = ()  # (label, text)
  decomposition: tuple[tuple[str, str], ...] = ()  # (sub-question, its solution), in order


@dataclasses.dataclass(frozen=True)
class Rationale:
  """A text that ends in an answer, with its author, prompt, sampling and cost."""

  problem: str
  text: str
  answer: str | None  # as read by the task; None if unreadable
  writer: str  # the teacher's model name, "student" or "gold"
  round: int
  prompt: str  # annotate | correct | stage | decompose; hint (of a student); "" without a request
  sample: int
  temperature: float
  # In order: (stage or label of an option, text), or (sub-question, solution).
  parts: tuple[tuple[str, str], ...] = ()
  corrects: str = ""  # the wrong attempt it corrects, verbatim
  critique: str = ""  # the teacher's critique of that attempt
  tokens: int = 0  # completion tokens
  dollars: float = 0.0
  thinking: str = ""  # what the writer thought before the text, without marks


@dataclasses.dataclass(frozen=True)
class Dropped:
  """A reply that did not become a rationale, as an example of its reason."""

  problem: str
  reason: str
  text: str  # as the teacher wrote it; of a failed request, the message
  sample: int = 0
  corrects: str = ""  # the wrong attempt it was shown


@dataclasses.dataclass(frozen=True)
class Attempt:
  """A student's rationale and whether its answer is correct."""

  problem: str
  text: str
  answer: str | None  # None if unreadable
  correct: bool
  round: int
  sample: int
  finish: str  # stop | length
  tokens: int
  logprob: float  # nats, summed over the sampled tokens, at temperature 1
  style: str = ""  # style of the prompt, for formats with several
  stage: str = ""  # the stage that was sampled; "" if all of them
  # (stage, prompt, text) of each turn, if there are several or one stage was sampled
  turns: tuple[tuple[str, Prompt, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Completed:
  """What a student wrote in one turn of an attempt that is not finished."""

  name: str  # of the attempt and the turn
  text: str
  finish: str  # stop | length
  tokens: int
  logprob: float  # nats, summed over the tokens


@dataclasses.dataclass(frozen=True)
class Verdict:
  """The final answer to a question, after voting if there are several samples."""

  problem: str
  answer: str | None
  correct: bool


@dataclasses.dataclass(frozen=True)
class Example:
  """One supervised example: a prompt and the target to be learned."""

  problem: str
  prompt: Prompt
  target: str
  student: str = "student"  # which student it trains, for formats with several
  stage: str = ""


@dataclasses.dataclass(frozen=True)
class PreferencePair:
  """A preferred and a rejected answer to one prompt, with the reference policy's log-probabilities.

  The log-probabilities are 0.0 if the loss uses no reference.
  """

  problem: str
  prompt: Prompt
  chosen: str
  rejected: str
  stage: str
  reference_chosen: float  # nats, summed over the tokens
  reference_rejected: float


@dataclasses.dataclass(frozen=True)
class TripletExample:
  """Correct and wrong targets for one question. The anchor is the target of its `Example`."""

  problem: str
  positives: tuple[str, ...]
  negatives: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Metrics:
  """Training metrics, averaged over the steps since the previous row; None if not computed.

  Log-probabilities, margin and KL are in nats. `learning/objectives.py` defines each term.
  """

  step: int
  loss: float
  grad_norm: float
  student: str = "student"
  sft: float | None = None
  triplet: float | None = None
  preference: float | None = None
  nll: float | None = None  # of the chosen sides
  margin: float | None = None
  accuracy: float | None = None  # share of pairs with a positive margin
  chosen: float | None = None
  rejected: float | None = None
  kl: float | None = None


def rendered(question: Problem | Question) -> str:
  """Returns a question with its choices, one per line below it."""
  return "\n".join([question.question, *(f"({label}) {text}" for label, text in question.choices)])


def prompt_text(prompt: Prompt) -> str:
  """Returns a prompt as text to show: of messages, each with its role."""
  if isinstance(prompt, str):
    return prompt
  return "\n".join(f"[{role}] {text}" for role, text in prompt)


def dump(record: Record) -> str:
  """Returns the record as one line of JSON, without the line end.

  Raises:
    UserError: A number is not finite, which JSON does not have.
  """
  try:
    return json.dumps(dataclasses.asdict(record), ensure_ascii=True, allow_nan=False)
  except ValueError:
    raise errors.data(
      f"{type(record).__name__} contains a non-finite number, so training diverged; lower the"
      " learning rate and use a new --workdir"
    ) from None


def load(kind: type[R], line: str, where: str) -> R:
  """Parses one line of JSON.

  Args:
    kind: The record class.
    line: The line.
    where: "file:line", for the error message.

  Raises:
    UserError: The line is not JSON, or its fields do not have the names and types of `kind`.
  """
  try:
    fields = json.loads(line, parse_constant=_reject_constant)
  except (ValueError, RecursionError) as error:
    raise errors.data(f"{where}: not JSON ({error}); remove or repair this line") from None
  hints = typing.get_type_hints(kind)
  if not isinstance(fields, dict):
    raise errors.data(f"{where}: not a {kind.__name__}; expected an object")
  values = typing.cast(dict[str, Any], fields)
  if unknown := sorted(set(values) - set(hints)):
    raise errors.data(
      f"{where}: not a {kind.__name__}: unknown {', '.join(unknown)}; fields: {', '.join(hints)}"
    )
  required = {f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING}
  if missing := required - set(values):
    raise errors.data(f"{where}: {kind.__name__} lacks {', '.join(sorted(missing))}")
  return kind(
    **{name: _typed(value, hints[name], f"{where}: {name}") for name, value in values.items()}
  )


def _reject_constant(name: str) -> float:
  """Rejects NaN and Infinity, which are not JSON although Python writes them."""
  raise ValueError(f"{name} is not a number of JSON")


def _typed(value: Any, hint: Any, where: str) -> Any:
  """Returns a JSON value as the type `hint`: lists become tuples, and int becomes float."""
  origin = typing.get_origin(hint)
  if origin is types.UnionType:
    kinds = typing.get_args(hint)
    if value is None and types.NoneType in kinds:
      return None
    lists = [kind for kind in kinds if typing.get_origin(kind) is tuple]
    return _typed(value, lists[0] if lists and isinstance(value, list) else kinds[0], where)
  if origin is tuple:
    return _tuple(value, typing.get_args(hint), where)
  if hint is float and type(value) is int:
    return float(value)
  if type(value) is not hint:
    raise errors.data(f"{where} is {type(value).__name__}, but must be {hint.__name__}")
  return value


def _tuple(value: Any, inner: tuple[Any, ...], where: str) -> tuple[Any, ...]:
  """Returns a JSON list as tuple[inner]."""
  variadic = inner[-1] is ...
  if not isinstance(value, list):
    raise errors.data(f"{where} is {type(value).__name__}, but must be a list")
  items = typing.cast(list[Any], value)
  if not variadic and len(items) != len(inner):
    raise errors.data(f"{where} has {len(items)} items, but must have {len(inner)}")
  kinds = [inner[0]] * len(items) if variadic else inner
  return tuple(_typed(item, kind, where) for item, kind in zip(items, kinds, strict=True))
