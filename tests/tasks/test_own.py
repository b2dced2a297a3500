"""A task from your own file."""

import json
import sys

import pytest

from distill_jax import errors, records
from distill_jax.cli import main
from distill_jax.data import sources
from distill_jax.tasks import golds, own, texts

LIMITS = {"validation": 200, "train": 0, "test": 0}


def _lines(rows) -> str:
  return "".join(json.dumps(row) + "\n" for row in rows)


def _understand(path, rows=None, kind="auto", column=None, **limits) -> own.OwnData:
  if rows is not None:
    path = path / "own.jsonl"
    path.write_text(_lines(rows), encoding="utf-8")
  return own.understand(
    path=str(path), hub="", kind=kind, column=column or {}, limits={**LIMITS, **limits}
  )


def _all(data: own.OwnData) -> list[records.Problem]:
  return [problem for problems in data.splits.values() for problem in problems]


def _questions(count: int, **answer) -> list[dict]:
  return [{"question": f"What is {n} and {n}?", "answer": 2 * n} | answer for n in range(count)]


def test_fifty_questions_are_split_at_default_sizes(tmp_path):
  data = _understand(tmp_path, _questions(50))
  sizes = {name: len(problems) for name, problems in data.splits.items()}
  assert sizes == {"train": 28, "validation": 7, "test": 15}
  assert any("task.validation is 7 instead of 200" in note for note in data.notes)
  again = _understand(tmp_path, _questions(50)[::-1])
  assert {p.question for p in again.splits["test"]} == {p.question for p in data.splits["test"]}


@pytest.mark.parametrize(
  ("rows", "kind", "gold"),
  [
    ([{"q": f"{n}?", "a": f"{n} pens"} for n in range(9)], "number", "0"),
    ([{"prompt": f"{n}?", "label": n / 2} for n in range(9)], "number", "0"),
    ([{"problem": f"{n}?", "answer": f"We add.\n#### {n}"} for n in range(9)], "number", "0"),
    ([{"question": f"{n}?", "output": n % 2 == 0} for n in range(9)], "boolean", "yes"),
    ([{"Question": f"{n}?", "Answer": "No."} for n in range(9)], "boolean", "no"),
    ([{"question": f"{n}?", "options": ["x", "y"], "answer": 0} for n in range(9)], "choice", "A"),
    ([{"question": f"{n}?", "A": "x", "B": "y", "answer": "y"} for n in range(9)], "choice", "B"),
    ([{"question": f"{n}?", "choices": "['x', 'y']", "answer": "y"} for n in range(9)], "choice",
     "B"),
    ([{"question": f"{n}?", "Option 1": "x", "Option 2": "y", "Correct Option": 1 + n % 2}
      for n in range(9)], "choice", "A"),
    ([{"question": f"{n}?", "answer": "NY"[n % 2]} for n in range(9)], "boolean", "no"),
    ([{"question": f"{n}?", "answer": n % 2} for n in range(9)], "number", "0"),
    ([{"question": f"{n}?", "answer": "2\\pi"} for n in range(9)], "expression", "2\\pi"),
    ([{"question": f"{n}?", "answer": {"final": n}} for n in range(9)], "number", "0"),
    ([{"prompt": [{"role": "user", "content": [{"type": "text", "text": f"{n}?"}]}],
       "completion": [{"role": "assistant", "content": f"{n}"}]} for n in range(9)], "number", "0"),
    ([{"question": f"{n}?", "choices": {"label": ["1", "2"], "text": ["x", "y"]}, "answerKey": "2"}
      for n in range(9)], "choice", "B"),
    ([{"problem": f"{n}?", "answer": f"\\frac{{x}}{{{n}}}"} for n in range(9)], "expression",
     "\\frac{x}{0}"),
    ([{"problem": f"{n}?", "solution": f"So $\\boxed{{x+{n}}}$."} for n in range(9)], "expression",
     "x+0"),
    ([{"input": f"{n}?", "target": "Rome"} for n in range(9)], "text", "Rome"),
    ([{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": f"{n}?"},
                    {"role": "assistant", "content": f"So.\nThe answer is {n}."}]}
      for n in range(9)], "number", "0"),
  ],
)  # fmt: skip
def test_columns_and_the_kind_of_the_answers_are_guessed(tmp_path, rows, kind, gold):
  data = _understand(tmp_path, rows)
  first = next(p for p in _all(data) if p.question == "0?")
  assert (data.kind, data.is_guessed, first.gold, first.kind) == (kind, True, gold, kind)
  assert not data.left_out


