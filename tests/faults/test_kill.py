"""A run that is killed again and again ends like an undisturbed one and pays for no reply twice."""

import contextlib
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request

import pytest

from distill_jax import errors

ROOT = pathlib.Path(__file__).parents[2]
TINY = (
  "world.train=48", "world.test=12", "world.out_of_domain=8", "task.validation=12", "rounds=2",
  "student.scratch.width=32", "student.scratch.head_width=8", "student.scratch.mlp=64",
  "student.scratch.vocab=320",
  "exam.questions=32", "exam.samples=2", "exam.max_new_tokens=16", "evaluate.max_new_tokens=16",
  "rollout.batch=8", "train.steps=12", "train.batch=8", "train.checkpoint_every=3",
  "train.log_every=2", "train.warmup=2",
  "stop.patience=0", "teacher.max_concurrency=4", "feedback.rationales=2", "feedback.cut=True",
)  # fmt: skip

STUDENTS = ("student", "decomposer", "solver")

# Each kill waits for a sign that a phase is running: a file in a directory, or new replies (None).
KILLS = (
  ("teacher", "round_00", None),
  ("exam", "round_00/1_exam", "attempts.jsonl"),
  ("train", "round_00/2_train", "checkpoints/*/[0-9]*"),
  ("evaluate", "round_00/3_evaluate", "attempts.jsonl"),
  ("exam", "round_01/0_exam", "attempts.jsonl"),
  ("teacher", "round_01", None),
  ("train", "round_01/2_train", "checkpoints/*/[0-9]*"),
  ("evaluate", "round_02/3_evaluate", "attempts.jsonl"),
)


def command(workdir, base_url) -> list[str]:
  overrides = [
    f"--config.{o}" for o in (*TINY, "teacher.kind=openai", f"teacher.base_url={base_url}")
  ]
  return [
    sys.executable,
    "-m",
    "distill_jax",
    "run",
    "--config=configs/quickstart.py",
    f"--workdir={workdir}",
    *overrides,
  ]


@pytest.fixture
def teacher(tmp_path):
  """Runs the built-in teacher in its own process, with latency, so there is time to kill."""
  overrides = [f"--config.{o}" for o in (*TINY, "teacher.builtin.latency=0.05")]
  process = subprocess.Popen(
    [
      sys.executable,
      "-m",
      "distill_jax",
      "teacher",
      "serve",
      "--config=configs/quickstart.py",
      "--port=0",
      *overrides,
    ],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )
  line = process.stdout.readline()
  yield next(word for word in line.split() if word.startswith("http"))
  process.send_signal(signal.SIGINT)
  process.wait(10)
  process.stdout.close()


def stats(base_url) -> dict:
  with urllib.request.urlopen(base_url.removesuffix("/v1") + "/stats") as reply:
    return json.load(reply)


def environment(tmp_path) -> dict:
  cache = {
    "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  return {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", **cache}


def run_until(sign, words, env, log, kill=signal.SIGKILL) -> bool:
  """Starts the run and kills it when `sign()` is true; returns False if it ended first."""
  process = subprocess.Popen(words, cwd=ROOT, env=env, stdout=log, stderr=log)
  while process.poll() is None:
    if sign():
      process.send_signal(kill)
      assert process.wait(60) == (errors.PREEMPTED if kill == signal.SIGTERM else -kill)
      return True
    time.sleep(0.002)
  return False


def contents(workdir) -> dict[str, bytes]:
  """Returns every record, manifest and metric of a run, by path.

  The weights, the lock, the run time and the teacher's cache are left out.
  """
  patterns = ("*.jsonl", "manifest.json", "config.json")
  return {
    str(f.relative_to(workdir)): f.read_bytes()
    for pattern in patterns
    for f in pathlib.Path(workdir).rglob(pattern)
    if not {*STUDENTS, "checkpoints"} & set(f.parts) and "teacher" not in f.name
  }


def weights(workdir) -> dict:
  """Returns the arrays of the students of each training phase, by path."""
  import numpy as np
  import orbax.checkpoint as ocp

  out = {}
  for directory in sorted(pathlib.Path(workdir).glob("round_*/*/*/*")):
    if directory.name.isdigit() and directory.parent.name in STUDENTS:
      tree = ocp.StandardCheckpointer().restore(str(directory / "default"))
      out[str(directory.relative_to(workdir))] = [
        np.asarray(x).tobytes() for x in ocp.utils.jax.tree.leaves(tree)
      ]
  return out


