"""Trackers show the metrics of a run, once each, and never stop it."""

import io

import pytest

from distill_jax import console, errors, records
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import tracking


class Fake:
  """A tracker that keeps what it is sent; `broken` makes it fail."""

  made: list["Fake"] = []  # noqa: RUF012
  broken = False

  def __init__(self, run_dir, run_id):
    self.id, self.rows, self.closed = run_id, [], False
    self.made.append(self)

  def log(self, values, step):
    if Fake.broken:
      raise ConnectionError("no server\nno trace")
    self.rows.append((dict(values), step))

  def close(self):
    self.closed = True


@pytest.fixture
def fake(monkeypatch):
  monkeypatch.setitem(tracking.BACKENDS, "wandb", Fake)
  Fake.made, Fake.broken = [], False


def opened(tmp_path, names=("wandb",)):
  out = io.StringIO()
  return tracking.Tracking(names, RunDir(tmp_path), console.Console(file=out)), out


def row(step: int, **values) -> records.Metrics:
  return records.Metrics(step, 1.0 / step, 0.5, **values)


def test_rows_are_sent_with_their_phase_and_student(tmp_path, fake):
  tracker, _ = opened(tmp_path)
  tracker.metrics("round_01/2_train", row(10, sft=0.25))
  tracker.metrics("round_01/2_train", row(10, student="solver", margin=float("nan")))
  start = "round_01/2_train"
  assert Fake.made[0].rows == [
    ({f"{start}/student/loss": 0.1, f"{start}/student/grad_norm": 0.5,
      f"{start}/student/sft": 0.25}, 10),
    ({f"{start}/solver/loss": 0.1, f"{start}/solver/grad_norm": 0.5}, 10),
  ]  # fmt: skip
  tracker.close()
  assert Fake.made[0].closed


def test_a_resumed_run_continues_the_same_tracker_run_without_repeating(tmp_path, fake):
  tracker, _ = opened(tmp_path)
  for step in (10, 20):
    tracker.metrics("round_00/1_train", row(step))
  again, _ = opened(tmp_path)
  for step in (20, 30):  # 20 is computed again, from the checkpoint at 10
    again.metrics("round_00/1_train", row(step))
  first, second = Fake.made
  assert first.id == second.id and [step for _, step in first.rows + second.rows] == [10, 20, 30]
  again.metrics("round_01/1_train", row(10))
  assert len(second.rows) == 2


def test_a_tracker_that_fails_is_reported_once_and_left_out(tmp_path, fake):
  tracker, out = opened(tmp_path)
  Fake.broken = True
  for step in (10, 20):
    tracker.metrics("round_00/1_train", row(step))
  tracker.close()
  assert out.getvalue() == "warning: track: wandb is left out from now on (no server)\n"


def test_damaged_state_and_no_tracker_change_nothing(tmp_path, fake):
  (tmp_path / "tracking.json").write_text('{"sent": 3}')
  tracker, out = opened(tmp_path)
  tracker.metrics("round_00/1_train", row(10))
  assert "damaged" in out.getvalue() and len(Fake.made[0].rows) == 1
  (tmp_path / "tracking.json").unlink()
  without, _ = opened(tmp_path, ())
  without.metrics("round_00/1_train", row(10))
  assert len(Fake.made) == 1 and not (tmp_path / "tracking.json").exists()


def test_a_tracker_that_is_not_installed_is_rejected_before_the_run(monkeypatch):
  monkeypatch.setitem(tracking.PACKAGES, "trackio", "no_such_package")
  with pytest.raises(errors.UserError, match="pip install no_such_package"):
    tracking.check(("trackio",))


def test_rounds_are_sent(tmp_path, fake):
  tracker, _ = opened(tmp_path)
  tracker.round(
    {"round": 2, "teacher": {"calls": 3, "dollars": 0.5}, "exam": None, "kept": 1, "contrasts": 0,
     "pairs": 0, "steps": 4, "loss": None, "validation": {"accuracy": 0.5, "low": 0, "high": 1}}
  )  # fmt: skip
  ((values, step),) = Fake.made[0].rows
  assert step == 2 and values["rounds/validation_accuracy"] == 0.5
  assert values["rounds/teacher_dollars"] == 0.5 and "rounds/loss" not in values


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_event_files_read_back_equal_the_metrics(tmp_path):
  """bash launch/test.sh -m parity        (after: .venv/bin/pip install tensorboardX)"""
  pytest.importorskip("tensorboardX")
  import numpy as np
  from tensorboardX.proto import event_pb2

  rows = [row(step, sft=step / 7) for step in range(1, 6)]
  for part in (rows[:3], rows[2:]):  # killed and resumed
    tracker, out = opened(tmp_path, ("tensorboard",))
    for metrics in part:
      tracker.metrics("round_00/1_train", metrics)
    tracker.close()
    assert out.getvalue() == ""
  found = {}
  for file in (tmp_path / tracking.EVENTS).iterdir():
    content, at = file.read_bytes(), 0
    while at < len(content):
      size = int.from_bytes(content[at : at + 8], "little")
      event = event_pb2.Event.FromString(content[at + 12 : at + 12 + size])
      at += 16 + size
      for value in event.summary.value:
        found.setdefault(value.tag, []).append((event.step, value.simple_value))
  for name in ("loss", "grad_norm", "sft"):
    expected = [(m.step, float(np.float32(getattr(m, name)))) for m in rows]
    assert sorted(found[f"round_00/1_train/student/{name}"]) == expected
