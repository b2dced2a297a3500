"""Applies "Add a recipe" of docs/extending.md to a copy of the package and runs the recipe."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import floors
import pytest

from distill_jax import records
from distill_jax.phases import train
from distill_jax.run_dir import phase_dir, run_dir

ROOT = pathlib.Path(__file__).parents[1]
CODE = re.compile(r"`([\w/]+\.py)`[^`]*:\n\n```python\n(.*?)```", re.DOTALL)
CONFIG, PHASE, TABLE = "configs/rft.py", "distill_jax/phases/accept.py", "plan.py"

TINY = """
  task.validation=8 world.train=80 world.test=8 world.out_of_domain=0 world.steps_max=1
  world.operand_max=6 world.families=1 demonstrate.questions=40
  student.scratch.width=32 student.scratch.head_width=8 student.scratch.mlp=64
  student.scratch.layers=1 student.scratch.vocab=320
  exam.samples=4 exam.temperature=1.0 exam.max_new_tokens=48 evaluate.max_new_tokens=48
  rollout.buckets=128 train.buckets=192 train.epochs=0 train.steps=60 train.batch=16
  train.lr=0.01 train.warmup=5
""".split()


def blocks() -> dict[str, str]:
  """Returns {file: code} of the section; the line above a block names its file."""
  page = (ROOT / "docs/extending.md").read_text()
  section = page.partition("## Add a recipe\n")[2].split("\n## ")[0]
  return dict(CODE.findall(section))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
  """A copy of the package with the page's two files and its line in the table of phases."""
  root, code = tmp_path_factory.mktemp("checkout"), blocks()
  for name in ("distill_jax", "configs"):
    shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
  assert set(code) == {CONFIG, PHASE, f"distill_jax/{TABLE}"}
  for name in (CONFIG, PHASE):
    (root / name).write_text(code[name])
  table = root / "distill_jax" / TABLE
  before = table.read_text()
  line = code[f"distill_jax/{TABLE}"]
  table.write_text(before.replace("PHASES = {\n", f"PHASES = {{\n{line}", 1))
  assert table.read_text() != before
  return root


@pytest.fixture(scope="module")
def folder(checkout):
  words = [f"--config.{word}" for word in TINY]
  command = [sys.executable, "-m", "distill_jax", "run", f"--config={CONFIG}", "--workdir=run"]
  done = subprocess.run(
    [*command, *words], cwd=checkout, env=os.environ, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return run_dir.RunDir(checkout / "run")


def test_the_recipe_of_the_page_keeps_the_laws(checkout):
  assert floors.breaches(checkout / "distill_jax") == []
  assert len((checkout / PHASE).read_text().splitlines()) < 45


def test_the_recipe_of_the_page_trains_on_its_own_correct_answers(folder):
  written = folder.find(0, "demonstrate").rows(phase_dir.RATIONALES, records.Rationale)
  accepted = folder.find(1, "accept").rows(phase_dir.RATIONALES, records.Rationale)
  attempts = folder.find(1, "exam").rows(phase_dir.ATTEMPTS, records.Attempt)
  right = {(a.problem, a.sample) for a in attempts if a.correct}
  assert accepted and {r.writer for r in accepted} == {"student"}
  assert {(r.problem, r.sample) for r in accepted} <= right
  trained = folder.find(1, "train").rows(train.EXAMPLES, records.Example)
  texts = {(r.problem, r.text) for r in written + accepted}
  assert {(x.problem, x.target) for x in trained} == texts and len(trained) == len(texts)
  assert folder.find(1, "train").facts["steps"] == 60 and folder.find(1, "evaluate").finished


def test_no_two_accepted_answers_of_a_question_compute_the_same(folder, checkout):
  found = {}
  exec(compile((checkout / PHASE).read_text(), PHASE, "exec"), found)
  accepted = folder.find(1, "accept").rows(phase_dir.RATIONALES, records.Rationale)
  ways = [(r.problem, found["way"](r.text)) for r in accepted]
  assert len(ways) == len(set(ways))
  assert found["way"]("He has 2 + 3 = 5.\nAnswer: 5") == ("2 + 3 = 5",)
