"""Plays a sweep: what is finished is skipped, what failed is told and played again next time."""

import contextlib
import datetime
import fcntl
import os
import pathlib
import platform
import time

from distill_jax import console, errors
from distill_jax.ablations import children, markdown, table
from distill_jax.ablations import sweep as sweeps
from distill_jax.run_dir import phase_dir

FAILED = 1  # exit code: some runs failed; the others are in the table


def show(config: str, workdir: str) -> int:
  """Prints the command of every run that is not finished, one a line; plays nothing."""
  for planned in sweeps.plan(sweeps.load(config), workdir):
    if not planned.finished:
      print(sweeps.line(planned))
  return 0


def play(config: str, workdir: str, *, jobs: int) -> int:
  """Plays the runs of a sweep that are not finished, and keeps its table; returns the exit code: 0,
  FAILED, or errors.BUDGET if a run reached its budget, after which none is begun."""
  sweep, screen = sweeps.load(config), console.Console()
  planned = sweeps.plan(sweep, workdir)
  with claimed(workdir):
    left, failed = [p for p in planned if not p.finished], []
    screen.line(f"{len(planned)} runs, {len(planned) - len(left)} of them finished before")
    made = write(config, workdir, sweep, planned, failed)
    playing = children.play(left, jobs=jobs, environment=environment(workdir))
    with contextlib.closing(playing):
      for number, ended in enumerate(playing, 1):
        if ended.code:
          failed.append(ended)
        tell(screen, ended, f"{number}/{len(left)}")
        made = write(config, workdir, sweep, planned, failed)
        if ended.code == errors.BUDGET:
          screen.warn("a run has reached its budget: no further one is begun, the others stop")
          break
  screen.line(markdown.write(made))
  screen.line(f"the table is {pathlib.Path(workdir) / 'table.md'}, and table.json beside it")
  if failed:
    screen.warn(f"{len(failed)} runs failed; the same command plays them again")
  codes = {ended.code for ended in failed}
  return errors.BUDGET if errors.BUDGET in codes else FAILED if codes else 0


@contextlib.contextmanager
def claimed(workdir):
  """The folder is ours while this lasts. Raises UserError if another sweep is played in it."""
  folder = pathlib.Path(workdir)
  with phase_dir.report_os_errors(folder):
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield
  except BlockingIOError:
    raise errors.data(
      f"{folder}: another process plays a sweep there; wait for it, or give another --workdir"
    ) from None
  finally:
    os.close(lock)


def environment(workdir) -> dict:
  """What the runs find set: one cache of compiled programs, as they have most of them in common."""
  return {
    "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(workdir).absolute() / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }


def tell(screen, ended: children.Ended, place: str) -> None:
  """One line for a run that has ended."""
  one = ended.planned
  what = f"{place}  {one.row}  seed {one.seed}  {console.duration(ended.seconds)}"
  if ended.code:
    reason = children.reason(ended.code)
    return screen.warn(f"{what}  {reason}: {ended.said} (all it said: {one.log})")
  screen.line(f"{what}  finished")


def write(config: str, workdir, sweep, planned, failed) -> dict:
  """Writes table.json and table.md, and returns the former."""
  file, _, which = config.partition(":")
  name = "_".join(filter(None, [pathlib.Path(file).stem, which]))
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  summaries = [p.folder / "summary.json" for p in planned if p.finished]
  last = max((s.stat().st_mtime for s in summaries), default=time.time())
  made = {
    "sweep": config,
    "name": name,
    "command": f"python -m distill_jax ablate --config={config} --workdir=runs/{name}",
    "config": sweep.config,
    "common": sweep.common,
    "base": sweep.base,
    "seeds": sweep.seeds,
    "splits": sweep.splits,
    "date": datetime.datetime.fromtimestamp(last, datetime.UTC).date().isoformat(),
    "machine": {"cores": cores, "platform": f"{platform.system()} {platform.machine()}"},
    "failed": [
      {
        **{name: getattr(f.planned, name) for name in ("row", "seed")},
        "code": f.code,
        "reason": children.reason(f.code),
        "said": f.said,
      }
      for f in failed
    ],
    **table.read(sweep, planned),
  }
  phase_dir.write_json(pathlib.Path(workdir) / "table.json", made)
  phase_dir.write_bytes(pathlib.Path(workdir) / "table.md", markdown.write(made).encode())
  return made
