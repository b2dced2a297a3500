"""Finds and loads recipes: Python files with `get_config()` or `get_config(size)`.

A recipe is named by a path, `FILE.py` or `FILE.py:SIZE`, or by the name of a recipe that comes with
the package, `tailored` or `tailored:quick`.
"""

import inspect
import os
import pathlib
import runpy
from typing import Any, cast

from ml_collections import ConfigDict  # pyright: ignore[reportMissingTypeStubs]

import distill_jax
from distill_jax import disk, errors


def directory() -> pathlib.Path:
  """The directory of the recipes: in the installed package, or next to it in the repository."""
  package = pathlib.Path(distill_jax.__path__[0])
  installed = package / "configs"
  return installed if installed.is_dir() else package.parent / "configs"


def names() -> list[str]:
  """The recipes that come with the package."""
  return sorted(
    file.stem for file in directory().glob("*.py") if file.stem not in ("__init__", "base")
  )


def load(recipe: str) -> ConfigDict:
  """The config of a recipe.

  Args:
    recipe: `FILE.py`, `FILE.py:SIZE`, `NAME` or `NAME:SIZE`.

  Returns:
    A new ConfigDict.

  Raises:
    UserError: There is no such recipe or size, or the file fails. Exit code 3.
  """
  config = call(recipe, "get_config")
  if not isinstance(config, ConfigDict):
    raise errors.UserError(f"get_config() of {recipe} does not return a ConfigDict", errors.CONFIG)
  return config


def call(recipe: str, function: str) -> Any:
  """Runs a recipe's file and calls one of its functions, with the size if one is named.

  Args:
    recipe: As in `load`; `sweeps/NAME` names a sweep of the package.
    function: Name of the function, such as get_config.

  Returns:
    What the function returns.

  Raises:
    UserError: See `load`.
  """
  name, _, size = recipe.partition(":")
  file = path_of(name)
  program = _run(file)
  if function not in program:
    raise errors.UserError(f"{file} has no function {function}()", errors.CONFIG)
  made = program[function]
  if not callable(made):
    raise errors.UserError(f"{file}: {function} is not a function", errors.CONFIG)
  if size and not inspect.signature(made).parameters:
    raise errors.UserError(f"{name} has one size: leave :{size} out", errors.CONFIG)
  sizes: object = program.get("SIZES") or program.get("ROWS")
  if size and isinstance(sizes, dict) and size not in sizes:
    known = ", ".join(map(str, cast("dict[object, object]", sizes)))
    raise errors.UserError(f"{name} has no size {size!r}; choose one of {known}", errors.CONFIG)
  try:
    return made(size) if size else made()
  except errors.UserError:
    raise
  except KeyboardInterrupt:
    raise
  except BaseException as error:
    raise _failed(file, error) from None


def path_of(name: str) -> pathlib.Path:
  """The file of a recipe, given by path or by name.

  Raises:
    UserError: There is no such file, nor a recipe of that name.
  """
  file = pathlib.Path(name)
  try:
    disk.check_regular(file)
    return file
  except FileNotFoundError:
    problem = "no such file"
  except IsADirectoryError:
    problem = "is a directory"
  except OSError as error:  # a name that is too long, a FIFO
    problem = error.strerror or str(error)
  known = directory() / f"{name}.py"
  if not name.endswith(".py") and os.path.isfile(known):
    return known
  if file.suffix == ".py" or "/" in name or problem not in ("no such file", "is a directory"):
    raise errors.UserError(f"the config file {name} cannot be read: {problem}", errors.CONFIG)
  raise errors.UserError(
    f"there is no recipe {name!r}; choose one of {', '.join(names())}, or name a file: FILE.py",
    errors.CONFIG,
  )


def _run(file: pathlib.Path) -> dict[str, Any]:
  try:
    return runpy.run_path(str(file))
  except errors.UserError:
    raise
  except OSError as error:
    message = f"the config file {file} cannot be read: {error.strerror or error}"
    raise errors.UserError(message, errors.CONFIG) from None
  except KeyboardInterrupt:
    raise
  except BaseException as error:  # a config file is a program and may fail in any way
    raise _failed(file, error) from None


def _failed(file: pathlib.Path, error: BaseException) -> errors.UserError:
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  message = f"the config file {file} fails: {type(error).__name__}: {' '.join(lines[:1])}"
  return errors.UserError(message, errors.CONFIG)