@pytest.mark.parametrize(
  ("answers", "golds", "noted"),
  [
    ([0, 1], "AB", True),  # PIQA: sol1, sol2 and a label of 0 or 1
    (["1", "0"], "BA", True),
    ([1, 2], "AB", False),
  ],
)
def test_numbers_are_labels_of_options_or_their_positions(tmp_path, answers, golds, noted):
  rows = [
    dict(goal=f"{n}?", sol1=f"x{n}", sol2=f"y{n}", label=answers[n % len(answers)])
    for n in range(12)
  ]
  data = _understand(tmp_path, rows, kind="choice")
  found = {p.question: p.gold for p in _all(data)}
  expected = dict(zip(answers, golds, strict=True))
  assert found == {row["goal"]: expected[row["label"]] for row in rows}
  assert any("counted from 0" in note for note in data.notes) is noted


@pytest.mark.parametrize(
  "written",
  [
    "['a cat, small' 'a dog' 'a fish']",
    "array(['a cat, small', 'a dog', 'a fish'], dtype=object)",
    "{'label': array(['A', 'B', 'C'], dtype=object), 'text': array(['a cat, small', 'a dog', 'a"
    " fish'], dtype=object)}",
    "a) a cat, small b) a dog c) a fish",
    "A. a cat, small, B. a dog, C. a fish",
    {"text": ["a cat, small", "a dog", "a fish"]},
  ],
)
def test_options_in_one_cell_are_taken_apart(tmp_path, written):
  rows = [{"question": f"{n}?", "choices": written, "answer": "B"} for n in range(8)]
  problem = _all(_understand(tmp_path, rows))[0]
  assert problem.choices == (("A", "a cat, small"), ("B", "a dog"), ("C", "a fish"))


@pytest.mark.parametrize(
  ("written", "options"),
  [
    ("a ) 1,200 , b ) 1,300 , c ) 1,400", ("1,200", "1,300", "1,400")),  # MathQA
    ("1,200, 1,300, 1,400", ("1,200", "1,300", "1,400")),
    ("1,2,3", ("1", "2", "3")),
    ("x,y,z", ("x", "y", "z")),
  ],
)
def test_options_are_not_split_within_a_number(tmp_path, written, options):
  rows = [{"question": f"{n}?", "options": written, "answer": "b"} for n in range(8)]
  problem = _all(_understand(tmp_path, rows))[0]
  assert problem.gold == "B" and problem.choices == tuple(zip("ABC", options, strict=True))


def test_options_that_cannot_be_read_are_not_split_at_their_commas(tmp_path):
  rows = [{"question": f"{n}?", "choices": ["a", "b"], "answer": "A"} for n in range(9)]
  rows[0]["choices"] = "['a', oops, 'b']"
  data = _understand(tmp_path, rows)
  assert len(_all(data)) == 8 and data.left_out == {"the answer is not a choice": 1}


def test_questions_that_differ_in_their_options_are_no_copies(tmp_path):
  rows = [
    {"question": "Which is a mammal?", "options": [f"cat {n}", f"fish {n}"], "answer": "A"}
    for n in range(10)
  ]
  assert len(_all(_understand(tmp_path, [*rows, rows[0]]))) == 10


def test_a_subset_that_names_subjects_is_no_split(tmp_path):
  rows = [{**row, "subset": "algebra"} for row in _questions(10)]
  assert _understand(tmp_path, rows).split_by == "hash of the question"
  rows = [{**row, "subset": "train"} for row in _questions(10)]
  assert _understand(tmp_path, rows).split_by == "column subset"


def test_options_that_are_counted_from_one_are_recognized(tmp_path):
  rows = [{"question": f"{n}?", "choices": ["x", "y"], "label": 1 + n % 2} for n in range(8)]
  assert {p.question: p.gold for p in _all(_understand(tmp_path, rows))} == {
    f"{n}?": "AB"[n % 2] for n in range(8)
  }


