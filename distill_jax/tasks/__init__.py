"""Tasks: data sets with their readers. `get` is the door."""

import functools
import inspect

from distill_jax import errors
from distill_jax.tasks import arithmetic, choices, mathematics, published, task, taxonomy

Task = task.Task
LOADERS = {"arithmetic": arithmetic.load, "taxonomy": taxonomy.load} | {
  name: functools.partial(published.load, name, source)
  for name, source in (mathematics.SOURCES | choices.SOURCES).items()
}


def get(name: str, **options) -> Task:
  """The task of that name; `options` are its settings, as its `load` documents them.

  Raises errors.UserError for an unknown task, an option it does not know, and one it misses.
  """
  if name not in LOADERS:
    raise errors.config("task.name", name, f"one of {', '.join(sorted(LOADERS))}")
  known = inspect.signature(LOADERS[name]).parameters
  for option, value in options.items():
    if option not in known:
      raise errors.config(f"task.{option}", value, f"absent; {name} knows {', '.join(known)}")
  required = [key for key, p in known.items() if p.default is p.empty and key not in options]
  if required:
    raise errors.usage(f"task {name} needs {', '.join(required)}")
  return LOADERS[name](**options)
