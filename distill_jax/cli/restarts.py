"""Stops restarts that make no progress.

Launchers restart a run after every failure that the machine may have caused. A run that aborts by
its own fault, at the same point each time, looks the same to them. Therefore, each process counts
its starts since the run directory last changed, and refuses to start more often than the launcher
allows. Without a launcher, nothing is counted.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from distill_jax import disk, errors, together
from distill_jax.cli import args
from distill_jax.run_dir import phase_dir, progress

if TYPE_CHECKING:
  from distill_jax.machine import processes

VARIABLE = "DISTILL_JAX_TRIES"  # starts in a row without progress; unset or 0: no limit
FILE = ".starts"  # in the run directory, with the number of the process
# Interruptions are not the run's fault, so more of them are allowed. But a run that is interrupted
# this many times as often, each time before it stores anything, gets too little time to progress.
INTERRUPTED = 10

_counting: list[pathlib.Path] = []  # the file of the start that is under way


@contextlib.contextmanager
def counted(words: Sequence[str], place: "processes.Place | None") -> Iterator[None]:
  """Counts a start of `run`, until it ends in a way after which no launcher starts it again.

  Args:
    words: The command's words.
    place: The place of this process among several; None: it is alone.

  Raises:
    UserError: There were too many starts without progress.
  """
  tries, (path, _) = _tries(), args.take(words, "workdir")
  index = place.index if place else 0
  if not tries or not path:
    yield
    return
  file = pathlib.Path(path) / f"{FILE}.{index}"
  if index and not file.parent.is_dir():  # only process 0 makes the run directory
    yield
    return
  _begin(file, tries)
  _counting.append(file)
  try:
    yield
  except errors.LostError:
    raise
  except KeyboardInterrupt:
    count_interruption()
    raise
  except Exception as error:
    if getattr(error, "code", 0) == errors.PREEMPTED:
      count_interruption()
    elif not together.is_loss(error):
      _remove(file)
    raise
  else:
    _remove(file)
  finally:
    _counting.clear()


def count_interruption() -> None:
  """Counts this start as interrupted, not as lost; safe in another thread."""
  if not _counting:
    return
  file = _counting.pop()
  stored = _read(file)
  counts = {"lost": stored["lost"] - 1, "interrupted": stored["interrupted"] + 1}
  with contextlib.suppress(errors.UserError):
    phase_dir.write_json(file, stored | counts)


def _tries() -> int:
  text = os.environ.get(VARIABLE, "") or "0"
  if not text.isdecimal():
    raise errors.usage(f"{VARIABLE}={text} must be a number; 0 = no limit")
  return int(text)


def _begin(file: pathlib.Path, tries: int) -> None:
  stored, now = _read(file), progress.digest(file.parent)
  lost, interrupted = (stored["lost"], stored["interrupted"]) if stored["at"] == now else (0, 0)
  if lost < tries and interrupted < INTERRUPTED * tries:
    phase_dir.write_json(file, {"at": now, "lost": lost + 1, "interrupted": interrupted})
    return
  _remove(file)
  how = f"{lost} were lost or aborted"
  how += f" and {interrupted} interrupted" if interrupted else ""
  raise errors.data(
    f"{file.parent}: the last starts stored nothing new ({how}), so this run is not started again;"
    f" see their output, then re-run the same command to allow {tries} more starts"
  )


def _read(file: pathlib.Path) -> dict[str, Any]:
  """The counts in a file; those of a file that is missing or damaged are 0."""
  try:
    stored = json.loads(disk.read_bytes(file))
    return {"at": str(stored["at"])} | {n: int(stored[n]) for n in ("lost", "interrupted")}
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return {"at": "", "lost": 0, "interrupted": 0}


def _remove(file: pathlib.Path) -> None:
  with contextlib.suppress(OSError):
    file.unlink(missing_ok=True)
