"""Builds the settings dataclasses from a plain nested dict, and checks names and types."""

import dataclasses
import math
from typing import Any, TypeVar, cast, get_args, get_origin

from distill_jax import errors

T = TypeVar("T")
INT_LIMIT = 2**31 - 1  # devices count in 32 bits


def build(kind: type[T], values: object, path: str = "") -> T:
  """Builds a settings dataclass.

  Args:
    kind: The dataclass.
    values: A dict with a value for every field of `kind`, and nothing else.
    path: Dotted name of the group, for messages.

  Returns:
    An instance of `kind`.

  Raises:
    UserError: `values` is not a dict, a name is unknown or missing, or a value has the wrong type.
  """
  if not isinstance(values, dict):
    raise errors.config(path, values, "a group of settings")
  given = cast("dict[str, object]", values)
  fields = {field.name: field.type for field in dataclasses.fields(cast(Any, kind))}
  prefix = f"{path}." if path else ""
  for name in given:
    if name not in fields:
      raise errors.UserError(
        f"config.{prefix}{name} is not a setting; there are: {', '.join(fields)}", errors.CONFIG
      )
  for name in fields:
    if name not in given:
      raise errors.UserError(
        f"config.{prefix}{name} is missing (see configs/base.py)", errors.CONFIG
      )
  return kind(**{name: _value(hint, given[name], prefix + name) for name, hint in fields.items()})


def _value(hint: Any, value: object, path: str) -> object:
  if dataclasses.is_dataclass(hint):
    return build(cast("type[object]", hint), value, path)
  if get_origin(hint) is dict:  # dict[str, X]
    if not isinstance(value, dict):
      raise errors.config(path, value, "a group of groups")
    kind, groups = get_args(hint)[1], cast("dict[str, object]", value)
    return {name: _value(kind, part, f"{path}.{name}") for name, part in groups.items()}
  if get_origin(hint) is tuple:  # tuple[X, ...]
    if not isinstance(value, tuple | list):
      raise errors.config(path, value, "a tuple", f"--config.{path}=a,b")
    kind, parts = get_args(hint)[0], cast("tuple[object, ...]", value)
    return tuple(_value(kind, part, f"{path}[{n}]") for n, part in enumerate(parts))
  if hint is float and type(value) is int:
    value = float(value) if value.bit_length() < 1024 else math.inf
  if type(value) is not hint:
    raise errors.config(path, value, f"of type {hint.__name__}")
  if isinstance(value, float) and not math.isfinite(value):
    raise errors.config(path, value, "a finite number")
  if isinstance(value, str) and "\0" in value:
    raise errors.config(path, value, "a string without null bytes")
  if isinstance(value, int) and not -INT_LIMIT <= value <= INT_LIMIT:
    raise errors.config(path, value, f"at most {INT_LIMIT}: it must fit in 32 bits")
  return value
