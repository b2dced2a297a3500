"""A plain nested dict as frozen dataclasses without defaults: what is unknown, missing or of the
wrong type is refused by its name."""

import dataclasses
import math
import types

from distill_jax import errors

LARGEST = 2**31 - 1  # of a whole number: the device counts in 32 bits


def group(kind, values, at: str):
  """A `kind` of what `values` holds; `at` is its dotted name. Raises errors.UserError."""
  if not isinstance(values, dict):
    raise errors.config(at, values, "a group of settings")
  names = {f.name: f.type for f in dataclasses.fields(kind)}
  path = lambda name: f"{at}.{name}" if at else name
  for name in values:
    if name not in names:
      raise errors.UserError(
        f"config.{path(name)} is not a setting; there are: {', '.join(names)}", errors.CONFIG
      )
  for name in names:
    if name not in values:
      raise errors.UserError(f"config.{path(name)} is missing (see configs/base.py)", errors.CONFIG)
  return kind(**{name: value_of(hint, values[name], path(name)) for name, hint in names.items()})


def value_of(hint, value, at: str):
  if dataclasses.is_dataclass(hint):
    return group(hint, value, at)
  if isinstance(hint, types.GenericAlias) and hint.__origin__ is dict:  # dict[str, X]
    if not isinstance(value, dict):
      raise errors.config(at, value, "a group of groups")
    return {name: value_of(hint.__args__[1], v, f"{at}.{name}") for name, v in value.items()}
  if isinstance(hint, types.GenericAlias):  # tuple[X, ...]
    if not isinstance(value, tuple | list):
      raise errors.config(at, value, "a tuple", f"--config.{at}='(a, b)'")
    return tuple(value_of(hint.__args__[0], v, f"{at}[{n}]") for n, v in enumerate(value))
  if hint is float and type(value) is int:
    value = float(value) if value.bit_length() < 1024 else math.inf
  if type(value) is not hint:
    raise errors.config(at, value, f"of type {hint.__name__}")
  if hint is float and not math.isfinite(value):
    raise errors.config(at, value, "a finite number")
  if hint is str and "\0" in value:
    raise errors.config(at, value, "a text without null bytes")
  if hint is int and not -LARGEST <= value <= LARGEST:
    raise errors.config(at, value, f"at most {LARGEST}: it has to fit 32 bits")
  return value
