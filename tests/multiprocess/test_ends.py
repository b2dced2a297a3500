"""How processes start and end that only send each other messages.

python -m pytest -m "heavy or not heavy" tests/multiprocess/test_ends.py
"""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from distill_jax import errors
from tests.multiprocess import commands

PROGRAM = """
import sys, time
from distill_jax import together
from distill_jax.cli import processes as command
from distill_jax.machine import processes

index, port, seconds, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[5])
processes.START_SECONDS = float(sys.argv[4])
if index and seconds < 0:
  processes.jax.distributed.initialize = lambda *_, **__: sys.exit()
processes.start(processes.Place(count, index, f"127.0.0.1:{port}"), 30)
together.once("start", lambda: print("started", flush=True))
for _ in range(seconds):
  together.once("wait", lambda: time.sleep(1))
sys.exit(command.end(0))
"""


@pytest.fixture
def start() -> Iterator:
  """start(seconds) starts processes that end after so many seconds.

  If `seconds` is negative, all but process 0 end as soon as they have met.
  """
  started: list[subprocess.Popen] = []

  def start(seconds: int, limit: float = 40.0, count: int = 2) -> list[subprocess.Popen]:
    port = str(commands.free_port())
    for index in range(count):
      started.append(
        subprocess.Popen(
          [sys.executable, "-c", PROGRAM, str(index), port, str(seconds), str(limit), str(count)],
          stdout=subprocess.PIPE,
          stderr=subprocess.PIPE,
          text=True,
          env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(commands.ROOT)},
        )
      )
    return started[-count:]

  yield start
  for process in started:
    process.kill()
    process.communicate()


def test_the_loss_of_process_0_is_one_line_and_its_code(start):
  first, other = start(60)
  assert first.stdout.readline() == "started\n"
  first.kill()
  _, err = other.communicate(timeout=30)
  assert other.returncode == errors.PREEMPTED
  assert err == "distill-jax: process 1: process 0 is gone; re-run the same command to resume\n"


@pytest.mark.heavy
def test_a_process_that_is_lost_while_jax_starts_is_not_waited_for(start):
  first, _ = start(-1, limit=3.0)
  _, err = first.communicate(timeout=30)
  assert first.returncode == errors.PREEMPTED
  text = "process 0: another process has gone within 3 s after all had met"
  assert err == f"distill-jax: {text}; re-run the same command to resume\n"


@pytest.mark.heavy
@pytest.mark.parametrize("time", range(20))
def test_all_end_with_0(time, start):
  for process in start(time % 2):
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")


@pytest.mark.heavy
@pytest.mark.parametrize("time", range(5))
def test_four_start(time, start):
  for process in start(0, limit=20.0, count=4):
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
