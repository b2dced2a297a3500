"""All published layouts of a data set give the same problems; invalid rows are rejected."""

import json
import sys

import pytest

from distill_jax import errors, tasks
from distill_jax.tasks import answers

COUNT = 20
TEXTS = ("salt, not pepper", "a lamp", "water")  # an option with a comma


def _write(path, rows, lines=True):
  path.parent.mkdir(parents=True, exist_ok=True)
  text = "".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows)
  path.write_text(text, encoding="utf-8")


def _science(n, labels="ABC"):
  choices = [{"label": a, "text": b} for a, b in zip(labels, TEXTS, strict=True)]
  return {
    "id": f"{n}",
    "question": {"stem": f"What {n}?", "choices": choices},
    "answerKey": labels[1],
  }


def _science_hub(n, name="question", labels="ABC"):
  return {
    name: f"What {n}?",
    "choices": {"label": [*labels], "text": [*TEXTS]},
    "answerKey": labels[1],
  }


def _adapters(n, word="answer"):
  marks = " ".join(f"{word.title()}{k}: {text}" for k, text in enumerate(TEXTS, start=1))
  asked = f"Please choose the correct {word} to the question: What {n}?\n\n{marks}\n\n"
  form = "/".join(f"{word}{k}" for k in (1, 2, 3))
  return {"instruction": f"{asked}Answer format: {form}", "answer": f"{word}2"}


def _social(n):
  texts = dict(zip(("answerA", "answerB", "answerC"), TEXTS, strict=True))
  return {"context": "What", "question": f"{n}?", **texts}


def _rows(make, first, **more):
  return [{**make(n), **more} for n in range(first, first + COUNT)]


def _labelled(directory, make, train, test, label):
  for name, first in ((train, 0), (test, COUNT)):
    _write(directory / f"{name}.jsonl", _rows(make, first))
    (directory / f"{name}-labels.lst").write_text(f"{label}\n" * COUNT)


THREE = ("A", "B", "C")
MANY = {"label": [str(n) for n in range(27)], "text": ["x"] * 27}
CHOICE_LAYOUTS = {
  "csqa": [
    (_science, "train_rand_split.jsonl", "dev_rand_split.jsonl", {}),
    (_science_hub, "train.jsonl", "dev.jsonl", {}),
  ],
  "openbookqa": [
    (_science, "train.jsonl", "test.jsonl", {}),
    (_science, "train_complete.jsonl", "test_complete.jsonl", {"fact1": "known"}),
  ],
  "arc": [
    (lambda n: _science(n, "123"), "ARC-Easy-Train.jsonl", "ARC-Easy-Test.jsonl", {}),
    (_adapters, "train.json", "test.json", {}),
  ],
  "social_iqa": [
    (_social, "train.jsonl", "dev.jsonl", {"label": "2"}),
    (_social, "socialIQa_v1.4_trn.jsonl", "socialIQa_v1.4_dev.jsonl", {"correct": "B"}),
    (_adapters, "train.json", "test.json", {}),
  ],
  "piqa": [(lambda n: _adapters(n, "solution"), "train.json", "test.json", {})],
}


@pytest.mark.parametrize(
  ("name", "layout"),
  [(name, layout) for name, layouts in CHOICE_LAYOUTS.items() for layout in layouts],
)
def test_choices_are_the_same_in_every_layout(tmp_path, name, layout):
  make, train, test, more = layout
  _write(tmp_path / train, _rows(make, 0, **more))
  _write(tmp_path / test, _rows(make, COUNT, **more))
  task = tasks.get(name, path=str(tmp_path), validation=5)
  sizes = [len(task.problems(split)) for split in ("train", "validation", "test")]
  assert sizes == [COUNT - 5, 5, COUNT]
  for problem in task.problems("train") + task.problems("test"):
    assert problem.choices == tuple(zip(THREE, TEXTS, strict=True))
    assert (problem.gold, problem.kind) == ("B", "choice")
    assert task.parse_question(task.render(problem)).choices == problem.choices
    assert problem.facts == (("known",) if more.get("fact1") else ())
  assert task.problems("test")[0].question == f"What {COUNT}?"


