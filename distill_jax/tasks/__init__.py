"""Tasks: data sets with the readers of their answers. Get one with `get`."""

import functools
import inspect
from collections.abc import Callable

from distill_jax import errors
from distill_jax.tasks import arithmetic, choices, mathematics, own, published, task, taxonomy

Task = task.Task
LOADERS: dict[str, Callable[..., Task]] = {"arithmetic": arithmetic.load, "taxonomy": taxonomy.load}
LOADERS[own.NAME] = own.load
for _name, _source in (mathematics.SOURCES | choices.SOURCES).items():
  LOADERS[_name] = functools.partial(published.load, _name, _source)


def get(name: str, **options: object) -> Task:
  """Returns the task `name`.

  Args:
    name: A key of LOADERS.
    **options: The settings of the task; see its loader.

  Raises:
    errors.UserError: The task is unknown, an option is unknown, or a required one is missing.
  """
  if name not in LOADERS:
    raise errors.config("task.name", name, f"one of {', '.join(sorted(LOADERS))}")
  parameters = inspect.signature(LOADERS[name]).parameters
  for option, value in options.items():
    if option not in parameters:
      allowed = f"absent; the options of {name} are {', '.join(parameters)}"
      raise errors.config(f"task.{option}", value, allowed)
  required = [key for key, p in parameters.items() if p.default is p.empty and key not in options]
  if required:
    raise errors.usage(f"task {name} needs {', '.join(required)}")
  return LOADERS[name](**options)