@pytest.mark.parametrize(
  ("options", "answers", "golds"),
  [
    (("8", "2", "24", "120"), (2, 0), "CA"),
    (("8", "2", "24", "120"), ("3", "2"), "DC"),
    (("3", "4", "5"), (3, 4, 5), "ABC"),
    (("1", "2", "0"), (0, 1, 2), "CAB"),
  ],
)
def test_whether_numbers_are_positions_or_texts_is_decided_by_all_rows(
  tmp_path, options, answers, golds
):
  rows = [
    {"question": f"{n}?", "choices": list(options), "answer": answers[n % len(answers)]}
    for n in range(12)
  ]
  found = {p.question: p.gold for p in _all(_understand(tmp_path, rows, kind="choice"))}
  assert found == {f"{n}?": golds[n % len(golds)] for n in range(12)}


@pytest.mark.parametrize(
  ("options", "gold"), [(("-5", "5"), "A"), (("6", "-5."), "B"), (("-5", "6", "-5"), None)]
)
def test_an_answer_that_is_the_text_of_two_options_is_no_gold(options, gold):
  found = golds.gold("choice", golds.Raw("-5", tuple(zip("ABC", options, strict=False))))
  assert (found.answer if found else None) == gold


def test_a_rationale_in_its_own_column_or_before_the_answer_is_kept(tmp_path):
  rows = [{"problem": f"{n}?", "solution": f"By rule {n}.", "answer": n} for n in range(5)]
  assert all(p.rationale.endswith(f"Answer: {p.gold}") for p in _all(_understand(tmp_path, rows)))
  rows = [{"question": f"{n}?", "answer": f"One <<1+1=2>>2.\n\n#### {n}"} for n in range(5)]
  problem = _all(_understand(tmp_path, rows))[0]
  assert problem.rationale == f"One 2.\nAnswer: {problem.gold}"


def test_a_draft_in_a_rationale_is_no_part_of_it(tmp_path):
  written = "<think>\nIs it 9?\n</think>\n\n3 + 4 = 7"
  rows = [{"question": f"{n}?", "rationale": written, "answer": 7} for n in range(8)]
  assert _all(_understand(tmp_path, rows))[0].rationale == "3 + 4 = 7\nAnswer: 7"
  assert golds.ending("<think>9?</think>", "7") == ""


def test_an_instruction_or_a_context_stands_before_the_question(tmp_path):
  rows = [
    {"instruction": "Add.", "input": f"{n} and 1" if n else "", "output": n} for n in range(5)
  ]
  questions = {p.question for p in _all(_understand(tmp_path, rows))}
  assert {"Add.", "Add.\n3 and 1"} <= questions


@pytest.mark.parametrize(
  ("written", "gold"),
  [
    *((f"12{unit}", "12") for unit in (" m²", " m^2", " cm3", " km/h", "%", " m/s^2", "°C", " €")),
    *((f"{sign}12.50", "12.5") for sign in ("$", "€ ", "USD ", "Rs. ", "about ", "≈", "x = ")),
    *((text, None) for text in ("2x^2", "12 m 30 cm", "12 of 20", "3x2", "room 12", "12-14")),
  ],
)
def test_a_number_has_a_unit_or_a_currency_and_no_second_number(written, gold):
  found = golds.gold("number", golds.Raw(written))
  assert (found.answer if found else None) == gold


def test_a_question_may_be_a_list_of_lines_or_of_messages(tmp_path):
  rows = [{"prompt": [{"role": "user", "content": f"{n}?"}], "answer": n} for n in range(5)]
  assert {p.question for p in _all(_understand(tmp_path, rows))} == {f"{n}?" for n in range(5)}
  rows = [{"question": ["Add.", f"{n}?"], "answer": n} for n in range(5)]
  assert "Add.\n3?" in {p.question for p in _all(_understand(tmp_path, rows))}


def test_settings_override_the_guesses(tmp_path):
  rows = [{"id": 1, "a": f"{n}?", "b": "yes", "question": "?", "answer": n} for n in range(5)]
  column = {"question": "a", "answer": "b", "id": "none"}
  data = _understand(tmp_path, rows, kind="text", column=column)
  assert {(p.kind, p.gold) for p in _all(data)} == {("text", "yes")} and not data.is_guessed
  with pytest.raises(errors.UserError, match=r"task\.columns\.answer is 'gold'.*: id, a, b, quest"):
    _understand(tmp_path, rows, column={"answer": "gold"})


