"""Runs of a sweep as child processes, several at a time, each with its share of the CPU cores."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

from distill_jax import disk, errors
from distill_jax.ablations import sweep
from distill_jax.cli.processes import VARIABLES
from distill_jax.runtime import stop_request

POLL_INTERVAL = 0.05  # seconds
STOPPING = "Interrupted. Waiting for the active runs to save. Interrupt again to exit now."
# Variables that make a process one of many; see docs/many_hosts.md.
MANY_HOSTS = set(VARIABLES.values())
LOG_TAIL = 4096  # bytes of a log that are searched for its last line


Watch = Callable[[Sequence[tuple[sweep.PlannedRun, float]]], None]  # (run, seconds) of each


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a run ended."""

  planned: sweep.PlannedRun
  code: int  # exit code; if negative, the signal that killed it
  message: str  # last line of its log, or its error message
  seconds: float


def run_all(
  planned: Iterable[sweep.PlannedRun],
  *,
  jobs: int,
  environment: Mapping[str, str],
  watch: Watch | None = None,
) -> Generator[Outcome]:
  """Runs all of `planned`, up to `jobs` at a time, and yields each outcome when the run ends.

  `watch` is called often with the active runs and the seconds since each was started.

  When the generator is closed, active runs are stopped: each saves its state, and resumes the next
  time it is started.

  Raises:
    KeyboardInterrupt: The process was asked to stop; the active runs have been stopped.
  """
  waiting, cores = list(planned), core_shares(jobs)
  active: dict[int, tuple[sweep.PlannedRun, subprocess.Popen[bytes], float]] = {}  # by slot
  with stop_request.watch(STOPPING) as request:
    try:
      while waiting or active:
        for slot in range(jobs):
          if waiting and slot not in active:
            run = waiting.pop(0)
            active[slot] = (run, start(run, cores[slot], environment), time.monotonic())
        if watch is not None:
          watch([(run, time.monotonic() - started) for run, _, started in active.values()])
        time.sleep(POLL_INTERVAL)
        if request.made:
          raise KeyboardInterrupt
        for slot, (run, process, started) in list(active.items()):
          if process.poll() is not None:
            del active[slot]
            seconds = time.monotonic() - started
            yield Outcome(run, process.returncode, last_line(run.log), seconds)
    finally:
      stop([process for _, process, _ in active.values()])


def core_shares(jobs: int) -> list[set[int]]:
  """Returns disjoint sets of cores, one per job; empty sets (no limit) if there are too few."""
  if not hasattr(os, "sched_getaffinity"):
    return [set()] * jobs
  cores = sorted(os.sched_getaffinity(0))
  if jobs == 1 or jobs > len(cores):
    return [set()] * jobs
  return [set(cores[slot::jobs]) for slot in range(jobs)]


def start(
  planned: sweep.PlannedRun, cores: set[int], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
  """Starts a run. Its command and output are appended to its log."""
  disk.make_private_dirs(planned.log.parent)
  with open(planned.log, "ab", opener=disk.open_private) as log:
    log.write(f"$ {sweep.command_line(planned, environment)}\n".encode())
    log.flush()
    process = subprocess.Popen(
      [sys.executable, "-m", "distill_jax", *planned.arguments],
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=log,
      env={**own_environment(), **environment, "PYTHONUNBUFFERED": "1"},
      start_new_session=True,  # Ctrl-C reaches it once, through `stop`: a second signal ends it
    )
  if cores:  # set now, before the child imports libraries that count the cores
    with contextlib.suppress(ProcessLookupError):
      os.sched_setaffinity(process.pid, cores)
  return process


def own_environment() -> dict[str, str]:
  """Returns this process's environment without the variables of a run on many hosts."""
  return {name: value for name, value in os.environ.items() if name not in MANY_HOSTS}


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
  """Sends SIGTERM to all processes, and waits until they have saved their state and exited."""
  for process in processes:
    process.send_signal(signal.SIGTERM)
  for process in processes:
    process.wait()


def current_phase(log: pathlib.Path) -> str:
  """Returns the phase of a run and how much of it is done, according to its log.

  If a program is being compiled, it is named, too.
  """
  lines = _last_lines(log)
  progress = next(filter(None, map(_progress, reversed(lines))), "starting")
  return f"{progress}  {lines[-1]}" if lines and lines[-1].startswith("compiling ") else progress


def _progress(line: str) -> str:
  """Returns phase and count of a progress line as `Console.progress` prints it, or ""."""
  fields = line.split("  ")
  is_progress = len(fields) > 2 and fields[0].replace(":", "").isdecimal() and "/" in fields[2]
  return "  ".join(fields[1:3]) if is_progress else ""


def last_line(log: pathlib.Path) -> str:
  """Returns the error message of a run if its log ends with one, else the last line of the log."""
  lines = _last_lines(log)
  messages = [line for line in lines[-3:] if line.startswith("distill-jax: ")]
  return (messages or lines or ["nothing"])[-1]


def _last_lines(log: pathlib.Path) -> list[str]:
  """Returns the last lines of a log that are not empty."""
  with open(log, "rb") as file:
    file.seek(max(os.path.getsize(log) - LOG_TAIL, 0))
    text = file.read().decode("utf-8", "replace")
  return [line.strip() for line in text.splitlines() if line.strip()]


def reason(code: int) -> str:
  """Describes an exit code."""
  if code < 0:
    return f"killed by signal {-code}"
  return {errors.BUDGET: "budget reached", errors.PREEMPTED: "interrupted"}.get(
    code, f"exit code {code}"
  )
