"""Guards are shown to fail: the code is broken on purpose, and the tests must notice.

bash launch/test.sh -m heavy tests/faults/test_mutations.py
"""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# What is broken: file, what stands there, what it becomes, and the tests that must turn red.
MUTATIONS = {
  "the triplet's sign is flipped": (
    "learning/losses.py", "margin - gap_B", "margin + gap_B", "tests/learning/test_losses.py",
  ),
  "parts are averaged each by its own count": (
    "learning/step.py", "means = {term: total / counts[term]",
    "own = objective.counts(part)\n      means = {term: total / jnp.maximum(own[term], 1.0)",
    "tests/learning/test_step.py",
  ),
  "parts are cut along the devices": (
    "learning/step.py", "x.reshape(-1, micro, *x.shape[1:]).swapaxes(0, 1)",
    "x.reshape(micro, -1, *x.shape[1:])", "tests/learning/test_step.py",
  ),
  "the targets begin one too early": (
    "data/encode.py", "last = len(root.tokens) - 1\n", "last = len(root.tokens) - 2\n",
    "tests/data/test_encode.py",
  ),
  "branches of a row see each other": (
    "students/decoder.py", "(own | above)", "(own | above | True)",
    "tests/students/test_decoder.py",
  ),
  "a rule of the sharding table is removed": (
    "learning/sharding.py", '  "mlp": "tensor",\n', "", "tests/learning/test_sharding.py",
  ),
  "all rows draw the same numbers": (
    "decoding/sampler.py", "(state.keys, drawn.lengths)",
    "(state.keys[:1].repeat(len(state.keys), 0), drawn.lengths)",
    "tests/decoding/test_rollout.py",
  ),
  "a step draws what the step before drew": (
    "decoding/sampler.py", "jax.random.wrap_key_data(key_2), number)",
    "jax.random.wrap_key_data(key_2), 0 * number)", "tests/decoding/test_rollout.py",
  ),
  "a row draws by the turn of the batch and not by its own length": (
    "decoding/sampler.py", "(state.keys, drawn.lengths)",
    "(state.keys, 0 * drawn.lengths + state.turn)", "tests/decoding/test_rollout.py",
  ),
  "a prompt is placed one column too far": (
    "decoding/sampler.py", "- state.turn + filled_Q[:, None]",
    "- state.turn + filled_Q[:, None] - 1", "tests/decoding/test_rollout.py",
  ),
  "a row that has ended draws on": (
    "decoding/sampler.py", "running_R & ~drawn.ended &", "running_R &",
    "tests/decoding/test_rollout.py",
  ),
  "a question may stand twice in a batch": (
    "data/order.py", "questions[row] not in seen", "True", "tests/data/test_order.py",
  ),
  "the examples of a packed row are one segment tree": (
    "data/pack.py", "above + max(row.segments)", "above", "tests/learning/test_packing.py",
  ),
  "a pair's references are forgotten": (
    "learning/losses.py", "(chosen_BP - ref_chosen_BP) - (rejected_BP - ref_rejected_BP)",
    "chosen_BP - rejected_BP", "tests/learning/test_losses.py",
  ),
  "a phase is finished before its work is on disk": (
    "phase_folder.py", "    os.replace(part, path)\n", "    pass\n", "tests/test_run_folder.py",
  ),
  "a reply is not stored": (
    "teacher/cache.py", "insert or ignore into replies", "insert or ignore into nothing",
    "tests/teacher/test_client.py",
  ),
  "a wrong answer is kept": (
    "phases/rationales.py", "if not run.task.is_correct(answer, problem)", "if False",
    "tests/test_rounds.py",
  ),
}  # fmt: skip


def outcome(tmp_path, tests: str, change=None) -> subprocess.CompletedProcess:
  """Runs tests on a copy of the repository, in which (file, old, new) was changed."""
  for part in ("distill_jax", "configs", "tests", "benchmarks", "launch"):
    shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
  for extra in ("pyproject.toml", "requirements.txt", "README.md"):
    shutil.copy(ROOT / extra, tmp_path)
  if change:
    file, old, new = change
    target = tmp_path / "distill_jax" / file
    whole = target.read_text()
    assert old in whole, f"{file} no longer holds {old!r}: this mutation needs a new place"
    target.write_text(whole.replace(old, new))
  words = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", tests]
  env = {**os.environ, "PYTHONPATH": str(tmp_path)}
  return subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)


@pytest.mark.heavy
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_break_is_noticed(name, tmp_path):
  *change, tests = MUTATIONS[name]
  done = outcome(tmp_path, tests, change)
  assert done.returncode == 1, done.stdout[-2000:]


@pytest.mark.heavy
@pytest.mark.parametrize("tests", sorted({m[-1] for m in MUTATIONS.values()}))
def test_a_copy_that_is_not_broken_passes(tests, tmp_path):
  done = outcome(tmp_path, tests)
  assert done.returncode == 0, done.stdout[-2000:]