@pytest.mark.parametrize(
  ("rows", "says"),
  [
    (
      [{"quest": "a", "answer": 1}] * 4,
      "no column that looks like the question (its columns are q",
    ),
    ([{"question": "a", "reply": 1}] * 4, "set --config.task.columns.answer=COLUMN"),
    ([{"question": "a", "answer": None}] * 4, "no answer in any row"),
    ([{"id": 7, "question": f"{n}?", "answer": n} for n in range(4)], "id 7 is also that of"),
    ([{"question": "a", "answer": {"x": {"y": 1}}}] * 4, "no usable question"),
    ([{"question": "a", "answer": 1}], "at least 3 are needed"),
    ([7], "not a JSON object"),
    ([{"question": "a", "answer": float("nan")}] * 4, "no answer in any row"),
    ([{f"column {n}": n for n in range(99)}] * 4, "column 19 and 79 more"),
  ],
)
def test_data_that_cannot_be_used_are_rejected_in_one_line(tmp_path, rows, says):
  with pytest.raises(errors.UserError) as error:
    _understand(tmp_path, rows)
  assert says in str(error.value) and "\n" not in str(error.value)


def test_what_is_left_out_is_counted_with_its_first_row(tmp_path):
  rows = [*_questions(30), {"question": "odd?", "answer": "7 or 8"}, {"question": "", "answer": 1}]
  data = _understand(tmp_path, [*rows, rows[0]])
  assert data.left_out == {
    "the answer is not one number": 1, "no question": 1, "a copy of an earlier row": 1,
  }  # fmt: skip
  assert any("own.jsonl:31: '7 or 8'" in note for note in data.notes)


def test_splits_come_from_files_or_from_a_column(tmp_path):
  folder = tmp_path / "set"
  folder.mkdir()
  for name, count in (("train.jsonl", 6), ("dev.json", 2), ("sub_test.csv", 3)):
    rows = [{"question": f"{name} {n}?", "answer": n} for n in range(count)]
    text = "question,answer\n" + "".join(f"{r['question']},{r['answer']}\n" for r in rows)
    (folder / name).write_text(text if name.endswith("csv") else _lines(rows))
  (folder / "README.md").write_text("no data")
  data = _understand(folder)
  assert {k: len(v) for k, v in data.splits.items()} == {"train": 6, "validation": 2, "test": 3}
  names = ["train"] * 5 + ["val", "test", "other"]
  rows = [{"question": f"{n}?", "answer": n, "split": name} for n, name in enumerate(names)]
  data = _understand(tmp_path, rows)
  assert {k: len(v) for k, v in data.splits.items()} == {"train": 5, "validation": 1, "test": 1}
  assert data.split_by == "column split" and data.left_out["column split names no split"] == 1


def test_a_split_with_other_columns_is_rejected_and_a_stray_file_is_left_out(tmp_path):
  (tmp_path / "train.jsonl").write_text(_lines(_questions(6)))
  (tmp_path / "stray.json").write_text('{"version": 1}')
  assert _understand(tmp_path).left_out == {"no question": 1}
  (tmp_path / "test.jsonl").write_text(_lines([{"prompt": "9?", "target": 9}] * 2))
  with pytest.raises(errors.UserError, match=r"test\.jsonl:1: no column 'question'.* same names"):
    _understand(tmp_path)


def test_questions_of_both_train_and_test_are_named_and_left_out_of_train(tmp_path):
  rows = [{"question": f"{n}?", "answer": n, "split": "train"} for n in range(6)]
  rows += [{"question": " 3 ?", "answer": 3, "split": "test"}]
  data = _understand(tmp_path, rows)
  assert len(data.splits["train"]) + len(data.splits["validation"]) == 5
  assert any("1 training questions are also in test" in note for note in data.notes)


@pytest.mark.parametrize("train", [5, 30, 56])
def test_a_limit_of_train_counts_the_questions_that_are_trained_on(tmp_path, train):
  """Validation is held out before, from all of the training questions: a fifth of 70."""
  data = _understand(tmp_path, _questions(100), train=train)
  sizes = {name: len(problems) for name, problems in data.splits.items()}
  assert sizes == {"train": train, "validation": 14, "test": 30}


