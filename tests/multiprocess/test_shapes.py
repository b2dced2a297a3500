"""Four devices in two or four processes: close to one process, and equal to themselves.

A sum of four numbers is rounded as it is ordered, and processes order it in another way than the
devices of one process do. The same processes always order it in the same way.

python -m pytest -m heavy tests/multiprocess/test_shapes.py
"""

import json
import pathlib
import signal

import numpy as np
import pytest

from distill_jax import errors
from tests.multiprocess import commands

pytestmark = pytest.mark.heavy

STEPS = 8
DEVICES = 4
SHAPES = [(2, {"fsdp": 2}), (4, {}), (2, {"tensor": 2})]
QUESTIONS = "".join(f"A box holds {n} pens. How many pens are in 2 boxes?\n" for n in range(2, 8))


def words(mesh: dict[str, int], workdir: pathlib.Path) -> list[str]:
  changes = {f"mesh__{axis}": size for axis, size in mesh.items()}
  sizes = {"train__steps": STEPS, "train__lr": 0.001, "rounds": 0}
  return ["run", *commands.tiny(**changes, **sizes), f"--workdir={workdir}"]


def metrics(run: pathlib.Path) -> np.ndarray:
  """The losses and gradient norms of round 0, by step."""
  rows = map(json.loads, (run / "round_00/2_train/metrics.jsonl").read_text().splitlines())
  return np.array([[row["loss"], row["grad_norm"]] for row in rows])


def exported(run: pathlib.Path, logs: pathlib.Path) -> dict[str, np.ndarray]:
  """The weights after round 0."""
  import safetensors.numpy

  out = logs / "exported"
  command = ["export", f"--workdir={run}", f"--out={out}"]
  commands.run(logs, command, 1, devices=DEVICES)
  return safetensors.numpy.load_file(out / "model.safetensors")


def answers(run: pathlib.Path, logs: pathlib.Path, count: int) -> list[dict]:
  """Greedy answers of the student, in so many processes."""
  logs.mkdir()
  (logs / "questions").write_text(QUESTIONS)
  command = ["sample", f"--workdir={run}", f"--questions={logs / 'questions'}"]
  done = commands.run(logs, command, count, devices=DEVICES // count)
  return [json.loads(line) for line in done.out(0).splitlines()]


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def runs(request, tmp_path_factory):
  """The number of processes, a run in so many, and the same in one process."""
  (count, mesh), path = request.param, tmp_path_factory.mktemp("shapes")
  several, one = path / "several", path / "one"
  commands.run(path / "1", words(mesh, one), 1, devices=DEVICES)
  commands.run(path / "2", words(mesh, several), count, devices=DEVICES // count)
  return count, mesh, several, one


def test_it_is_close_to_one_process(runs, tmp_path):
  count, _, several, one = runs
  np.testing.assert_allclose(metrics(several), metrics(one), rtol=1e-5)
  of_several, of_one = (exported(r, tmp_path / r.name) for r in (several, one))
  assert of_several.keys() == of_one.keys()
  for name, weights in of_one.items():
    np.testing.assert_allclose(of_several[name], weights, rtol=0, atol=1e-5)
  here, there = (answers(one, tmp_path / f"answers{n}", n) for n in (1, count))
  for a, b in zip(here, there, strict=True):
    assert abs(a.pop("logprob") - b.pop("logprob")) < 1e-4 and a == b


def test_an_interrupted_run_is_equal_to_one_that_is_not(runs, tmp_path):
  count, mesh, several, _ = runs
  again = words(mesh, tmp_path / "run")
  with commands.started(tmp_path / "1", again, count, devices=DEVICES // count) as run:
    run.wait_for("round 0 exam")
    run.processes[-1].kill()
    assert errors.PREEMPTED in run.wait(120)
  with commands.started(tmp_path / "2", again, count, devices=DEVICES // count) as run:
    run.wait_for("the train step")
    run.processes[-1].send_signal(signal.SIGTERM)
    assert run.wait(120) == [errors.PREEMPTED] * count
  commands.run(tmp_path / "3", again, count, devices=DEVICES // count)
  commands.assert_equal(several, tmp_path / "run")


@pytest.fixture(scope="module")
def two_devices(tmp_path_factory):
  """A run of one process with two devices."""
  path = tmp_path_factory.mktemp("two_devices")
  commands.run(path / "logs", changed(path / "run"), 1, devices=2)
  return path / "run"


def changed(workdir: pathlib.Path) -> list[str]:
  """The words of a run whose processes or devices change."""
  return ["run", *commands.tiny(train__steps=30), f"--workdir={workdir}"]


def stop_in_training(path: pathlib.Path, count: int) -> None:
  """Starts a run in so many processes on two devices, and stops it while it trains."""
  with commands.started(path / "1", changed(path / "run"), count, devices=2 // count) as run:
    run.wait_for("the train step")
    run.processes[0].send_signal(signal.SIGTERM)
    assert run.wait(120) == [errors.PREEMPTED] * count


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_in_another_number_of_processes(before, after, tmp_path, two_devices):
  stop_in_training(tmp_path, before)
  commands.run(tmp_path / "2", changed(tmp_path / "run"), after, devices=2 // after)
  commands.assert_equal(two_devices, tmp_path / "run")


def test_a_run_goes_on_with_another_number_of_devices(tmp_path):
  stop_in_training(tmp_path, 2)
  commands.run(tmp_path / "2", changed(tmp_path / "run"), 1)
  assert (tmp_path / "run/summary.json").exists()