def test_labels_in_a_separate_file_are_joined(tmp_path):
  _labelled(tmp_path / "siqa", _social, "train", "dev", 2)
  task = tasks.get("social_iqa", path=str(tmp_path / "siqa"))
  assert {problem.gold for problem in task.problems("train")} == {"B"}
  make = lambda n: {"goal": f"To {n}", "sol1": "x", "sol2": "y"}
  _labelled(tmp_path / "piqa", make, "train", "valid", 0)
  task = tasks.get("piqa", path=str(tmp_path / "piqa"))
  assert task.problems("test")[0].choices == (("A", "x"), ("B", "y"))
  assert {problem.gold for problem in task.problems("test")} == {"A"}
  (tmp_path / "piqa" / "valid-labels.lst").write_text("0\n1\n")
  with pytest.raises(errors.UserError, match="2 labels for the 20 rows"):
    tasks.get("piqa", path=str(tmp_path / "piqa"))


def test_an_official_validation_split_is_used_and_limited(tmp_path):
  for name, first in (("train", 0), ("dev", COUNT), ("test", 2 * COUNT)):
    _write(tmp_path / f"{name}.jsonl", _rows(_science, first))
  full = tasks.get("openbookqa", path=str(tmp_path))
  some = tasks.get("openbookqa", path=str(tmp_path), validation=7)
  assert len(full.problems("validation")) == len(full.problems("train")) == COUNT
  assert len(some.problems("validation")) == 7 and len(some.problems("train")) == COUNT
  kept = {problem.question for problem in some.problems("validation")}
  assert kept < {f"What {n}?" for n in range(COUNT, 2 * COUNT)}


@pytest.mark.parametrize("name", sorted({"csqa", "arc", "strategyqa", "gsm8k", "aqua", "math500"}))
def test_one_file_is_split_into_train_and_test_by_the_questions_alone(tmp_path, name):
  rows = [ROW[name](n) for n in range(100)]
  path = tmp_path / "one.jsonl"
  _write(path, rows)
  before = tasks.get(name, path=str(path), validation=10)
  _write(path, rows[::-1])
  after = tasks.get(name, path=str(path), validation=10)
  for split, count in (("train", 60), ("validation", 10), ("test", 30)):
    asked = [{problem.question for problem in t.problems(split)} for t in (before, after)]
    assert asked[0] == asked[1] and len(asked[0]) == count
    assert {problem.split for problem in before.problems(split)} == {split}


def _aqua(n):
  options = [f"{letter}){k * n}, {k}" for k, letter in enumerate("ABCDE")]
  return {
    "question": f"How {n}?",
    "options": options,
    "rationale": "Two.\nANSWER : C",
    "correct": "C",
  }


def _strategy(n):
  return {
    "question": f"Is {n} odd?", "answer": n % 2 == 1, "facts": [f"{n} is {n}."],
    "decomposition": [f"What is {n}?", "Is #1 odd?"],
  }  # fmt: skip


def _math(n):
  return {"problem": f"$x={n}\\pi$?", "solution": f"So $\\boxed{{{n}\\pi}}$.", "answer": f"{n}\\pi"}


ROW = {
  "csqa": _science,
  "arc": _adapters,
  "strategyqa": _strategy,
  "aqua": _aqua,
  "math500": _math,
  "gsm8k": lambda n: {"question": f"{n}?", "answer": f"Why? ** It is {n}.\n#### {n}"},
}


def test_aqua_options_lose_their_letters_and_the_closing_line_is_replaced(tmp_path):
  for name, first in (("train.json", 0), ("dev.json", 20), ("test.json", 40)):
    _write(tmp_path / name, _rows(_aqua, first))
  problem = tasks.get("aqua", path=str(tmp_path)).problems("test")[0]
  assert problem.choices[3] == ("D", "120, 3") and problem.gold == "C"
  assert problem.rationale == "Two.\nAnswer: C"


def test_strategyqa_has_facts_sub_questions_and_yes_or_no_answers(tmp_path):
  for name, first in (("train.json", 0), ("dev.json", 20)):
    _write(tmp_path / name, _rows(_strategy, first), lines=False)
  task = tasks.get("strategyqa", path=str(tmp_path))
  problem = task.problems("test")[1]
  assert (problem.gold, problem.facts) == ("yes", ("21 is 21.",))
  assert problem.decomposition == (("What is 21?", ""), ("Is #1 odd?", ""))
  assert problem.rationale == "21 is 21.\nAnswer: yes"
  assert task.is_correct(task.read_answer("So it is true.", problem), problem)


