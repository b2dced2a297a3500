"""evaluate, sample, export and --dry_run: two processes print and write what one process does.

python -m pytest -m heavy tests/multiprocess/test_commands.py
"""

import importlib.util
import json
import pathlib

import pytest

from distill_jax import errors
from tests.multiprocess import commands

pytestmark = pytest.mark.heavy

SOCRATIC = {
  "rounds": 0, "task.validation": 4, "world.train": 24, "world.test": 4, "world.out_of_domain": 0,
  "student.scratch.width": 32, "student.scratch.head_width": 8, "student.scratch.mlp": 64,
  "student.scratch.layers": 1, "student.scratch.vocab": 320, "demonstrate.rationales": 1,
  "evaluate.max_new_tokens": 28, "rollout.batch": 8, "rollout.buckets": "192",
  "train.buckets": "256", "train.batch": 8, "train.epochs": 0, "train.steps": 8,
}  # fmt: skip
QUESTION = ["--question=What is 2 plus 2?"]
TORCH = importlib.util.find_spec("torch") is not None


def finished_run(path: pathlib.Path, words: list[str]) -> pathlib.Path:
  commands.run(path / "logs", ["run", *words, f"--workdir={path / 'run'}"], 1, devices=2)
  return path / "run"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
  """A run of one student."""
  return finished_run(tmp_path_factory.mktemp("plain"), commands.tiny(rounds=0))


@pytest.fixture(scope="module")
def lora(tmp_path_factory, plain):
  """A run of adapters on the exported student of another run."""
  path = tmp_path_factory.mktemp("lora")
  commands.run(path / "export", ["export", f"--workdir={plain}", f"--out={path / 'base'}"], 1)
  changes = {
    "rounds": 0, "world.train": 24, "world.test": 4, "world.out_of_domain": 0,
    "task.validation": 4, "rollout.batch": 8, "train.batch": 8, "train.steps": 4,
    "train.epochs": 0, "student.init": path / "base", "student.lora.rank": 2,
  }  # fmt: skip
  words = [f"--config.{name}={value}" for name, value in changes.items()]
  return finished_run(path, ["--config=tailored:pretrained", *words])


@pytest.fixture(scope="module")
def socratic(tmp_path_factory):
  """A run of two students."""
  words = [f"--config.{name}={value}" for name, value in SOCRATIC.items()]
  return finished_run(tmp_path_factory.mktemp("socratic"), ["--config=socratic", *words])


@pytest.fixture(params=["plain", "lora", "socratic"])
def run(request):
  return request.getfixturevalue(request.param)


def outputs(path: pathlib.Path, words: list[str]) -> list[str]:
  """What one process and two processes print."""
  printed = []
  for count in (1, 2):
    done = commands.run(path / f"logs{count}", words, count, devices=3 - count)
    printed.append(done.out(0))
    assert done.out(count - 1) == "" or count == 1
  return printed


@pytest.mark.parametrize("words", [["evaluate", "--split=test"], ["sample", *QUESTION]])
def test_what_a_command_prints(words, run, tmp_path):
  one, two = outputs(tmp_path, [*words, f"--workdir={run}"])
  assert one == two and json.loads(two.splitlines()[0])


def test_a_pretrained_student_is_scored_without_a_run(plain, tmp_path):
  export = ["export", f"--workdir={plain}", f"--out={tmp_path / 'out'}"]
  commands.run(tmp_path / "export", export, 1)
  sizes = {"world.test": 6, "evaluate.max_new_tokens": 12, "rollout.batch": 4}
  words = ["evaluate", f"--student={tmp_path / 'out'}", "--config.task.name=arithmetic"]
  one, two = outputs(tmp_path, [*words, *(f"--config.{k}={v}" for k, v in sizes.items())])
  assert one == two and json.loads(two)["round"] == "base"


def test_what_export_writes(run, tmp_path):
  adapter = [["--adapter"]] if run.parent.name.startswith("lora") else []
  for n, more in enumerate([[], *adapter, ["--dtype=bfloat16"]]):
    written = []
    for count in (1, 2):
      out = tmp_path / f"{n}.{count}" / "exported"  # the model card has the name
      out.parent.mkdir()
      words = ["export", f"--workdir={run}", f"--out={out}", *more]
      commands.run(tmp_path / f"logs{n}.{count}", words, count, devices=3 - count)
      files = sorted(f for f in out.rglob("*") if f.is_file())
      written.append({f.relative_to(out): f.read_bytes() for f in files})
    assert written[0] == written[1] and len(written[0]) > 2


def test_a_dry_run_shows_what_one_process_does(plain, tmp_path):
  words = ["run", *commands.tiny(rounds=1), "--dry_run", f"--workdir={plain}"]
  one, two = outputs(tmp_path, words)
  assert one == two and "Dry run: nothing is sent or written" in two


def test_verify(plain, tmp_path):
  """With torch, in an environment that has it; without torch, it is refused in one line."""
  words = ["export", f"--workdir={plain}", f"--out={tmp_path / 'out'}", "--verify"]
  with commands.started(tmp_path / "logs", words, 2) as export:
    codes = export.wait()
  if TORCH:
    assert codes == [0, 0] and "Verified with transformers" in export.out(0), export.err(0)
  else:
    assert codes == [errors.USAGE] * 2 and export.err(1) == "" and not (tmp_path / "out").exists()
    assert export.err(0) == "distill-jax: --verify needs torch: pip install torch\n"
