"""A disk that is full at any write: one line, exit code 4, and the resumed run ends the same.

Every attempt has a little more room than the one before, so each write is the failing one once.
Two kinds of quota: a limit on the size of every file, and a small file system (root only).

bash launch/test.sh -m heavy tests/faults/test_disk_full.py
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from distill_jax import errors
from tests.faults import test_kill

TINY = (
  "world.train=12", "world.test=2", "task.validation=2", "rounds=1", "stop.patience=0",
  "demonstrate.questions=8",
  "student.scratch.width=16", "student.scratch.head_width=8", "student.scratch.heads=2",
  "student.scratch.kv_heads=1", "student.scratch.mlp=16", "student.scratch.vocab=320",
  "student.scratch.layers=1",
  "exam.max_new_tokens=8", "evaluate.max_new_tokens=8", "rollout.batch=4",
  "rollout.buckets=160", "train.buckets=192", "train.batch=4", "train.steps=4", "train.warmup=0",
  "train.checkpoint_every=2",
)  # fmt: skip
ROOM = 700  # KiB; the run directory takes 360, and a save needs room for two checkpoints
LIMIT = 600  # seconds that a run may take on a busy machine


# Sets the limit and becomes the program: a child of a process with threads must not run Python
# before it starts a program.
LIMITED = """
import os, resource, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
os.execv(sys.argv[2], sys.argv[2:])
"""


def command(workdir) -> list[str]:
  start = [sys.executable, "-m", "distill_jax", "run", "--config=configs/star.py:quick"]
  return [*start, f"--workdir={workdir}", *(f"--config.{setting}" for setting in TINY)]


def run(workdir, env, limit: int = 0) -> tuple[int, str]:
  """Runs the recipe; `limit`: bytes of the largest file that it may write, 0 for any."""
  words = command(workdir)
  if limit:
    words = [sys.executable, "-c", LIMITED, str(limit), *words]
  done = subprocess.run(
    words, cwd=test_kill.ROOT, env=env, capture_output=True, text=True, timeout=LIMIT
  )
  return done.returncode, done.stderr


def failed_in_one_line(code: int, output: str) -> bool:
  """Whether a run failed; checks that it did so in one line and with the right exit code."""
  assert code in (0, errors.DATA), output[-3000:]
  if code:
    assert output.startswith("distill-jax: ") and output.count("\n") == 1, output[-3000:]
  return bool(code)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  """(run directory of a run with enough room, environment with everything compiled)"""
  path = tmp_path_factory.mktemp("undisturbed")
  env = test_kill.environment(path)
  code, output = run(path / "run", env)
  assert code == 0, output[-3000:]
  return path / "run", env


@pytest.fixture
def small_disk():
  """Returns a function that resizes a file system of its own, and its directory."""
  path = pathlib.Path(f"/dev/shm/distill_jax_{os.getpid()}")
  path.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=16k,mode=700", "tmpfs", str(path)]
  if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
    path.rmdir()
    pytest.skip("mounting a file system needs root")

  def resize(kilobytes: int):
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(path)], check=True)

  yield resize, path
  subprocess.run(["umount", str(path)], check=True)
  path.rmdir()


def assert_same(workdir, undisturbed):
  assert test_kill.contents(workdir) == test_kill.contents(undisturbed)
  assert test_kill.weights(workdir) == test_kill.weights(undisturbed) != {}
  summaries = [json.loads((w / "summary.json").read_text()) for w in (workdir, undisturbed)]
  for summary in summaries:
    del summary["seconds"]
  assert summaries[0] == summaries[1]


@pytest.mark.parametrize(
  "limits",
  [(2_000, 40_000), pytest.param(range(500, 200_000, 500), marks=pytest.mark.heavy)],
  ids=["some", "every"],
)
def test_files_that_may_not_grow_fail_in_one_line_and_the_run_resumes(
  limits, undisturbed, tmp_path
):
  finished, env = undisturbed
  failures = 0
  for limit in limits:
    if not failed_in_one_line(*run(tmp_path / "run", env, limit)):
      break
    failures += 1
  assert failures >= 2
  code, output = run(tmp_path / "run", env)
  assert code == 0, output[-3000:]
  assert_same(tmp_path / "run", finished)


@pytest.mark.parametrize(
  "sizes",
  [(300, 430), pytest.param(range(4, ROOM, 4), marks=pytest.mark.heavy)],
  ids=["some", "every"],
)
def test_a_full_disk_is_one_line_and_the_run_resumes(sizes, undisturbed, small_disk):
  (finished, env), (resize, path) = undisturbed, small_disk
  failures = 0
  for size in sizes:
    resize(size)
    if not failed_in_one_line(*run(path / "run", env)):
      break
    failures += 1
  assert failures >= 2
  resize(ROOM)  # what failed has left nothing behind that takes the room
  code, output = run(path / "run", env)
  assert code == 0, output[-3000:]
  assert_same(path / "run", finished)