def test_socratic_files_are_preferred_if_they_exist(tmp_path):
  for split in ("train", "test"):
    plain = [{"question": f"{split} {n}?", "answer": f"It is {n}.\n#### {n}"} for n in range(5)]
    _write(tmp_path / f"{split}.jsonl", plain)
  _write(
    tmp_path / "test_socratic.jsonl",
    [{**row, "answer": f"Why? ** \nWhy? ** {row['answer']}"} for row in plain],
  )
  task = tasks.get("gsm8k", path=str(tmp_path))
  assert task.problems("train")[0].decomposition == ()
  assert task.problems("test")[3].decomposition == (("Why?", "It is 3."),)
  assert task.problems("test")[3].rationale == "It is 3.\nAnswer: 3"


NUMBERS = {
  "addsub": ("AddSub.json", lambda n: {"sQuestion": f"How many {n} ? ", "lSolutions": [f"{n}"]}),
  "singleeq": ("SingleEq.json", lambda n: {"sQuestion": f"{n} ?", "lSolutions": [float(n)]}),
  "multiarith": ("MultiArith.json", lambda n: {"sQuestion": f" {n} ?", "lSolutions": [n + 0.0]}),
  "svamp": ("SVAMP.json", lambda n: {"Body": f"{n}.", "Question": "How?", "Answer": n}),
}


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_the_simple_sets_are_one_file(tmp_path, name):
  file, make = NUMBERS[name]
  _write(tmp_path / file, _rows(make, 0), lines=False)
  task = tasks.get(name, path=str(tmp_path))
  assert (len(task.problems("train")), len(task.problems("test"))) == (14, 6)
  for problem in task.problems("train"):
    assert problem.gold in problem.question and "  " not in problem.question


def _asdiv(*answered):
  rows = [
    f'<Problem ID="{n}"><Body>He had {n} &amp; ate.</Body><Question>Left? </Question>'
    f"<Answer>{answer}</Answer></Problem>"
    for n, answer in enumerate(answered)
  ]
  return f'<?xml version="1.0" encoding="UTF-8" ?><C><ProblemSet>{"".join(rows)}</ProblemSet></C>'


def test_asdiv_keeps_answers_with_one_number_and_reports_how_many_have_not(tmp_path, capsys):
  stated = ["9 (apples)", "1,200", "2.5 (sq. ft)", "1/3", "Yes", "3:4", "5; 6", "3:30 p.m."]
  (tmp_path / "ASDiv.xml").write_text(_asdiv(*stated), encoding="utf-8")
  task = tasks.get("asdiv", path=str(tmp_path))
  problems = sorted(task.problems("train") + task.problems("test"), key=lambda p: p.id)
  assert [p.gold for p in problems] == ["9", "1200", "2.5", "1/3"]
  assert problems[0].question == "He had 0 & ate. Left?"
  assert "4 of 8" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("text", "says"),
  [
    ('<!DOCTYPE a [<!ENTITY x "y">]><a><Problem><Body>&x;</Body></Problem></a>', "document type"),
    ("<a><Problem></a>", "not XML"),
    ("<a>&x;</a>", "not XML"),
    ("<a/>", "no element"),
    ("<a><Problem><Body>b</Body></Problem></a>", "no field 'Question'"),
  ],
)
def test_broken_xml_and_xml_with_declarations_is_rejected(tmp_path, text, says):
  (tmp_path / "ASDiv.xml").write_text(text, encoding="utf-8")
  with pytest.raises(errors.UserError, match=says) as error:
    tasks.get("asdiv", path=str(tmp_path))
  assert "ASDiv.xml" in str(error.value) and "\n" not in str(error.value)


