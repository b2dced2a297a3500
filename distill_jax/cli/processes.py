"""The options of a command that several processes run together, and how such a command ends."""

import os
import traceback
from collections.abc import Mapping, Sequence

from distill_jax import errors, together
from distill_jax.cli import args, process
from distill_jax.cli.help import PROCESSES

COMMANDS = ("run", "evaluate", "sample", "export")  # that several processes can run
AUTO = "auto"
VARIABLES = {name: f"DISTILL_JAX_{name.upper()}" for name in PROCESSES}


def join(words: Sequence[str]) -> list[str]:
  """Takes the options about processes out of a command; connects the processes if there are any.

  An option that is not given is read from its environment variable.

  Returns:
    The other words.

  Raises:
    UserError: The options are wrong, or the processes do not find each other.
  """
  given: dict[str, str] = {}
  rest = list(words)
  for name, variable in VARIABLES.items():
    value, rest = args.take(rest, name)
    given[name] = os.environ.get(variable, "") if value is None else value
  if given["processes"] in ("", "1"):
    if given["process"] not in ("", "0"):
      raise errors.usage("--process needs --processes=N, the number of all processes")
    return rest
  patience = _number("patience", given["patience"] or str(PROCESSES["patience"][0]))
  # Before jax is imported: a word that is wrong is reported at once.
  count = None if given["processes"] == AUTO else _number("processes", given["processes"])
  if count is not None and not (given["process"] and given["coordinator"]):
    raise errors.usage(
      "--processes=N also needs --process=I, from 0 to N-1, and --coordinator=HOST:PORT of process"
      " 0; or give --processes=auto"
    )
  from distill_jax.machine import processes

  if count is None:
    place = processes.detect(given["coordinator"])
    if place is None:
      raise errors.usage(
        "--processes=auto finds no launcher (SLURM, Open MPI, GKE, TPU); give --processes=N"
        " --process=I --coordinator=HOST:PORT"
      )
  else:
    place = processes.Place(count, _index(given, count), given["coordinator"])
  if place.count > 1:
    processes.start(place, float(patience))
  return rest


def _number(name: str, text: str) -> int:
  if not text.isdecimal() or int(text) < 1:
    allowed = "auto or a number from 1" if name == "processes" else "a number from 1"
    raise errors.usage(f"--{name}={text} must be {allowed}")
  return int(text)


def _index(given: Mapping[str, str], count: int) -> int:
  text = given["process"]
  if not text.isdecimal() or int(text) >= count:
    raise errors.usage(f"--process={text} must be a number from 0 to {count - 1}")
  return int(text)


def end(outcome: int | errors.UserError | Exception) -> int:
  """Ends a command that several processes run; returns its exit code.

  Args:
    outcome: The exit code, or what was raised.
  """
  from distill_jax.machine import processes

  if isinstance(outcome, int):
    return processes.leave(outcome, "", lambda: None)
  if isinstance(outcome, errors.UserError):
    error = outcome
  elif together.is_loss(outcome):
    error = errors.UserError(
      "another process is gone; re-run the same command to resume", errors.PREEMPTED
    )
  else:
    text = f"process {together.index()}: {outcome!r}"
    return processes.leave(1, text, lambda: traceback.print_exception(outcome))
  if together.index() and not isinstance(error, together.ToldError):
    shown = errors.UserError(f"process {together.index()}: {error}", error.code)
  else:
    shown = error
  return processes.leave(error.code, str(error), lambda: process.report(shown))
