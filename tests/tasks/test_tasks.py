"""Tasks: loading by name, splits, limits and errors."""

import fractions
import json
import operator
import re

import pytest

from distill_jax import errors, tasks
from distill_jax.tasks import answers

WORLD = {
  "seed": 0,
  "train": 30,
  "validation": 10,
  "test": 10,
  "out_of_domain": 10,
  "steps_min": 1,
  "steps_max": 2,
  "operand_max": 12,
  "families": 0,
  "distractors": 0.2,
  "ood_extra_steps": 1,
}
EQUATION = r"([0-9]+) ([-+*/]) ([0-9]+) = ([0-9]+)"
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": fractions.Fraction}


def _gsm8k(directory, count: int = 40):
  for split in ("train", "test"):
    rows = [
      {
        "question": f"{split} {n}?",
        "answer": f"It is {n}+1,000 = <<{n}+1000={n + 1000}>>{n + 1000:,}.\n#### {n + 1000:,}",
      }
      for n in range(count)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (directory / f"{split}.jsonl").write_text(text, encoding="utf-8")
  return str(directory)


def _svamp_rows(count: int) -> list[dict]:
  return [
    {"Body": f"He had {n} ", "Question": "How many?", "Answer": n + 0.0} for n in range(count)
  ]


def _questions(task, split) -> list[str]:
  return [problem.question for problem in task.problems(split)]


def test_arithmetic_is_a_task_with_all_splits_and_its_world():
  task = tasks.get("arithmetic", **WORLD)
  assert [len(task.problems(s)) for s in ("train", "validation", "test", "out_of_domain")] == [
    30,
    10,
    10,
    10,
  ]
  problem = task.problems("train")[0]
  assert task.render(problem) == problem.question
  assert task.world.find(problem.question) == problem


def test_the_gold_rationale_of_every_task_is_read_as_its_gold(tmp_path):
  for task in (
    tasks.get("arithmetic", **WORLD),
    tasks.get("gsm8k", path=_gsm8k(tmp_path), validation=5),
  ):
    for split in ("train", "validation", "test"):
      for problem in task.problems(split):
        assert task.is_correct(task.read_answer(problem.rationale, problem), problem)


def test_every_shot_is_right(tmp_path):
  for task in (tasks.get("arithmetic", **WORLD), tasks.get("gsm8k", path=_gsm8k(tmp_path))):
    assert len(task.shots) == 3
    for question, rationale in task.shots:
      *steps, last = rationale.split("\n")
      assert question.endswith("?") and last == "Answer: " + answers.read_number(steps[-1])
      for left, sign, right, result in re.findall(EQUATION, rationale):
        assert fractions.Fraction(result) == SIGNS[sign](int(left), int(right))


def test_gsm8k_gold_loses_calculator_marks_and_gains_an_answer_line(tmp_path):
  problem = tasks.get("gsm8k", path=_gsm8k(tmp_path)).problems("train")[2]
  assert problem.rationale == "It is 2+1,000 = 1,002.\nAnswer: 1002"
  assert problem.gold == "1002"


def test_socratic_gsm8k_has_sub_questions(tmp_path):
  row = {"question": "q", "answer": "Why? ** 1+1 = <<1+1=2>>2\nSo? ** 2*2 = 4\n#### 4"}
  for split in ("train", "test"):
    (tmp_path / f"{split}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
  problem = tasks.get("gsm8k", path=str(tmp_path)).problems("test")[0]
  assert problem.decomposition == (("Why?", "1+1 = 2"), ("So?", "2*2 = 4"))
  assert problem.rationale == "1+1 = 2\n2*2 = 4\nAnswer: 4"


def test_validation_is_held_out_from_train_whatever_the_order_of_the_file(tmp_path):
  path = _gsm8k(tmp_path)
  before = tasks.get("gsm8k", path=path, validation=10, train=12, test=7)
  file = tmp_path / "train.jsonl"
  lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
  file.write_text("".join(reversed(lines)), encoding="utf-8")
  after = tasks.get("gsm8k", path=path, validation=10, train=12, test=7)
  for split, count in (("train", 12), ("validation", 10), ("test", 7)):
    assert len(_questions(before, split)) == count
    assert set(_questions(before, split)) == set(_questions(after, split))
  assert not set(_questions(before, "train")) & set(_questions(before, "validation"))
  assert {p.split for p in before.problems("validation")} == {"validation"}


def test_copies_of_a_question_stay_in_one_split(tmp_path):
  path = _gsm8k(tmp_path)
  file = tmp_path / "train.jsonl"
  file.write_text(file.read_text(encoding="utf-8") * 2, encoding="utf-8")
  task = tasks.get("gsm8k", path=path, validation=11)
  assert not set(_questions(task, "train")) & set(_questions(task, "validation"))
  assert len(task.problems("validation")) == 12


def test_a_larger_limit_keeps_what_a_smaller_one_keeps(tmp_path):
  path = _gsm8k(tmp_path)
  few, many = (set(_questions(tasks.get("gsm8k", path=path, train=n), "train")) for n in (5, 20))
  assert few < many and len(few) == 5


def test_svamp_takes_a_directory_or_the_one_published_file(tmp_path):
  rows = _svamp_rows(100)
  (tmp_path / "train.json").write_text(json.dumps(rows[:70]), encoding="utf-8")
  (tmp_path / "test_first.json").write_text(json.dumps(rows[70:85]), encoding="utf-8")
  (tmp_path / "test_second.json").write_text(json.dumps(rows[85:]), encoding="utf-8")
  task = tasks.get("svamp", path=str(tmp_path))
  assert (len(task.problems("train")), len(task.problems("test"))) == (70, 30)
  assert task.problems("train")[3].question == "He had 3 How many?"
  assert task.problems("train")[3].gold == "3"
  assert task.problems("out_of_domain") == []
  (tmp_path / "SVAMP.json").write_text(json.dumps(rows), encoding="utf-8")
  for path in (tmp_path, tmp_path / "SVAMP.json"):
    task = tasks.get("svamp", path=str(path))
    assert (len(task.problems("train")), len(task.problems("test"))) == (70, 30)
    assert not set(_questions(task, "train")) & set(_questions(task, "test"))


def test_the_hub_gives_the_same_problems_as_the_files(tmp_path, monkeypatch):
  from_files = tasks.get("gsm8k", path=_gsm8k(tmp_path), validation=3)

  def hub(name, config, split):
    assert (name, config) == ("openai/gsm8k", "main")
    text = (tmp_path / f"{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]

  monkeypatch.setattr("distill_jax.data.sources.load_hub", hub)
  from_hub = tasks.get("gsm8k", hub="openai/gsm8k", validation=3)
  for split in ("train", "validation", "test"):
    assert from_hub.problems(split) == from_files.problems(split)


@pytest.mark.parametrize(
  ("name", "options", "says"),
  [
    ("sums", {}, "addsub, aqua, arc, arithmetic"),
    ("svamp", {"paht": "x"}, "config.task.paht"),
    ("gsm8k", {}, "--config.task.path"),
    ("svamp", {"path": "x", "hub": "y"}, "either"),
    ("svamp", {"path": "/nowhere/at/all"}, "SVAMP.json"),
    ("gsm8k", {"path": "/nowhere/at/all"}, "train.jsonl"),
    ("arithmetic", {"seed": 1}, "needs train"),
    ("arithmetic", {**WORLD, "steps_max": 6}, "config.world.steps_max"),
    ("arithmetic", {**WORLD, "operand_max": 3}, "config.world.operand_max"),
    ("arithmetic", {**WORLD, "distractors": 2.0}, "config.world.distractors"),
    ("arithmetic", {**WORLD, "families": 99}, "config.world.families"),
    ("arithmetic", {**WORLD, "train": -1}, "config.world.train"),
  ],
)
def test_invalid_options_are_rejected_in_one_line(name, options, says):
  with pytest.raises(errors.UserError) as error:
    tasks.get(name, **options)
  assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("row", "says"),
  [
    ({"question": "q"}, "no field 'answer'"),
    ({"question": 3, "answer": "#### 1"}, "field 'question' is int"),
    ({"question": "q", "answer": "no mark 5"}, "#### NUMBER"),
    ({"question": "q", "answer": "#### none"}, "#### NUMBER"),
  ],
)
def test_an_invalid_row_is_reported_with_file_row_and_field(tmp_path, row, says):
  path = _gsm8k(tmp_path, count=3)
  with (tmp_path / "train.jsonl").open("a", encoding="utf-8") as file:
    file.write(json.dumps(row) + "\n")
  with pytest.raises(errors.UserError, match=r"train\.jsonl: row 4") as error:
    tasks.get("gsm8k", path=path)
  assert says in str(error.value)


def test_an_unknown_split_and_too_large_a_validation_split_are_rejected(tmp_path):
  path = _gsm8k(tmp_path)
  with pytest.raises(errors.UserError, match="no split 'dev'"):
    tasks.get("gsm8k", path=path).problems("dev")
  with pytest.raises(errors.UserError, match="fewer than the 40"):
    tasks.get("gsm8k", path=path, validation=40)