def test_a_run_killed_in_every_phase_ends_bit_for_bit_the_same_and_pays_nothing_twice(
  tmp_path, teacher
):
  env = environment(tmp_path)
  with open(tmp_path / "log", "w") as log:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert (
      subprocess.run(
        command(undisturbed, teacher), cwd=ROOT, env=env, stdout=log, stderr=log
      ).returncode
      == 0
    ), (tmp_path / "log").read_text()[-3000:]
    before = stats(teacher)
    for phase, directory, pattern in KILLS:
      if phase == "teacher":
        start = stats(teacher)["completed"]
        sign = lambda start=start: stats(teacher)["completed"] >= start + 8
      else:
        sign = lambda directory=directory, pattern=pattern: any((killed / directory).glob(pattern))
      how = signal.SIGTERM if (phase, directory[:8]) == ("train", "round_01") else signal.SIGKILL
      assert run_until(sign, command(killed, teacher), env, log, how), (
        f"the run ended before {phase} in {directory}"
      )
    assert (
      subprocess.run(command(killed, teacher), cwd=ROOT, env=env, stdout=log, stderr=log).returncode
      == 0
    )
  after = stats(teacher)
  assert contents(killed) == contents(undisturbed)
  assert weights(killed) == weights(undisturbed) != {}
  summaries = [json.loads((w / "summary.json").read_text()) for w in (killed, undisturbed)]
  for summary in summaries:
    del summary["seconds"]
  assert summaries[0] == summaries[1]
  # The second run has its own cache, so it pays for each reply once more. Replies that the server
  # had sent but the killed process had not received are lost. That is at most what was in flight:
  # 4 requests for 2 replies each, at each of the two kills during a teacher phase.
  assert 0 <= (after["completed"] - before["completed"]) - before["completed"] <= 2 * 4 * 2


# The other recipes, with the teacher in the same process: overrides and (phase, sign) of each kill.
SMALL = (
  "task.validation=4", "rounds=1",
  "student.scratch.width=32", "student.scratch.head_width=8", "student.scratch.mlp=64",
  "student.scratch.vocab=512", "student.scratch.layers=1",
  "demonstrate.rationales=1", "demonstrate.passes=1",
  "evaluate.max_new_tokens=28", "rollout.batch=4", "rollout.buckets=160",
  "train.buckets=192", "train.batch=8", "train.epochs=0", "train.steps=60", "train.warmup=0",
  "train.lr=0.01", "train.checkpoint_every=5", "train.log_every=2",
)  # fmt: skip
WORDS = ("world.train=24", "world.test=4", "world.out_of_domain=0")
CHOICES = (
  "taxonomy.train=24", "taxonomy.test=4", "taxonomy.out_of_domain=0", "taxonomy.options=3",
)  # fmt: skip
EXAM = ("exam.samples=2", "exam.temperature=1.0", "exam.max_new_tokens=28")
PREFER = ("prefer.batch=2", "prefer.epochs=0", "prefer.steps=40", "prefer.warmup=0")


def exists(directory: str, pattern: str):
  """Returns a sign: a directory of the run contains a file."""
  return lambda run: any((run / directory).glob(pattern))


def contains(file: str, text: str):
  """Returns a sign: a file contains a text."""
  return lambda run: (run / file).exists() and text in (run / file).read_text()


def scored(run) -> bool:
  """A sign: some reference log-probabilities are cached."""
  file = run / "references.sqlite"
  if not file.exists():
    return False
  with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as base:
    with contextlib.suppress(sqlite3.Error):
      return base.execute("SELECT count(*) FROM scores").fetchone()[0] > 0
  return False


PREFERRED = (
  ("pair", scored),
  ("prefer", exists("round_01/2_prefer/checkpoints", "student/[0-9]*")),
)
RECIPES = {
  "tinythinker": (
    (
      *CHOICES,
      *EXAM,
      *PREFER,
      "student.arch=llama",
      "staged.interval=1",
      "train.steps=100",
      "train.checkpoint_every=0",
      "train.checkpoint_minutes=0.00001",  # a checkpoint at every row of metrics.jsonl
    ),
    (
      ("exam of recalls", contains("round_01/0_exam/attempts.jsonl", '"stage": "recall"')),
      ("exam of analyses", contains("round_01/0_exam/attempts.jsonl", '"stage": "analyze"')),
      *PREFERRED,
    ),
  ),
  "self_refine": (
    (
      *WORDS,
      *EXAM,
      *PREFER,
      "pair.policy=cot_over_plain",
      "exam.samples=4",
      "exam.max_new_tokens=80",
    ),
    (("exam", exists("round_01/0_exam", "attempts.jsonl")), *PREFERRED),
  ),
  "socratic": (
    (*WORDS, "rounds=0", "rollout.buckets=192"),
    (
      ("the first student", exists("round_00/1_train/checkpoints", "decomposer/[0-9]*")),
      ("the second student", exists("round_00/1_train/checkpoints", "solver/[0-9]*")),
      ("evaluate", exists("round_00/2_evaluate", "attempts.jsonl")),
    ),
  ),
}


@pytest.mark.heavy
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_killed_in_every_phase_ends_bit_for_bit_the_same(recipe, tmp_path):
  more, kills = RECIPES[recipe]
  env, undisturbed, killed = environment(tmp_path), tmp_path / "undisturbed", tmp_path / "killed"
  words = [sys.executable, "-m", "distill_jax", "run", f"--config=configs/{recipe}.py"]
  words += [f"--config.{override}" for override in (*SMALL, *more)]
  with open(tmp_path / "log", "w") as log:
    run = lambda workdir: subprocess.run(
      [*words, f"--workdir={workdir}"], cwd=ROOT, env=env, stdout=log, stderr=log
    )
    output = lambda: (tmp_path / "log").read_text()[-3000:]
    assert run(undisturbed).returncode == 0, output()
    for phase, sign in kills:
      was_killed = run_until(
        lambda sign=sign: sign(killed), [*words, f"--workdir={killed}"], env, log
      )
      assert was_killed, f"the run ended before {phase}: {output()}"
    assert run(killed).returncode == 0, output()
  assert contents(killed) == contents(undisturbed)
  assert weights(killed) == weights(undisturbed) != {}
