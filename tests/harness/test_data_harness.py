"""distill-jax data harness: questions, prompts and verdicts for other harnesses."""

import json

import pytest

from distill_jax import errors
from distill_jax.cli import main
from distill_jax.config.read import read_settings
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime.context import RunContext
from distill_jax.tasks import harness
from tests import recipes

SMALL = ["--config.world.train=4", "--config.world.test=3", "--config.task.validation=2"]
CHOICES = ["--config.taxonomy.train=4", "--config.taxonomy.test=3", "--config.task.validation=2"]


def write(tmp_path, *words: str) -> set[str]:
  assert main.main(["data", "harness", f"--out={tmp_path / 'out'}", *words]) == 0
  return {path.name for path in (tmp_path / "out").iterdir()}


def rows(tmp_path, task: str) -> list[dict]:
  lines = (tmp_path / "out" / f"distill_jax_{task}.jsonl").read_text("utf-8").splitlines()
  return [json.loads(line) for line in lines]


def test_rows_have_the_prompts_and_verdicts_of_the_run(tmp_path):
  written = write(tmp_path, "--config=cot", *SMALL, "--limit=2")
  assert written == {"distill_jax_reader.py", *(
    f"distill_jax_arithmetic{end}" for end in (".jsonl", ".py", ".yaml", "_chat.yaml"))}  # fmt: skip
  config = recipes.config("cot", world__test=3, world__train=4, task__validation=2)
  settings = read_settings({**config, "world": {**recipes_world()}})
  with RunContext(settings, RunDir(tmp_path / "run"), None) as ctx:
    problems = ctx.task.problems("test")[:2]
    found = rows(tmp_path, "arithmetic")
    assert [row["prompt"] for row in found] == [ctx.prompt(problem) for problem in problems]
    for row, problem in zip(found, problems, strict=True):
      for text in (problem.rationale, "Answer: 7 or 8", f"It is {problem.gold}", ""):
        for whole in (True, False):
          answer = ctx.task.read_answer(text, problem, whole=whole)
          expected = answer, ctx.task.is_correct(answer, problem)
          assert harness.verdict(row["problem"], text, whole=whole) == expected
