"""The published files, if they are available: all rows load, and answers are read as written."""

import pathlib

import pytest

from distill_jax import tasks

PUBLISHED = pathlib.Path(__file__).parents[3] / "shared" / "data"
SETS = (  # task, file or directory, and the questions in train + validation, test
  ("gsm8k", "gsm8k", 7473, 1319),
  ("gsm8k", "gsm8k/test_socratic.jsonl", 923, 396),
  ("svamp", "svamp", 700, 150),
  ("asdiv", "asdiv", 1464, 628),
  ("addsub", "addsub", 277, 118),
  ("singleeq", "singleeq", 356, 152),
  ("aqua", "aqua/dev.json", 178, 76),
  ("aqua", "aqua/test.json", 178, 76),
  ("math500", "math500", 350, 150),
  ("csqa", "csqa", 9741, 1221),
  ("openbookqa", "obqa", 5007, 500),
  ("strategyqa", "strategyqa", 2061, 229),
  ("arc", "arc/ARC-Challenge_train.json", 783, 336),
  ("social_iqa", "social_iqa/test.json", 1368, 586),
)
AVAILABLE = [row for row in SETS if (PUBLISHED / row[1]).exists()]
CLOSINGS = {
  "number": ("Answer: {}", "#### {}", "So the answer is {}.", "\\boxed{{{}}}"),
  "choice": ("Answer: {}", "So the answer is ({}) this.", "The answer is {}."),
  "boolean": ("Answer: {}", "So the answer is {}.", "{}"),
  "expression": ("Answer: {}", "So it is $\\boxed{{{}}}$.", "The answer is ${}$."),
}


@pytest.mark.parametrize(("name", "path", "training", "testing"), AVAILABLE)
def test_every_gold_answer_and_every_gold_rationale_is_read_as_gold(name, path, training, testing):
  task = tasks.get(name, path=str(PUBLISHED / path), validation=50)
  sizes = {split: len(task.problems(split)) for split in ("train", "validation", "test")}
  assert (sizes["train"] + sizes["validation"], sizes["test"]) == (training, testing)
  assert sizes["validation"] == 50
  for split in sizes:
    for problem in task.problems(split):
      texts = [f"I think.\n{closing.format(problem.gold)}" for closing in CLOSINGS[task.kind]]
      for text in filter(None, [*texts, problem.rationale]):
        assert task.is_correct(task.read_answer(text, problem), problem)
      assert problem.kind == task.kind and problem.question and problem.gold
      if task.kind == "choice":
        assert task.parse_question(task.render(problem)).choices == problem.choices


@pytest.mark.skipif(
  not (PUBLISHED / "math500").is_dir(), reason="the published file is not available"
)
def test_the_end_of_a_math_solution_is_read_as_its_answer():
  task = tasks.get("math500", path=str(PUBLISHED / "math500"))
  missed = []
  for problem in task.problems("train") + task.problems("test"):
    solution = problem.rationale.rpartition("\nAnswer: ")[0]
    if not task.is_correct(task.read_answer(solution, problem), problem):
      missed.append(solution)
  assert len(missed) == 1 and missed[0].endswith("so our answer is correct.")


@pytest.mark.skipif(
  not (PUBLISHED / "gsm8k").is_dir(), reason="the published file is not available"
)
def test_socratic_solutions_are_the_plain_ones_with_sub_questions():
  task = tasks.get("gsm8k", path=str(PUBLISHED / "gsm8k"))
  socratic = tasks.get("gsm8k", path=str(PUBLISHED / "gsm8k" / "test_socratic.jsonl"))
  plain = tasks.get("gsm8k", path=str(PUBLISHED / "gsm8k" / "test.jsonl"))
  for split in ("train", "test"):
    for one, other in zip(socratic.problems(split), plain.problems(split), strict=True):
      assert (one.question, one.rationale) == (other.question, other.rationale)
      assert one.decomposition and not other.decomposition
  assert all(problem.decomposition for problem in task.problems("test"))
