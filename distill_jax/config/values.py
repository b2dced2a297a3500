"""Checks each setting on its own: bounds, choices, and whether the run reads it."""

import functools
from collections.abc import Iterator
from typing import Any, cast

from distill_jax import declare, errors
from distill_jax.config import choices
from distill_jax.declare import Key
from distill_jax.settings import Settings

KEYS = declare.keys(Settings)


def look_up(settings: Settings, path: str, teacher: str = "") -> Any:
  """The value of a key by its dotted path.

  Args:
    settings: The settings.
    path: The key.
    teacher: An entry of config.teachers, whose values are meant by paths that begin with
      "teacher."; empty = config.teacher.
  """
  value: Any = settings
  names = path.split(".")
  if teacher and names[0] == "teacher":
    value, names = settings.teachers[teacher], names[1:]
  for name in names:
    value = getattr(value, name)
  return value


def check(settings: Settings) -> None:
  """Checks bounds and choices.

  Raises:
    UserError: A value is out of bounds, or not one of the choices of its key.
  """
  for key in KEYS:
    for path, value in _values(settings, key):
      _check_choice(key, path, value)
      declaration = key.declaration
      if declaration.allowed and not declaration.admits(value):
        raise errors.config(path, value, declaration.allowed)


def _values(settings: Settings, key: Key) -> Iterator[tuple[str, Any]]:
  """(path, value) of a key; a key of config.teacher also yields those of config.teachers."""
  yield key.path, look_up(settings, key.path)
  if key.path.startswith("teacher."):
    for name in settings.teachers:
      yield _path_in(name, key), look_up(settings, key.path, name)


def _path_in(teacher: str, key: Key) -> str:
  """The path of a key of config.teacher in an entry of config.teachers."""
  return f"teachers.{teacher}.{key.path.removeprefix('teacher.')}"


def _check_choice(key: Key, path: str, value: Any) -> None:
  if not key.declaration.choices or value == key.default:
    return  # the default is valid, and resolving its choices may import jax
  allowed = choices.of(key.declaration)
  for part in cast("tuple[str, ...]", value) if isinstance(value, tuple) else (value,):
    if part not in allowed:
      several = isinstance(value, tuple)
      listed = ", ".join(choice or "''" for choice in allowed)
      raise errors.config(
        path,
        part,
        f"made of {listed}" if several else f"one of {listed}",
        "" if several else f"--config.{path}={allowed[0]}",
      )


def check_read(settings: Settings, config: dict[str, Any]) -> None:
  """Checks that the run reads every setting that was changed.

  Args:
    settings: The settings.
    config: The config they were built from, in which `teachers` has only the fields that each
      teacher sets.

  Raises:
    UserError: A setting differs from its default although nothing reads it.
  """
  for key in KEYS:
    if look_up(settings, key.path) != key.default:
      _require_read(key, key.path, functools.partial(look_up, settings))
  for name, own in config["teachers"].items():
    for key in KEYS:
      if key.path.startswith("teacher.") and _is_set(own, key.path.split(".")[1:]):
        look = functools.partial(look_up, settings, teacher=name)
        _require_read(key, _path_in(name, key), look)


def unread(config: dict[str, Any], key: Key) -> bool:
  """Whether nothing reads a key of `config`, a plain nested dict."""

  def look(path: str) -> object:
    value: Any = config
    for name in path.split("."):
      value = value[name]
    return tuple(cast("list[object]", value)) if isinstance(value, list) else value

  return not all(condition.holds(look) for condition in key.declaration.when)


def _is_set(own: Any, names: list[str]) -> bool:
  for name in names:
    if not isinstance(own, dict) or name not in own:
      return False
    own = cast("dict[str, Any]", own)[name]
  return True


def _require_read(key: Key, path: str, look: declare.Look) -> None:
  """Raises UserError if nothing reads a key.

  The message does not show the value: it may be an API key that was set in the wrong place.
  """
  for condition in key.declaration.when:
    if not condition.holds(look):
      raise errors.UserError(
        f"config.{path} is set, but nothing reads it: it is read only {condition.text};"
        " remove it, or change the config so that it is read",
        errors.CONFIG,
      )
