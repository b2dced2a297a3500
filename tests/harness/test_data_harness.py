"""distill-jax data harness: questions, prompts and verdicts for other harnesses."""

import json

from distill_jax import console, errors
from distill_jax.cli import args, main
from distill_jax.config.read import read_settings
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime.context import RunContext
from distill_jax.tasks import harness

SMALL = ["--config.world.train=4", "--config.world.test=3", "--config.task.validation=2"]
CHOICES = ["--config.taxonomy.train=4", "--config.taxonomy.test=3", "--config.task.validation=2"]


def write(tmp_path, *words: str) -> set[str]:
  assert main.main(["data", "harness", f"--out={tmp_path / 'out'}", *words]) == 0
  return {path.name for path in (tmp_path / "out").iterdir()}


def rows(tmp_path, task: str) -> list[dict]:
  lines = (tmp_path / "out" / f"distill_jax_{task}.jsonl").read_text("utf-8").splitlines()
  return [json.loads(line) for line in lines]


def test_rows_have_the_prompts_and_verdicts_of_the_run(tmp_path):
  written = write(tmp_path, "--config=quickstart", *SMALL, "--limit=2")
  ends = (".jsonl", ".py", ".yaml", "_chat.yaml")
  assert written == {"distill_jax_reader.py", *(f"distill_jax_arithmetic{end}" for end in ends)}
  config, _, _ = args.parse(["--config=quickstart", *SMALL], {}, config="required")
  with RunContext(read_settings(config), RunDir(tmp_path / "run"), console.Console()) as ctx:
    problems = ctx.task.problems("test")[:2]
    found = rows(tmp_path, "arithmetic")
    assert [row["prompt"] for row in found] == [ctx.prompt(problem) for problem in problems]
    for row, problem in zip(found, problems, strict=True):
      for text in (problem.rationale, "Answer: 7 or 8", f"It is {problem.gold}", ""):
        for whole in (True, False):
          answer = ctx.task.read_answer(text, problem, whole=whole)
          expected = answer, ctx.task.is_correct(answer, problem)
          assert harness.verdict(row["problem"], text, whole=whole) == expected


def test_a_format_of_several_turns_has_only_a_chat_task(tmp_path):
  written = write(tmp_path, "--config=tinythinker", *CHOICES)
  assert "distill_jax_taxonomy_chat.yaml" in written
  assert "distill_jax_taxonomy.yaml" not in written
  row = rows(tmp_path, "taxonomy")[0]
  assert "\n(A) " in row["question"]
  text = f"Answer: ({row['gold']})"
  assert harness.verdict(row["problem"], text) == (row["gold"], True)


def test_wrong_options_are_usage_errors(tmp_path, capsys):
  assert main.main(["data", "harness", "--config=cot"]) == errors.USAGE
  out = f"--out={tmp_path}"
  assert main.main(["data", "harness", "--config=cot", out, "--limit=-1"]) == errors.USAGE
  assert main.main(["data", "harness", "--config=cot", out, "--split=extra"]) == errors.USAGE
  assert main.main(["data", "harness", out]) != 0
  assert capsys.readouterr().err.count("\n") == 4 and not any(tmp_path.iterdir())
