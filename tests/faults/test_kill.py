"""A run that is killed again and again ends as one that was left alone, and pays for no finished
reply twice."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TINY = (
  "world.train=48", "world.test=12", "world.out_of_domain=8", "task.validation=12", "rounds=2",
  "student.scratch.width=32", "student.scratch.head_width=8", "student.scratch.mlp=64",
  "student.scratch.vocab=320",
  "exam.questions=32", "exam.samples=2", "exam.new_tokens=16", "evaluate.new_tokens=16",
  "rollout.batch=8", "train.steps=12", "train.batch=8", "train.checkpoint_every=3",
  "train.log_every=2", "train.warmup=2",
  "stop.patience=0", "teacher.concurrency=4", "feedback.rationales=2",
)  # fmt: skip

# Each kill waits for a sign that a phase is under way: in some folder, some file is there.
KILLS = (
  ("teacher", "round_00", None),
  ("exam", "round_00/1_exam", "attempts.jsonl"),
  ("train", "round_00/2_train", "checkpoints/[0-9]*"),
  ("evaluate", "round_00/3_evaluate", "attempts.jsonl"),
  ("exam", "round_01/0_exam", "attempts.jsonl"),
  ("teacher", "round_01", None),
  ("train", "round_01/2_train", "checkpoints/[0-9]*"),
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
  """The built-in teacher in its own process, a little slow, so that there is time to kill."""
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


def play_until(sign, words, env, log) -> bool:
  """Starts the run and kills it when `sign` shows; False if it ended first."""
  process = subprocess.Popen(words, cwd=ROOT, env=env, stdout=log, stderr=log)
  while process.poll() is None:
    if sign():
      process.kill()
      process.wait()
      return True
    time.sleep(0.002)
  return False


def contents(workdir) -> dict[str, bytes]:
  """Every record, manifest and metric of a run, and the weights; not the lock, the clock and the
  teacher's cache."""
  kept = ("*.jsonl", "manifest.json", "config.json")
  found = {
    str(f.relative_to(workdir)): f.read_bytes()
    for k in kept
    for f in pathlib.Path(workdir).rglob(k)
    if "student" not in f.parts and "teacher" not in f.name
  }
  return found


def weights(workdir) -> dict:
  """Arrays of each round's student."""
  import numpy as np
  import orbax.checkpoint as ocp

  out = {}
  for folder in sorted(pathlib.Path(workdir).glob("round_*/*_train/student/*")):
    if folder.name.isdigit():
      tree = ocp.StandardCheckpointer().restore(str(folder / "default"))
      out[str(folder.relative_to(workdir))] = [
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
    for phase, folder, pattern in KILLS:
      if phase == "teacher":
        start = stats(teacher)["completed"]
        sign = lambda start=start: stats(teacher)["completed"] >= start + 8
      else:
        sign = lambda folder=folder, pattern=pattern: any((killed / folder).glob(pattern))
      assert play_until(sign, command(killed, teacher), env, log), (
        f"the run ended before {phase} in {folder}"
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
  # The second run has a cache of its own, so each reply is paid for once more. What the server had
  # answered but the killed process had not yet received is lost: at most what was in flight, which
  # is 4 requests for 2 replies each, at each of the two kills amid the teacher's work.
  assert 0 <= (after["completed"] - before["completed"]) - before["completed"] <= 2 * 4 * 2
