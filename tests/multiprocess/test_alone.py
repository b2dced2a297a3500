"""What a process other than 0 does by itself: nothing to files; and an error of its own ends all.

python -m pytest -m heavy tests/multiprocess/test_alone.py
"""

import os
import pathlib
import shutil
import time

import pytest

from distill_jax import errors
from tests.multiprocess import commands

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def hooks(tmp_path_factory) -> pathlib.Path:
  """A directory whose `sitecustomize` Python loads at its start."""
  path = tmp_path_factory.mktemp("hooks")
  shutil.copy(pathlib.Path(__file__).parent / "audit.py", path / "sitecustomize.py")
  return path


def environment(hooks: pathlib.Path, **more: str) -> dict[str, str]:
  return {"PYTHONPATH": os.pathsep.join([str(hooks), str(commands.ROOT)]), **more}


def test_only_process_0_writes_and_has_other_connections(hooks, tmp_path):
  words = ["run", *commands.tiny(train__checkpoint_every=2), f"--workdir={tmp_path / 'run'}"]
  watched = environment(hooks, AUDIT_LOG=str(tmp_path / "audit"))
  port = commands.free_port()
  commands.run(tmp_path / "logs", words, 2, environment=watched, address=f"127.0.0.1:{port}")
  first, other = ((tmp_path / f"audit.{n}").read_text().splitlines() for n in (0, 1))
  for event in ("open", "os.rename", "os.mkdir", "os.remove", "sqlite3.connect"):
    assert any(line.startswith(f"{event} ") for line in first), "the hook sees nothing"
  assert set(other) == {f"socket.connect ('127.0.0.1', {port})"}


@pytest.mark.parametrize(
  ("error", "code", "text"),
  [("OSError", errors.DATA, "distill-jax: process 1: "), ("ValueError", 1, "Traceback")],
)
def test_an_error_of_process_1_alone_ends_all_with_its_code(error, code, text, hooks, tmp_path):
  run = [f"--workdir={tmp_path / 'base'}"]
  commands.run(tmp_path / "1", ["run", *commands.tiny(rounds=0), *run], 1)
  commands.run(tmp_path / "2", ["export", *run, f"--out={tmp_path / 'model'}"], 1)
  sizes = {"student.init": tmp_path / "model", "world.train": 24, "task.validation": 4}
  words = ["run", "--config=tailored:pretrained", *(f"--config.{k}={v}" for k, v in sizes.items())]
  broken = environment(hooks, AUDIT_FAIL=f"1:model.safetensors:{error}")
  command = [*words, f"--workdir={tmp_path / 'run'}"]
  with commands.started(tmp_path / "logs", command, 2, environment=broken) as run:
    ended, deadline = {}, time.monotonic() + 300
    while len(ended) < 2:
      assert time.monotonic() < deadline, f"only {list(ended)} ended: {run.err(0)}"
      for n, process in enumerate(run.processes):
        if n not in ended and process.poll() is not None:
          ended[n] = time.monotonic(), process.returncode
      time.sleep(0.05)
  assert [ended[n][1] for n in (0, 1)] == [code] * 2, run.err(0) + run.err(1)
  assert abs(ended[0][0] - ended[1][0]) < 60
  assert text in run.err(1) and "Input/output error" in run.err(1)
  text = f"process 1 has ended with exit code {code}; its own output says why\n"
  assert run.err(0).endswith(text) and run.err(0).count("distill-jax: ") == 1
