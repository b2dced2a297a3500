"""Runs a row as a child process and records what each sitting took: minutes, memory, machine."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

from benchmarks import measure
from distill_jax import disk
from distill_jax.ablations import children, sweep
from distill_jax.ablations.run import environment
from distill_jax.run_dir import phase_dir

# Each step allocates and frees gigabytes. With 4 KiB pages, the kernel takes a fifth of the time.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def read(run_dir: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the sittings of a run, oldest first."""
  file = _file(run_dir)
  return json.loads(file.read_text()) if file.exists() else []


def run(planned: sweep.PlannedRun, runs: pathlib.Path) -> int:
  """Starts or resumes a run and returns its exit code.

  SIGTERM and Ctrl-C are passed on once, so that the run saves its state and ends.
  """
  variables = {**HUGE_PAGES, **children.own_environment(), **environment(runs)}
  variables["PYTHONUNBUFFERED"] = "1"
  disk.make_private_dirs(planned.log.parent)
  start = time.monotonic()
  with open(planned.log, "ab") as log:
    process = subprocess.Popen(
      [sys.executable, "-m", "distill_jax", *planned.arguments],
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=log,
      env=variables,
      start_new_session=True,  # a signal to the group of this process must not reach it twice
    )
    watched = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(n, lambda number, _: process.send_signal(number)) for n in watched]
    _, status, usage = os.wait4(process.pid, 0)
    for number, handler in zip(watched, before, strict=True):
      signal.signal(number, handler)
  process.returncode = os.waitstatus_to_exitcode(status)
  sitting = {
    "minutes": round((time.monotonic() - start) / 60, 2),
    "cpu_minutes": round((usage.ru_utime + usage.ru_stime) / 60, 2),
    "peak_mib": usage.ru_maxrss // 1024,  # Linux counts in KiB
    "cpu": measure.cpu_name(),
    "cores": len(os.sched_getaffinity(0)),
    "code": process.returncode,
  }
  phase_dir.write_json(_file(planned.run_dir), [*read(planned.run_dir), sitting])
  return process.returncode


def _file(run_dir: pathlib.Path) -> pathlib.Path:
  """The file beside a run directory that lists its sittings."""
  return run_dir.with_name(run_dir.name + ".sittings.json")