def test_limits_above_what_there_is_are_clipped_with_a_word(tmp_path):
  data = _understand(tmp_path, _questions(10), train=99, test=2)
  assert len(data.splits["test"]) == 2 and "task.train is 6 instead of 99" in " ".join(data.notes)


def test_a_data_set_of_the_hub_keeps_its_splits(monkeypatch):
  rows = {"train": _questions(6), "test": _questions(9)[6:]}
  monkeypatch.setattr(sources, "load_hub_splits", lambda name, config: rows)
  data = own.understand(path="", hub="o/n:main", kind="auto", column={}, limits=LIMITS)
  assert len(data.splits["test"]) == 3 and data.source == "o/n:main"


def test_a_text_is_right_if_it_is_one_of_the_accepted_ones(tmp_path):
  path = tmp_path / "own.jsonl"
  path.write_text(_lines({"question": f"{n}?", "answer": ["The USA", "America"]} for n in range(5)))
  task = own.load(path=str(path), validation=1)
  problem = task.problems("train")[0]
  for text, is_right in (
    ("It is large.\nAnswer: the U.S.A", False), ("Answer: USA.", True), ("america", True),
    ("The answer is **America**.", True), ("Answer: Canada", False),
  ):  # fmt: skip
    assert task.is_correct(task.read_answer(text, problem), problem) is is_right
  assert task.read_answer("It is America", problem, whole=False) is None


@pytest.mark.parametrize(
  ("a", "b", "same"),
  [
    ("-5", "5", False), ("−5", "-5", True), ("(-5)", "-5", True), (".5", "5", False),
    ("C#", "C", False), ("C++", "C", False), ("#1", "1", True), ("A", "A.", True),
    ("A", "B", False),
    ("the cat", "Cat!", True), ("well-known", "well known", True), ("U.S.", "u s", True),
    ("2019-2020", "2019–2020", True), ("Covid-19", "covid 19", True), ("- 5", "5", True),
  ],
)  # fmt: skip
def test_two_texts_are_the_same_or_not(a, b, same):
  assert (texts.normalize(a) == texts.normalize(b) != "") is same
  assert texts.normalize(texts.normalize(a)) == texts.normalize(a)


def test_a_grader_judges_what_follows_the_marker(tmp_path, monkeypatch):
  (tmp_path / "my_grader.py").write_text(
    "def grade(answer, gold):\n  return sorted(answer.split()) == sorted(gold.split())\n"
  )
  (tmp_path / "own.jsonl").write_text(
    _lines({"question": f"{n}?", "answer": "a b"} for n in range(5))
  )
  monkeypatch.chdir(tmp_path)
  monkeypatch.delitem(sys.modules, "my_grader", raising=False)
  task = own.load(path="own.jsonl", validation=1, grader="my_grader:grade")
  problem = task.problems("train")[0]
  answer = task.read_answer("<think>x</think>So.\nAnswer: b\na", problem)
  assert answer == "b\na" and task.is_correct(answer, problem)
  assert not task.is_correct("c", problem)
  assert task.read_answer("b a", problem) == "b a"
  assert task.read_answer("b a", problem, whole=False) is None
  for name in ("my_grader", "my_grader:missing", "none_such:grade"):
    with pytest.raises(errors.UserError, match=r"task\.grader"):
      own.open_grader(name)


def test_data_show_prints_json_in_a_pipe(tmp_path, capsys):
  path = tmp_path / "own.jsonl"
  path.write_text(_lines(_questions(50)))
  assert main.main(["data", "show", str(path)]) == 0
  shown = json.loads(capsys.readouterr().out)
  assert shown["counts"]["train"] == 28 and shown["kind"] == "number"
  assert len(shown["questions"]) == 3 and "rendered" in shown["questions"][0]
  assert main.main(["data", "show", str(tmp_path / "none.jsonl")]) == errors.CONFIG


def test_data_show_needs_data_to_show(capsys):
  for words in ([], ["--n=1"]):
    assert main.main(["data", "show", *words]) == errors.USAGE
    assert "name a file or a directory" in capsys.readouterr().err
  assert main.main(["data", "show", "--config", "quickstart", "--n=1"]) == 0
  assert json.loads(capsys.readouterr().out)["task"] == "arithmetic"
