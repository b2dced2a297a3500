"""How a setting is declared.

Each key of the configuration is declared once, as a field of a dataclass in `settings*.py`:

    max_attempts: int = key(6, "Attempts per request.", ge=1, mutable=True)

The defaults in `configs/base.py`, the checks in `config/`, the keys that may change between
restarts, `--help` and `docs/configuration.md` are derived from these declarations.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar, cast, get_args

T = TypeVar("T")


class Table(NamedTuple):
  """Choices that are the keys of an implementing table, resolved by `config/choices.py`.

  Attributes:
    name: Where the table is, as `module.TABLE`.
    others: Further values, such as "" for "not set".
  """

  name: str
  others: tuple[str, ...] = ()


Look = Callable[[str], object]  # the value of a key by its dotted path


@dataclasses.dataclass(frozen=True)
class When:
  """A condition under which a key is read: another key has one of the given values.

  For a key of `config.teachers.NAME`, a path that begins with "teacher." refers to that same
  teacher, so each teacher is checked against its own values.

  Attributes:
    path: The other key.
    values: The values that satisfy the condition.
  """

  path: str
  values: tuple[object, ...]

  @property
  def text(self) -> str:
    """The condition in words; completes the sentence "is read only ..."."""
    return f"with {self.path}={' or '.join(map(str, self.values))}"

  def holds(self, look: Look) -> bool:
    """Whether the condition is satisfied; `look(path)` returns the value of a key."""
    return look(self.path) in self.values


@dataclasses.dataclass(frozen=True)
class Unless:
  """A condition: another key has none of the given values; see `When`."""

  path: str
  values: tuple[object, ...]

  @property
  def text(self) -> str:
    """The condition in words."""
    *others, last = [str(v) if v != "" else "empty" for v in self.values]
    listed = f"{', '.join(others)} or {last}" if others else last
    return f"if {self.path} is not {listed}"

  def holds(self, look: Look) -> bool:
    """Whether the condition is fulfilled."""
    return look(self.path) not in self.values


@dataclasses.dataclass(frozen=True)
class Above:
  """A condition: another key, a number, is above a limit; see `When`."""

  path: str
  limit: float = 0

  @property
  def text(self) -> str:
    """The condition in words."""
    return f"with {self.path} above {self.limit:g}"

  def holds(self, look: Look) -> bool:
    """Whether the condition is fulfilled."""
    value = look(self.path)
    return isinstance(value, int | float) and value > self.limit


@dataclasses.dataclass(frozen=True)
class Planned:
  """A condition: a phase is in `opening` or `each_round`."""

  phase: str

  @property
  def text(self) -> str:
    """The condition in words."""
    return f"with {self.phase} in opening or each_round"

  def holds(self, look: Look) -> bool:
    """Whether the condition is fulfilled."""
    plans = (look("opening"), look("each_round"))
    return any(isinstance(plan, tuple) and self.phase in plan for plan in plans)


@dataclasses.dataclass(frozen=True)
class AllOf:
  """A condition: all of `parts` hold. `words`, if set, replaces their texts."""

  parts: "tuple[Condition, ...]"
  words: str = ""

  @property
  def text(self) -> str:
    """The condition in words."""
    return self.words or " and ".join(part.text for part in self.parts)

  def holds(self, look: Look) -> bool:
    """Whether the condition is fulfilled."""
    return all(part.holds(look) for part in self.parts)


@dataclasses.dataclass(frozen=True)
class AnyOf:
  """A condition: at least one of `parts` holds. `words`, if set, replaces their texts."""

  parts: "tuple[Condition, ...]"
  words: str = ""

  @property
  def text(self) -> str:
    """The condition in words."""
    return self.words or ", or ".join(part.text for part in self.parts)

  def holds(self, look: Look) -> bool:
    """Whether the condition is fulfilled."""
    return any(part.holds(look) for part in self.parts)


Condition = When | Unless | Above | Planned | AllOf | AnyOf


@dataclasses.dataclass(frozen=True)
class Declaration:
  """The declaration of one key or group.

  Attributes:
    doc: Meaning and unit, one or two sentences.
    ge: Inclusive lower bound; `gt` is exclusive.
    gt: Exclusive lower bound.
    le: Inclusive upper bound; `lt` is exclusive.
    lt: Exclusive upper bound.
    choices: Allowed values (of a tuple: allowed elements).
    mutable: Whether the key may change between restarts of a run.
    when: Conditions that must all hold for the key to be read.
  """

  doc: str
  ge: float | None = None
  gt: float | None = None
  le: float | None = None
  lt: float | None = None
  choices: tuple[str, ...] | Table = ()
  mutable: bool = False
  when: tuple[Condition, ...] = ()

  @property
  def allowed(self) -> str:
    """The bounds in words; completes the sentence "must be ...". "" without bounds."""
    match (self.ge, self.gt, self.le, self.lt):
      case (None, None, None, None):
        return ""
      case (low, None, None, None) if low is not None:
        return "0 or more" if low == 0 else f"at least {low:g}"
      case (None, low, None, None):
        return f"above {low:g}"
      case (low, None, high, None) if low is not None:
        return f"between {low:g} and {high:g}"
      case (None, low, high, None):
        return f"above {low:g} and at most {high:g}"
      case (low, None, None, high):
        return f"at least {low:g} and below {high:g}"
      case _:
        raise ValueError(f"unsupported bounds: {self}")

  def admits(self, value: float) -> bool:
    """Whether a number is within the bounds."""
    return (
      (self.ge is None or value >= self.ge)
      and (self.gt is None or value > self.gt)
      and (self.le is None or value <= self.le)
      and (self.lt is None or value < self.lt)
    )


def key(default: T, doc: str, **options: Any) -> T:
  """Declares a key with its default.

  Args:
    default: The value in `configs/base.py`.
    doc: Meaning and unit.
    **options: The other fields of `Declaration`.

  Returns:
    A dataclass field, typed as the default so that type checkers see the type of the key.
  """
  metadata = {"declaration": Declaration(doc, **options)}
  return cast(T, dataclasses.field(default=default, metadata=metadata))


def group(kind: type[T], doc: str, *, when: tuple[Condition, ...] = (), mutable: bool = False) -> T:
  """Declares a group of keys.

  Args:
    kind: The dataclass that declares the keys of the group.
    doc: What the group is about.
    when: Conditions that hold for every key of the group.
    mutable: Whether all keys of the group may change between restarts.

  Returns:
    A dataclass field, typed as the group.
  """
  metadata = {"declaration": Declaration(doc, when=when, mutable=mutable)}
  return cast(T, dataclasses.field(default_factory=kind, metadata=metadata))


def mapping(doc: str) -> dict[str, Any]:
  """Declares a mapping of names to groups, empty by default."""
  metadata = {"declaration": Declaration(doc)}
  return cast("dict[str, Any]", dataclasses.field(default_factory=dict, metadata=metadata))


class Key(NamedTuple):
  """One key of the configuration, or the mapping `teachers`.

  Attributes:
    path: Dotted name without the leading "config.".
    type: `int`, `str`, `tuple[int, ...]`, ...
    default: The declared default.
    declaration: What is declared, with the conditions of the enclosing groups.
  """

  path: str
  type: Any
  default: Any
  declaration: Declaration


class Group(NamedTuple):
  """One group of keys; see `walk`."""

  path: str
  type: type
  declaration: Declaration


def walk(kind: type, path: str = "", above: Declaration | None = None) -> Iterator[Key | Group]:
  """Yields every group and key below a settings dataclass, in the order of their declaration."""
  for field in dataclasses.fields(kind):
    name = f"{path}.{field.name}" if path else field.name
    declared = cast(Declaration, field.metadata["declaration"])
    if above is not None:
      when, mutable = above.when + declared.when, above.mutable or declared.mutable
      declared = dataclasses.replace(declared, when=when, mutable=mutable)
    if dataclasses.is_dataclass(field.type):
      below = cast(type, field.type)
      yield Group(name, below, declared)
      yield from walk(below, name, declared)
    elif field.default_factory is not dataclasses.MISSING:
      yield Key(name, field.type, field.default_factory(), declared)
    else:
      yield Key(name, field.type, field.default, declared)


def keys(kind: type) -> list[Key]:
  """Every key below a settings dataclass."""
  return [found for found in walk(kind) if isinstance(found, Key)]


def element_type(hint: Any) -> Any:
  """`X` of `tuple[X, ...]` or `dict[str, X]`; None for other types."""
  arguments = get_args(hint)
  if not arguments:
    return None
  return arguments[0] if arguments[-1] is Ellipsis else arguments[-1]
