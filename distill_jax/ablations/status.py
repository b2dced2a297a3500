"""The progress of a sweep, read from its run directories.

Runs may be active on any host that shares the sweep's directory. Nothing is locked or written.
"""

import json
import os
import pathlib
import time
from collections.abc import Iterator, Sequence

from distill_jax import disk
from distill_jax.ablations import children
from distill_jax.ablations.sweep import PlannedRun
from distill_jax.console import duration
from distill_jax.run_dir.phase_dir import MANIFEST
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime.journal import PARTIAL
from distill_jax.runtime.results import METRICS


def lines(planned: Sequence[PlannedRun]) -> Iterator[str]:
  """Yields one line per run, and one line with the number of finished runs."""
  width = max(len(run.row) for run in planned)
  finished = 0
  for run in planned:
    finished += run.finished
    yield f"{run.row:{width}}  seed {run.seed}  {state(run)}"
  yield f"{finished} of {len(planned)} runs finished"


def state(run: PlannedRun) -> str:
  """Describes a run: not started, finished, stopped, or its phase and how old its output is."""
  directory = RunDir(run.run_dir)
  if run.finished:
    return f"finished  {duration(directory.seconds)}"
  written = _last_written(run.run_dir)
  failure = _failure(run.log, written)
  if not written:
    return failure or "not started"
  age = duration(max(time.time() - written, 0))  # the clock of a file server may differ
  return failure or f"{_phase(run)}  last output {age} ago"


def _phase(run: PlannedRun) -> str:
  """The phase that a run is in, and how much of it is stored."""
  phases = RunDir(run.run_dir).phases()
  done = [phase.path for phase in phases if (phase.path / MANIFEST).exists()]
  current = next((phase.path for phase in phases if phase.path not in done), None)
  path = current or (done[-1] if done else None)
  if path is None:
    return "starting"
  group, name = path.parent.name, path.name.partition("_")[2] or path.name
  if group.startswith("round_"):
    group = f"round {int(group.removeprefix('round_'))} of {run.config['rounds']}"
  if current is None:
    return f"{group} {name}  done"
  return "  ".join(filter(None, [f"{group} {name}", _count(path)]))


def _count(phase: pathlib.Path) -> str:
  """The steps or completions that an unfinished phase has stored; "" if there are none."""
  try:
    *_, last = disk.read_bytes(phase / METRICS).rpartition(b"\n")[0].split(b"\n")
    return f"step {json.loads(last)['step']}"
  except (OSError, ValueError, KeyError, TypeError):
    pass
  try:
    stored = disk.read_bytes(phase / PARTIAL).count(b"\n")
  except OSError:
    return ""
  return f"{stored} completions stored"


def _last_written(path: pathlib.Path) -> float:
  """The last time a file below a directory was written, in seconds since the epoch; 0 = never."""
  newest = 0.0
  for folder, _, names in os.walk(path):
    for name in names:
      try:
        newest = max(newest, os.stat(os.path.join(folder, name)).st_mtime)
      except OSError:  # it was removed meanwhile
        continue
  return newest


def _failure(log: pathlib.Path, written: float) -> str:
  """The error message that ends a run's log; "" without one, or if the run has written since."""
  try:
    message = children.last_line(log) if log.stat().st_mtime >= written else ""
  except OSError:
    return ""
  return f"stopped  {message}" if message.startswith("distill-jax: ") else ""
