"""The error for a directory that is not a run's."""

import contextlib
import itertools
import pathlib

from distill_jax import errors

SHOWN = 5  # runs that a message names
RUNS = ("*/config.json", "rows/*/*/config.json")  # below a directory of runs, and of a sweep


def error(path: str | pathlib.Path) -> errors.UserError:
  """Returns the error for a directory without config.json; names the runs below it, if any."""
  below: list[str] = []
  with contextlib.suppress(OSError):
    found = itertools.chain.from_iterable(map(pathlib.Path(path).glob, RUNS))
    below = [str(file.parent) for file in itertools.islice(found, SHOWN + 1)]
  hint = "" if not below else f"; runs in it: {', '.join(sorted(below)[:SHOWN])}"
  more = ", ..." if len(below) > SHOWN else ""
  return errors.usage(f"{path} is not a run directory (no config.json){hint}{more}")
