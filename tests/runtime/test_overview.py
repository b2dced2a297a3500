"""What a run says about itself: the first line, and the questions it writes for readers."""

import io

import pytest

from distill_jax import errors, rounds
from distill_jax.cli import main
from distill_jax.config import recipes, rules_teacher
from distill_jax.config.read import read_settings
from distill_jax.console import Console
from distill_jax.run_dir import questions, readme
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import overview
from distill_jax.runtime.context import RunContext
from distill_jax.settings import Teacher

SMALL = {"world.train": 30, "world.test": 7, "world.out_of_domain": 3, "task.validation": 5}


def context(tmp_path, recipe: str = "quickstart", **changes) -> RunContext:
  c = recipes.load(recipe)
  small = {key: value for key, value in SMALL.items() if not recipe.startswith("tinythinker")}
  c.update_from_flattened_dict(small | {k.replace("__", "."): v for k, v in changes.items()})
  run_dir = RunDir(tmp_path / "run")
  run_dir.path.mkdir()
  return RunContext(read_settings(c.to_dict()), run_dir, Console(file=io.StringIO()))


def first_line(ctx: RunContext) -> str:
  return overview.first_line(ctx, rules_teacher.askers(ctx.settings))


def test_the_first_line_names_task_counts_teacher_student_devices_and_directory(tmp_path):
  line = first_line(context(tmp_path))
  assert line == (
    "quickstart: task arithmetic (30 train, 5 validation, 7 test, 3 out_of_domain questions); "
    "teacher built-in (5% wrong replies); "
    "student llama from scratch with at most 252,384 parameters; "
    f"8 x cpu; directory {tmp_path / 'run'}"
  )


def test_it_is_the_first_line_of_a_run_and_readers_find_their_files(tmp_path, monkeypatch, capsys):
  def stop(ctx):
    raise errors.budget("stop here")

  monkeypatch.setattr(rounds, "run", stop)
  words = [f"--config.{key}={value}" for key, value in SMALL.items()]
  run_dir = tmp_path / "run"
  command = ["run", "--config=quickstart", f"--workdir={run_dir}", *words]
  assert main.main(command) == errors.BUDGET
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith("quickstart: task arithmetic (30 train, 5 validation, ")
  assert lines[0].endswith(f"directory {run_dir}")
  assert (run_dir / readme.README).exists() and len(questions.read(run_dir)) == 45


def test_several_students_and_adapters_are_named(tmp_path):
  line = first_line(
    context(tmp_path, "socratic:quick", student__lora__rank=2, student__scratch__vocab=320)
  )
  assert "; 2 students (decomposer, solver), each llama from scratch with at most " in line
  assert "in LoRA adapters;" in line


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"kind": "openai", "model": "m", "base_url": "https://me:secret@api.x/v1"}, "m at api.x"),
    ({"kind": "openai", "model": "m", "base_url": "http://localhost:80/v1"}, "m at localhost:80"),
    ({"kind": "openai", "model": "m", "batch": "files"}, "m (offline, batch files)"),
    ({"kind": "student", "model": "exported/x"}, "student exported/x"),
  ],
)
def test_a_teacher_is_described_without_its_password(changes, said):
  assert overview.describe_teacher(Teacher(**changes)) == said


def test_every_question_of_a_run_is_written_once(tmp_path):
  ctx = context(tmp_path)
  overview.write_for_readers(ctx)
  known = questions.read(ctx.run_dir.path)
  counts = {"train": 30, "validation": 5, "test": 7, "out_of_domain": 3}
  assert {s: sum(q.split == s for q in known.values()) for s in counts} == counts
  assert len(known) == sum(counts.values())
  for problem in ctx.task.problems("validation"):
    assert known[problem.id].gold == problem.gold and known[problem.id].question
  assert (ctx.run_dir.path / readme.README).exists()


def test_a_second_task_adds_its_questions(tmp_path):
  changes = {"cross__name": "taxonomy", "taxonomy__train": 20, "taxonomy__test": 4}
  ctx = context(tmp_path, "star:quick", **changes)
  problems = list(overview.all_problems(ctx))
  assert sum(split == "cross" for split, _ in problems) == 4
  assert sum(p.id.startswith("taxonomy/train") for _, p in problems) == 20
  assert len({p.id for _, p in problems}) == len(problems)
  assert "then taxonomy (20 train, 4 test questions)" in first_line(ctx)
