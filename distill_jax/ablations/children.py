"""Runs of a sweep as processes of their own: so many at once, each with its share of the cores."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time

from distill_jax import errors
from distill_jax.ablations import sweep

PAUSE = 0.05  # seconds between looks at the children
PATIENCE = 3.0  # seconds a child that is told to stop has for it
LINES_FROM_END = 4096  # bytes of a log that are searched for its last line


@dataclasses.dataclass(frozen=True)
class Ended:
  """A run that has ended: its exit code (negative: the signal it was killed by), the last thing it
  said, and how long it took."""

  planned: sweep.Planned
  code: int
  said: str
  seconds: float


def play(planned, *, jobs: int, environment: dict):
  """Yields Ended for each run, as they end. When the generator is closed or interrupted, the runs
  that are under way are stopped; each goes on from there when it is played again."""
  waiting, places = list(planned), shares(jobs)
  running = {}  # place -> (planned, process, begun)
  try:
    while waiting or running:
      for place in range(jobs):
        if waiting and place not in running:
          one = waiting.pop(0)
          running[place] = (one, start(one, places[place], environment), time.monotonic())
      time.sleep(PAUSE)
      for place, (one, process, begun) in list(running.items()):
        if process.poll() is not None:
          del running[place]
          seconds = time.monotonic() - begun
          yield Ended(one, process.returncode, last_line(one.log), seconds)
  finally:
    stop([process for _, process, _ in running.values()])


def shares(jobs: int) -> list[set[int]]:
  """The cores of each of `jobs` places: disjoint shares, where there are enough cores; an empty set
  where a place may use them all."""
  if not hasattr(os, "sched_getaffinity"):
    return [set()] * jobs
  cores = sorted(os.sched_getaffinity(0))
  if jobs == 1 or jobs > len(cores):
    return [set()] * jobs
  return [set(cores[place::jobs]) for place in range(jobs)]


def start(planned: sweep.Planned, cores: set[int], environment: dict) -> subprocess.Popen:
  """Begins a run; its log gets the command and what it says."""
  planned.log.parent.mkdir(parents=True, exist_ok=True)
  with open(planned.log, "ab") as log:
    log.write(f"$ {sweep.line(planned)}\n".encode())
    log.flush()
    process = subprocess.Popen(
      [sys.executable, "-m", "distill_jax", *planned.words],
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=log,
      env={**environment, **os.environ, "PYTHONUNBUFFERED": "1"},
    )
  if cores:  # before it has imported anything that counts them
    with contextlib.suppress(ProcessLookupError):
      os.sched_setaffinity(process.pid, cores)
  return process


def stop(processes) -> None:
  """Tells all to stop, and kills those that do not."""
  for process in processes:
    process.send_signal(signal.SIGTERM)
  until = time.monotonic() + PATIENCE
  for process in processes:
    try:
      process.wait(max(until - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()


def last_line(log) -> str:
  """The last thing a run said: its refusal, if there is one, else the last line of its log."""
  with open(log, "rb") as file:
    file.seek(max(os.path.getsize(log) - LINES_FROM_END, 0))
    text = file.read().decode("utf-8", "replace")
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  refusals = [line for line in lines[-3:] if line.startswith("distill_jax: ")]
  return (refusals or lines or ["nothing"])[-1]


def reason(code: int) -> str:
  """What an exit code means."""
  if code < 0:
    return f"killed by signal {-code}"
  return {errors.BUDGET: "budget reached", errors.PREEMPTED: "interrupted"}.get(
    code, f"exit code {code}"
  )
