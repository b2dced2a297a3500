"""Runs a sweep. Finished runs are skipped; failed runs are reported, and retried the next time."""

import contextlib
import datetime
import functools
import os
import pathlib
import platform
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from distill_jax import disk, errors
from distill_jax.ablations import children, markdown, status, table
from distill_jax.ablations.sweep import PlannedRun, Sweep, command_line, load_sweep, plan_runs
from distill_jax.console import Console, duration
from distill_jax.report import write as run_report
from distill_jax.run_dir import phase_dir

FAILED = 1  # exit code: some runs failed; the others are in the table


def print_commands(config: str, workdir: str) -> int:
  """Prints the command of every unfinished run, one per line, without running it."""
  for planned in plan_runs(load_sweep(config), workdir):
    if planned.finished:
      continue
    line = command_line(planned, environment(workdir))
    if "\n" in line:
      raise errors.usage(
        f"row {planned.row} has a setting with several lines; --print needs one line per command"
      )
    print(line)
  return 0


def show_status(config: str, workdir: str) -> int:
  """Prints the progress of every run, on whichever host it is running."""
  for line in status.lines(plan_runs(load_sweep(config), workdir)):
    print(line)
  return 0


def run_sweep(config: str, workdir: str, *, jobs: int) -> int:
  """Runs the unfinished runs of a sweep and updates its table whenever one ends.

  Args:
    config: The sweep, FILE.py or FILE.py:which.
    workdir: The sweep's directory.
    jobs: How many runs to execute at the same time.

  Returns:
    The exit code: 0, FAILED, or errors.BUDGET if a run reached a limit. In the last case, active
    runs are stopped and no others are started.
  """
  sweep, console = load_sweep(config), Console()
  planned = plan_runs(sweep, workdir)
  with locked(workdir):
    unfinished = [run for run in planned if not run.finished]
    failed: list[children.Outcome] = []
    console.line(f"{len(planned)} runs, {len(planned) - len(unfinished)} already finished")
    results = write_table(config, workdir, sweep, planned, failed)
    with console.status() as show, contextlib.ExitStack() as stack:
      watch = functools.partial(watch_runs, console, show, set())
      outcomes = children.run_all(
        unfinished, jobs=jobs, environment=environment(workdir), watch=watch
      )
      stack.callback(outcomes.close)
      for number, outcome in enumerate(outcomes, 1):
        if outcome.code:
          failed.append(outcome)
        report(console, outcome, f"{number}/{len(unfinished)}")
        results = write_table(config, workdir, sweep, planned, failed)
        if outcome.code == errors.BUDGET:
          console.warn("a run reached its budget: active runs are stopped, no others are started")
          break
  console.line(markdown.render(results))
  console.line(f"Table: {pathlib.Path(workdir) / 'table.md'} (and table.json)")
  run_report.write_at_end(workdir, console)
  if failed:
    console.warn(f"{len(failed)} runs failed; re-run the same command to retry them")
  codes = {outcome.code for outcome in failed}
  if errors.BUDGET in codes:
    return errors.BUDGET
  return FAILED if codes else 0


@contextlib.contextmanager
def locked(workdir: str | os.PathLike[str]) -> Iterator[None]:
  """Locks a sweep's directory. Raises UserError if another process runs a sweep in it."""
  path = pathlib.Path(workdir)
  with phase_dir.report_os_errors(path):
    disk.make_private_dirs(path)
    lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
  try:
    phase_dir.lock(
      lock,
      path,
      "is in use by another process that runs a sweep; wait for it, or give another --workdir",
    )
    yield
  finally:
    os.close(lock)


def environment(workdir: str | os.PathLike[str]) -> dict[str, str]:
  """Returns environment variables for the runs: they share a cache of compiled programs.

  Values that are set already are kept.
  """
  values = {
    "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(workdir).absolute() / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  return {name: os.environ.get(name, value) for name, value in values.items()}


def watch_runs(
  console: Console,
  show: Callable[[Callable[[], Sequence[str]]], None],
  announced: set[pathlib.Path],
  active: Sequence[tuple[PlannedRun, float]],
) -> None:
  """Announces runs that have started, with their logs, and shows the phase of each active run.

  Args:
    console: Where runs are announced.
    show: Shows the phases; see `Console.status`.
    announced: Logs of the runs that have been announced; new ones are added.
    active: (run, seconds since it was started) of each.
  """
  for run, _ in active:
    if run.log not in announced:
      announced.add(run.log)
      console.line(f"{run.row}  seed {run.seed}  started (log: {run.log})")

  def lines() -> list[str]:
    return [
      f"{run.row}  seed {run.seed}  {duration(seconds)}  {children.current_phase(run.log)}"
      for run, seconds in active
    ]

  show(lines)


def report(console: Console, outcome: children.Outcome, position: str) -> None:
  """Prints one line for a run that has ended."""
  run = outcome.planned
  label = f"{position}  {run.row}  seed {run.seed}  {duration(outcome.seconds)}"
  if outcome.code:
    reason = children.reason(outcome.code)
    console.warn(f"{label}  {reason}: {outcome.message} (log: {run.log})")
  else:
    console.line(f"{label}  finished")


def command(config: str, workdir: str) -> str:
  """Returns the command that runs a sweep in a directory."""
  return shlex.join(
    ["python", "-m", "distill_jax", "ablate", f"--config={config}", f"--workdir={workdir}"]
  )


def write_table(
  config: str,
  workdir: str | os.PathLike[str],
  sweep: Sweep,
  planned: Sequence[PlannedRun],
  failed: Sequence[children.Outcome],
) -> dict[str, Any]:
  """Writes table.json and table.md, and returns the content of table.json."""
  file, _, which = config.partition(":")
  name = "_".join(filter(None, [pathlib.Path(file).stem, which]))
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  summaries = [run.run_dir / "summary.json" for run in planned if run.finished]
  last = max((file.stat().st_mtime for file in summaries), default=time.time())
  results = {
    "sweep": config,
    "name": name,
    "command": command(config, str(workdir)),
    "config": sweep.config,
    "common": sweep.common,
    "base": sweep.base,
    "seeds": sweep.seeds,
    "splits": sweep.splits,
    "date": datetime.datetime.fromtimestamp(last, datetime.UTC).date().isoformat(),
    "machine": {"cores": cores, "platform": f"{platform.system()} {platform.machine()}"},
    "failed": [
      {
        "row": outcome.planned.row,
        "seed": outcome.planned.seed,
        "code": outcome.code,
        "reason": children.reason(outcome.code),
        "said": outcome.message,
      }
      for outcome in failed
    ],
    **table.build(sweep, planned),
  }
  phase_dir.write_json(pathlib.Path(workdir) / "table.json", results)
  phase_dir.write_bytes(pathlib.Path(workdir) / "table.md", markdown.render(results).encode())
  return results
