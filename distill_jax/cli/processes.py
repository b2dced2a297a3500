"""The options of a command that several processes run together, and how such a command ends."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import time
import traceback
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import distill_jax
from distill_jax import errors, together
from distill_jax.cli import args, process
from distill_jax.cli.help import PROCESSES
from distill_jax.run_dir import phase_dir

if TYPE_CHECKING:
  from distill_jax.machine import processes
  from distill_jax.runtime.context import RunContext

COMMANDS = ("run", "evaluate", "sample", "export")  # that several processes can run
AUTO = "auto"
TOKEN = ".token"  # in the run directory, while the processes check that they all see it
SEEN_SECONDS = 20.0
VARIABLES = {name: f"DISTILL_JAX_{name.upper()}" for name in PROCESSES}


def take(words: Sequence[str]) -> tuple["processes.Place | None", float, list[str]]:
  """Removes the options about processes from the words of a command, and reads them.

  An option that is not given is read from its environment variable.

  Returns:
    (the place of this process among several, or None; seconds to wait for the others; the other
    words).

  Raises:
    UserError: The options are wrong.
  """
  given: dict[str, str] = {}
  spelled: dict[str, str] = {}  # as an option or as a variable
  rest = list(words)
  for name, variable in VARIABLES.items():
    value, rest = args.take(rest, name)
    given[name] = os.environ.get(variable, "") if value is None else value
    spelled[name] = (variable if value is None else f"--{name}") + f"={given[name]}"
  if given["processes"] in ("", "1"):
    allowed = ("", "0") if given["processes"] else ("",)
    if given["process"] not in allowed or (given["coordinator"] and not given["processes"]):
      raise errors.usage(
        "--process and --coordinator need --processes=N, the number of all processes"
      )
    return None, 0.0, rest
  patience = PROCESSES["patience"][0]
  if given["patience"]:
    patience = _number(given["patience"], spelled["patience"])
  # Before jax is imported, so an invalid option is reported at once.
  count = None
  if given["processes"] != AUTO:
    count = _number(given["processes"], spelled["processes"], f"{AUTO} or a number from 1")
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
    place = processes.Place(
      count, _index(given["process"], spelled["process"], count), given["coordinator"]
    )
  return (place if place.count > 1 else None), float(patience), rest


def connect(place: "processes.Place | None", patience: float) -> None:
  """Connects the processes, if there are several.

  Raises:
    UserError: They do not find each other.
  """
  if place is not None:
    from distill_jax.machine import processes

    processes.start(place, patience)


def compare(config: Mapping[str, Any]) -> None:
  """Compares what the processes of a command run: versions and config.

  Raises:
    UserError: They differ.
  """
  if together.count() == 1:
    return
  packages = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
  code = {"the code of distill_jax": _code_digest(), "python": platform.python_version()}
  _compare("version of", code | packages, "install the same")
  values = {key: json.dumps(value, sort_keys=True) for key, value in _flat(config).items()}
  _compare("setting", values, "start all processes with the same arguments")


def compare_data(ctx: "RunContext") -> None:
  """Compares the questions that the processes of a run have read. Raises UserError."""
  if together.count() > 1:
    from distill_jax.runtime import resume

    digests = resume.question_digests(ctx)
    _compare("set of questions in split", digests, "give all hosts the same data files")


def check_directory(path: pathlib.Path) -> None:
  """Checks that all processes see the run directory that process 0 has locked.

  Raises:
    UserError: A process does not see it.
  """
  if together.count() == 1:
    return
  file = path / TOKEN
  token = together.once("token", lambda: _write_token(file))
  deadline, seen = time.monotonic() + SEEN_SECONDS, False
  while not seen and time.monotonic() < deadline:  # NFS clients cache that a file was missing
    with contextlib.suppress(OSError):
      seen = file.read_text() == token
    if not seen:
      time.sleep(0.2)
  for number, (host, has_seen) in enumerate(together.gather("seen", [platform.node(), seen])):
    if not has_seen:
      raise errors.data(
        f"process {number} ({host}) does not see {file}: --workdir must be on a file system that"
        " all hosts share"
      )
  together.once("token", lambda: file.unlink(missing_ok=True))


def _write_token(file: pathlib.Path) -> str:
  token = uuid.uuid4().hex
  with phase_dir.report_os_errors(file):
    file.write_text(token)
  return token


def _compare(what: str, own: Mapping[str, str], remedy: str) -> None:
  """Compares {name: value} of all processes. Raises UserError if they differ."""
  (_, first), *others = together.gather(what, [platform.node(), own])
  for number, (host, values) in enumerate(others, 1):
    different = [x for x in sorted(first | values) if first.get(x) != values.get(x)]
    if different:
      name = different[0]
      there, here = (_shorten(v.get(name, "missing")) for v in (values, first))
      more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
      raise errors.UserError(
        f"process {number} ({host}) has a different {what} {name}{more}: {there} there, {here} on"
        f" process 0; {remedy}",
        errors.CONFIG,
      )


def _shorten(text: str) -> str:
  return text if len(text) <= 60 else f"{text[:60]}..."


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """{dotted key: value} of a nested config."""
  found: dict[str, Any] = {}
  for name, value in tree.items():
    key = f"{prefix}{name}"
    found |= _flat(value, f"{key}.") if isinstance(value, Mapping) else {key: value}
  return found


def _code_digest() -> str:
  """The digest of the package's modules; two different checkouts may have the same version."""
  root, total = pathlib.Path(distill_jax.__path__[0]), hashlib.sha256()
  for file in sorted(root.rglob("*.py")):
    total.update(f"{file.relative_to(root)} ".encode() + file.read_bytes())
  return total.hexdigest()[:12]


def _number(text: str, spelled: str, allowed: str = "a number from 1") -> int:
  if not text.isdecimal() or int(text) < 1:
    raise errors.usage(f"{spelled} must be {allowed}")
  return int(text)


def _index(text: str, spelled: str, count: int) -> int:
  if not text.isdecimal() or int(text) >= count:
    raise errors.usage(f"{spelled} must be a number from 0 to {count - 1}")
  return int(text)


def end(outcome: int | Exception) -> int:
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
    error = processes.loss()
  else:
    text = f"process {together.index()}: {outcome!r}"
    return processes.leave(1, text, lambda: traceback.print_exception(outcome))
  if together.index() and not isinstance(error, together.ToldError):
    shown = errors.UserError(f"process {together.index()}: {error}", error.code)
  else:
    shown = error
  return processes.leave(error.code, str(error), lambda: process.report(shown))