HUB = {
  "csqa": ("tau/commonsense_qa", None, {"train": "train", "test": "validation"}, _science_hub),
  "openbookqa": (
    "allenai/openbookqa", "main", {s: s for s in ("train", "validation", "test")},
    lambda n: _science_hub(n, "question_stem"),
  ),
  "arc": (
    "allenai/ai2_arc", "ARC-Challenge", {s: s for s in ("train", "validation", "test")},
    lambda n: _science_hub(n, labels="123"),
  ),
  "piqa": (
    "ybisk/piqa", None, {"train": "train", "test": "validation"},
    lambda n: {"goal": f"What {n}?", "sol1": "x", "sol2": "y", "label": 1},
  ),
  "social_iqa": (
    "allenai/social_i_qa", None, {"train": "train", "test": "validation"},
    lambda n: {**_social(n), "label": "2"},
  ),
  "strategyqa": (
    "ChilleD/StrategyQA", None, {"train": "train", "test": "test"},
    lambda n: {**_strategy(n), "facts": "One fact. Another."},
  ),
  "aqua": ("deepmind/aqua_rat", "raw", {s: s for s in ("train", "validation", "test")}, _aqua),
  "math500": ("HuggingFaceH4/MATH-500", None, {"train": "test", "test": "test"}, _math),
  "asdiv": (
    "EleutherAI/asdiv", None, {"train": "validation", "test": "validation"},
    lambda n: {"body": f"{n}.", "question": "How?", "answer": f"{n} (apples)"},
  ),
  "multiarith": (
    "ChilleD/MultiArith", None, {"train": "train", "test": "test"},
    lambda n: {"question": f"How {n}?", "final_ans": f"{n}"},
  ),
  "svamp": (
    "ChilleD/SVAMP", None, {"train": "train", "test": "test"},
    lambda n: {"Body": f"{n}.", "Question": "How?", "Answer": f"{n}.0"},
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(HUB))
def test_the_layouts_of_the_hub_are_read(monkeypatch, name):
  hub, config, splits, make = HUB[name]
  asked = []

  class Datasets:
    @staticmethod
    def load_dataset(path, name, split):
      asked.append((path, name, split))
      first = 1 + 100 * ["train", "validation", "test"].index(split)
      return _rows(make, first)

  monkeypatch.setitem(sys.modules, "datasets", Datasets)
  task = tasks.get(name, hub=hub, validation=4)
  assert set(asked) == {(hub, config, split) for split in splits.values()}
  for split in ("train", "validation", "test"):
    assert task.problems(split)
    for problem in task.problems(split):
      text = problem.rationale or f"I think.\nAnswer: {problem.gold}"
      assert task.is_correct(task.read_answer(text, problem), problem)
  tasks.get(name, hub=f"{hub}:other", validation=4)
  assert {name for _, name, _ in asked} == {config, "other"}


@pytest.mark.parametrize(
  ("name", "row", "says"),
  [
    ("csqa", _science(1) | {"answerKey": ""}, "official test files"),
    ("csqa", _science(1) | {"answerKey": "E"}, "'answerKey' is 'E'"),
    ("csqa", {"question": {"stem": "x", "choices": [7]}, "answerKey": "A"}, "a choice is int"),
    ("csqa", {"question": "x", "choices": {"label": ["A"], "text": []}}, "1 labels for 0"),
    ("csqa", _science_hub(1) | {"choices": MANY, "answerKey": "0"}, "27 choices"),
    ("piqa", {"goal": "g", "sol1": "a", "sol2": "b", "label": -1}, "'label' is '-1'"),
    ("piqa", {"goal": "g", "sol1": "a", "sol2": "b"}, "no field 'label'"),
    ("social_iqa", _social(1), "no field 'label'"),
    ("arc", {"instruction": "What? Answer1: a Answer3: b", "answer": "1"}, "must mark its choices"),
    ("aqua", _aqua(1) | {"options": ["21", "B)2"]}, "must begin with its letter"),
    ("strategyqa", {"question": "q", "answer": "yes"}, "true or false"),
    ("strategyqa", {"question": "q", "answer": True, "facts": [3]}, "list of texts"),
    ("math500", {"problem": "p", "solution": "s", "answer": " "}, "'answer' is empty"),
  ],
)  # fmt: skip
def test_an_invalid_row_is_reported_with_file_and_row(tmp_path, name, row, says):
  _write(tmp_path / "one.jsonl", [ROW[name](3), row] if name in ROW else [row])
  with pytest.raises(errors.UserError, match=r"one\.jsonl: row") as error:
    tasks.get(name, path=str(tmp_path / "one.jsonl"))
  assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", sorted(set(tasks.LOADERS) - {"arithmetic", "taxonomy"}))
def test_a_missing_directory_is_reported_with_the_expected_files(tmp_path, name):
  for path in (tmp_path, tmp_path / "none"):
    with pytest.raises(errors.UserError, match=r"expected .*json|expected .*xml") as error:
      tasks.get(name, path=str(path))
    assert "\n" not in str(error.value)


def test_a_typed_question_is_parsed_like_a_rendered_problem():
  task = tasks.Task("x", lambda split: [], kind="choice")
  problem = task.parse_question("Which (of these)?\n(A) one\n(B) two\n")
  assert problem.question == "Which (of these)?"
  assert problem.choices == (("A", "one"), ("B", "two"))
  assert task.read_answer("So the answer is (b) two.", problem) == "B"
  assert answers.read_choice("It is (b).", ()) is None
