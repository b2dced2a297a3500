"""Complete runs with a base in nf4 and decoding in int8.

.venv/bin/python -m pytest -m heavy tests/test_quantized_run.py
"""

import jax
import numpy as np
import pytest

from distill_jax import records
from distill_jax.cli import commands
from distill_jax.config.read import read_settings
from distill_jax.console import Console
from distill_jax.machine import checkpoint
from distill_jax.run_dir import phase_dir
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import context, export
from distill_jax.students import quantized
from tests import test_rounds

pytestmark = pytest.mark.heavy
pytest.importorskip("qwix", reason="qwix is not installed: pip install -r requirements-dev.txt")

SIZES = {"student__scratch__head_width": 16}
FEW_BITS = {
  "student__lora__rank": 2, "student__lora__targets": ("q", "o", "down"),
  "student__lora__base": "nf4", "rollout__weights": "int8", "train__checkpoint_every": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """Returns the exported student of a run from scratch."""
  path = tmp_path_factory.mktemp("model")
  _, run_dir = test_rounds.run(path / "run", rounds=0, **SIZES)
  write(run_dir, path / "out", rounds=0, **SIZES)
  return path / "out"


def write(run_dir, out, round=0, **changes) -> None:
  settings = read_settings(test_rounds.config(**changes))
  commands.export(
    settings, workdir=str(run_dir.path), round=round, out=str(out), dtype="float32", verify=False
  )


def opened(run_dir, **changes) -> context.RunContext:
  return context.RunContext(read_settings(test_rounds.config(**changes)), run_dir, Console())


def attempts(run_dir, number: int, phase: str):
  return run_dir.find(number, phase).rows(phase_dir.ATTEMPTS, records.Attempt)


def same(a, b) -> None:
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module", params=["pretrained", "scratch"])
def finished(request, model, tmp_path_factory):
  """Returns the settings of a run that was not interrupted, and the run."""
  init = {"student__init": str(model)} if request.param == "pretrained" else SIZES
  changes = FEW_BITS | init
  _, run_dir = test_rounds.run(tmp_path_factory.mktemp(request.param) / "run", **changes)
  return changes, run_dir


def test_a_run_that_is_stopped_in_training_ends_with_the_same_attempts_and_weights(
  finished, tmp_path, monkeypatch
):
  changes, run_dir = finished
  save, saved = checkpoint.Checkpoints.save, []

  def stop(self, step, state):
    save(self, step, state)
    saved.append(step)
    if len(saved) == 1:
      raise RuntimeError("stopped")

  monkeypatch.setattr(checkpoint.Checkpoints, "save", stop)
  shared = {"teacher__cache": str(run_dir.path / "teacher.sqlite")}
  with pytest.raises(RuntimeError, match="stopped"):
    test_rounds.run(tmp_path / "run", **changes, **shared)
  _, again = test_rounds.run(tmp_path / "run", **changes, **shared)
  assert saved[0] == 2  # a checkpoint inside the training
  for number in (0, 1):
    same(*(opened(x, **changes).students(number)["student"][1] for x in (run_dir, again)))
  for number, phase in ((1, "exam"), (0, "evaluate"), (1, "evaluate")):
    assert attempts(again, number, phase) == attempts(run_dir, number, phase) != []


def test_an_export_holds_what_the_4_bits_stand_for_with_the_adapters(finished, tmp_path):
  changes, run_dir = finished
  student, trained = opened(run_dir, **changes).students(0)["student"]
  assert set(trained["blocks"]) == {"q", "o", "down"}
  assert all(np.abs(x["up"]).max() > 0 for x in trained["blocks"].values())
  write(run_dir, tmp_path / "out", **changes)
  read_back = {"student__init": str(tmp_path / "out"), "rounds": 0}
  (tmp_path / "again").mkdir()
  exported = opened(RunDir(tmp_path / "again"), **read_back).students(-1)["student"][1]
  same(exported, export.merged_params(student, trained))
  base = student.frozen["blocks"]
  assert isinstance(base["k"], quantized.Nf4)
  same(exported["blocks"]["k"], jax.jit(quantized.dequantize)(base["k"]))
  change = np.abs(np.asarray(exported["blocks"]["q"]) - quantized.dequantize(base["q"]))
  assert 0 < change.max() < 0.1


def test_8_bits_change_attempts_and_nothing_before_them(finished, tmp_path):
  changes, run_dir = finished
  changes = changes | {
    "rollout__weights": "",
    "teacher__cache": str(run_dir.path / "teacher.sqlite"),
  }
  _, exact = test_rounds.run(tmp_path / "run", **changes)
  first, other = (opened(x, **changes).students(0)["student"][1] for x in (run_dir, exact))
  same(first, other)
  assert attempts(run_dir, 0, "evaluate") != attempts(exact, 0, "evaluate")
