"""One byte of a finished run changes: it is detected by name, or no output depends on it.

Every kind of file of a run is damaged, one at a time, and then the run is resumed, evaluated,
sampled and exported.

bash launch/test.sh -m heavy tests/faults/test_flips.py
"""

import json
import pathlib
import re
import shutil

import pytest

from distill_jax import errors
from distill_jax.cli import commands
from distill_jax.config.read import read_settings
from distill_jax.run_dir import digests
from distill_jax.run_dir.run_dir import RunDir
from tests import compilations, recipes
from tests.faults import test_kill

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)

# Files that no output depends on, by kind: what they are for.
UNUSED = {
  "README.md": "for readers",
  "seconds.json": "run time; a damaged one counts as 0",
  "summary.json": "an output; written again by the run",
  "report.html": "an output; written again by the run",
  "teacher.sqlite": "asked only by phases that are not finished",
  "references.sqlite": "asked only by phases that are not finished",
  "teacher.json": "read before the teacher is asked",
}
LAST = 1  # round of the student that is used: `files` damages the weights of the last round
RECIPES = {"quickstart": {}, "tinythinker": recipes.LEARNED}


def kind(file: pathlib.Path) -> str:
  """Returns the path of a file in a run without numbers and random names."""
  name = re.sub(r"[0-9a-f]{32}", "HASH", file.as_posix())
  return re.sub(r"[0-9]+", "N", name)


def files(run_dir: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns one file of each kind, the last one: {kind: path relative to the run}."""
  found = sorted(f for f in run_dir.rglob("*") if f.is_file() and f.stat().st_size)
  return {kind(f.relative_to(run_dir)): f.relative_to(run_dir) for f in found}


def flip(file: pathlib.Path, position: int) -> None:
  content = bytearray(file.read_bytes())
  content[position] ^= 1
  file.write_bytes(content)


@pytest.fixture(scope="module", params=RECIPES)
def finished(request, tmp_path_factory):
  """Returns (config, run directory) of a finished run."""
  out = tmp_path_factory.mktemp(request.param) / "run"
  recipes.run(out, request.param, **RECIPES[request.param])
  return recipes.config(request.param, **RECIPES[request.param]), out


def run_command(
  name: str, config: dict, run_dir: pathlib.Path, out: pathlib.Path, capsys
) -> object:
  """Runs a command; returns all that it puts out, except for run times and directories."""
  capsys.readouterr()
  settings, workdir = read_settings(config, teacher=name == "resume"), str(run_dir)
  if name == "resume":
    summary = commands.run(settings, config, workdir)
    return {**summary, "seconds": None}
  if name == "evaluate":
    commands.evaluate(settings, workdir=workdir, round=LAST, split="test")
  elif name == "sample":
    question = "Which one can fly?\n(A) a kite\n(B) a stone"  # TinyThinker's format needs options
    options = dict(question=question, questions="", samples=1, temperature=0.0)
    commands.sample(settings, workdir=workdir, round=LAST, **options)
  else:
    options = dict(out=str(out / "export"), dtype="float32", verify=False)
    commands.export(settings, workdir=workdir, round=LAST, **options)
    return {f.name: f.read_bytes() for f in sorted((out / "export").iterdir())}
  return capsys.readouterr().out


COMMANDS = ("resume", "evaluate", "sample", "export")


@pytest.mark.heavy
def test_a_changed_byte_in_any_kind_of_file_is_detected_or_has_no_effect(
  finished, tmp_path, capsys
):
  config, run_dir = finished
  (tmp_path / "intact").mkdir()
  outputs = {n: run_command(n, config, run_dir, tmp_path / "intact", capsys) for n in COMMANDS}
  detected, unused = set(), set()
  for index, (name, file) in enumerate(files(run_dir).items()):
    for command in COMMANDS:
      copy = shutil.copytree(run_dir, tmp_path / f"{index}_{command}")
      flip(copy / file, (copy / file).stat().st_size // 2)
      try:
        output = run_command(command, config, copy, copy, capsys)
      except errors.UserError as error:
        assert str(copy / file) in str(error), (name, command, error)
        detected.add(name)
      else:
        assert output == outputs[command], (name, command)
        unused.add((name, command))
      shutil.rmtree(copy)
  weights = {kind for kind in files(run_dir) if re.search("/(student|decomposer|solver)/", kind)}
  silent = {name for name, _ in unused} - set(UNUSED) - weights
  assert not silent, silent
  # Weights are compared with their digests when they are read, which resuming does not.
  assert weights & detected
  assert {command for name, command in unused if name in weights & detected} <= {"resume"}
  assert {"config.json", "questions.jsonl", "manifest.json"} <= detected
  assert {f"round_NN/N_exam/{f}" for f in ("attempts.jsonl", "manifest.json")} <= {
    name.replace("round_N", "round_NN") for name in detected
  }


def without_the_end(run_dir: pathlib.Path, copy: pathlib.Path) -> pathlib.Path:
  """Copies a run without the phases after its last exam, as if it had been killed there."""
  shutil.copytree(run_dir, copy)
  for path in (*copy.glob("round_01/[1-9]_*"), copy / "final", copy / "summary.json"):
    shutil.rmtree(path) if path.is_dir() else path.unlink()
  return copy


@pytest.mark.heavy
def test_a_changed_byte_in_an_unfinished_run_is_detected_or_has_no_effect(
  finished, tmp_path, capsys
):
  """Here the teacher's replies and the reference scores are used again."""
  config, run_dir = finished
  intact = without_the_end(run_dir, tmp_path / "intact")
  summary = run_command("resume", config, intact, tmp_path, capsys)
  records_of_intact = test_kill.contents(intact)
  detected = set()
  unfinished = without_the_end(run_dir, tmp_path / "unfinished")
  for name, file in files(unfinished).items():
    size = (unfinished / file).stat().st_size
    parts = range(1, 32) if file.suffix == ".sqlite" else (16,)
    for part in parts:
      copy = shutil.copytree(unfinished, tmp_path / "copy")
      flip(copy / file, size * part // 32)
      try:
        output = run_command("resume", config, copy, copy, capsys)
      except errors.UserError as error:
        assert str(copy / file) in str(error), (name, part, error)
        detected.add(name)
      else:
        assert output == summary, (name, part)
        assert test_kill.contents(copy) == records_of_intact, (name, part)
      shutil.rmtree(copy)
  read = "teacher.sqlite" if "feedback" in config["each_round"] else "references.sqlite"
  assert {read, "questions.jsonl"} <= detected


def test_every_byte_of_every_manifest_and_record_counts(tmp_path):
  """Without a student: the phases are written by hand."""
  run_dir = RunDir(tmp_path / "run")
  run_dir.claim({"rounds": 1})
  phase = run_dir.phase(0, 0, "exam")
  phase.write("attempts.jsonl", [])
  (phase.path / "attempts.jsonl").write_text('{"correct": true}\n')
  phase.finish({"accuracy": 0.1, "dropped": {"duplicate": 3}})
  run_dir.note("questions", {"train": "0123"})
  run_dir.release()
  for file in (run_dir.path / "manifest.json", phase.path / "manifest.json"):
    content = file.read_bytes()
    for position in range(len(content)):
      for changed in (content[position] ^ 1, content[position] ^ 32):
        file.write_bytes(content[:position] + bytes([changed]) + content[position + 1 :])
        with pytest.raises(errors.UserError, match=re.escape(str(file))):
          RunDir(run_dir.path).verify()
    file.write_bytes(content)
  RunDir(run_dir.path).verify()
  for name in ("config.json", "round_00/0_exam/attempts.jsonl"):
    size = (run_dir.path / name).stat().st_size
    for position in range(size):
      flip(run_dir.path / name, position)
      with pytest.raises(errors.UserError, match=f"{name} has changed.*restore it"):
        RunDir(run_dir.path).verify()
      flip(run_dir.path / name, position)
  RunDir(run_dir.path).verify()


def test_a_file_is_read_once_in_a_process_unless_it_changes(tmp_path, monkeypatch):
  file = tmp_path / "file"
  file.write_bytes(b"one")
  monkeypatch.setattr(digests, "CLOCK_TICK", -1_000_000_000)
  monkeypatch.setattr(digests, "COARSE_TICK", -1_000_000_000)
  read, digest = [], digests.hashlib.file_digest

  def counted(opened, name):
    read.append(opened.name)
    return digest(opened, name)

  monkeypatch.setattr(digests.hashlib, "file_digest", counted)
  first = digests.sha256(file)
  assert digests.sha256(file) == first and len(read) == 1
  file.write_bytes(b"two")
  file.touch()
  assert digests.sha256(file) != first and len(read) == 2


def test_a_file_that_has_just_changed_is_read_again(tmp_path):
  """Its time stamp may be too coarse to tell two changes apart."""
  file = tmp_path / "file"
  for n in range(50):
    file.write_text(f"{n:02}")
    assert digests.sha256(file) == digests.of_text(f"{n:02}")


def test_a_damaged_run_time_stops_nothing(tmp_path):
  run_dir = RunDir(tmp_path)
  run_dir.add_seconds(2.0)
  assert run_dir.seconds == 2.0
  for content in (b"", b"{", b"[]", b'{"seconds": 1e999, "sha256": "x"}', b"\xff"):
    (tmp_path / "seconds.json").write_bytes(content)
    assert run_dir.seconds == 0.0
    run_dir.add_seconds(1.0)
    assert run_dir.seconds == 1.0
  text = (tmp_path / "seconds.json").read_text()
  (tmp_path / "seconds.json").write_text(text.replace("1.0", "9.0"))
  assert json.loads((tmp_path / "seconds.json").read_text())["seconds"] == 9.0
  assert run_dir.seconds == 0.0
