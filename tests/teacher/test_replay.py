"""A teacher that replays recorded files."""

import json
import pathlib

import pytest
from scripted import ask

from distill_jax import errors, tasks
from distill_jax.data import sources
from distill_jax.teacher import replay, types
from distill_jax.teacher.prompts import parsing

DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def replayed(tmp_path):
  """replayed(file, ..., question=column, ...) -> a ReplayTeacher."""
  opened = []

  def start(
    *files, question="question", rationale="rationale", questions="", answer="", demonstrations=1
  ):
    opened.append(
      replay.ReplayTeacher(
        path=[str(file) for file in files], question=question, rationale=rationale,
        questions=str(questions), cache_path=str(tmp_path / "teacher.sqlite"), run="this run",
        answer=answer, demonstrations=demonstrations,
      )
    )  # fmt: skip
    return opened[-1]

  yield start
  for each in opened:
    each.close()


def write(path, rows, lines=False):
  text = "\n".join(map(json.dumps, rows)) + "\n" if lines else json.dumps(rows)
  path.write_text(text)
  return path


def request(question, samples=1, kind="annotate", first=0):
  return types.Request(kind, question, (), samples, first)


ROWS = [{"question": "How  many?\n", "rationale": f"text {k}"} for k in range(3)]


@pytest.mark.parametrize("lines", [True, False])
def test_recorded_texts_come_in_order_and_start_over(replayed, tmp_path, lines):
  teacher = replayed(write(tmp_path / "a.json", ROWS, lines))
  (row,) = ask(teacher, [request("How many?", samples=5)])
  assert [reply.text for reply in row] == [f"text {k}" for k in (0, 1, 2, 0, 1)]
  (row,) = ask(teacher, [request("How many?", first=2)])
  assert row[0].text == "text 2" and row[0].dollars == 0


def test_later_rounds_get_other_texts_as_corrections(replayed, tmp_path):
  teacher = replayed(write(tmp_path / "a.json", ROWS))
  for round in range(4):
    (row,) = ask(teacher, [request("How many?", kind="correct")], round=round)
    assert parsing.split_correction(row[0].text) == ("(none recorded)", f"text {round % 3}")


def test_corrections_begin_after_the_demonstrations(replayed, tmp_path):
  teacher = replayed(write(tmp_path / "a.json", ROWS), demonstrations=2)
  (shown,) = ask(teacher, [request("How many?", samples=2)])
  (row,) = ask(teacher, [request("How many?", kind="correct")], round=1)
  assert parsing.split_correction(row[0].text)[1] == "text 2"
  assert "text 2" not in [reply.text for reply in shown]


def test_a_recorded_correction_is_returned_unchanged(replayed, tmp_path):
  text = "Mistake: a\nReasoning:\nb\nAnswer: 1"
  teacher = replayed(write(tmp_path / "a.json", [{"question": "q", "rationale": text}]))
  assert ask(teacher, [request("q", kind="correct")])[0][0].text == text


def test_several_files_are_one_teacher_and_equal_texts_count_once(replayed, tmp_path):
  other = [{"question": "How many", "rationale": text} for text in ("text 1", "text 9", "", None)]
  teacher = replayed(write(tmp_path / "a.json", ROWS), write(tmp_path / "b.json", other))
  assert teacher.recorded("how many") == ("text 0", "text 1", "text 2", "text 9")


def test_an_unrecorded_question_is_a_failure_and_costs_nothing(replayed, tmp_path):
  teacher = replayed(write(tmp_path / "a.json", ROWS))
  seen = []
  replies = ask(
    teacher, [request("Why?", samples=2), request("How many?")], on_progress=seen.append
  )
  assert [reply.kind for reply in replies[0]] == ["unrecorded"] * 2
  totals = teacher.ledger.of(0, "s")
  assert (totals.calls, totals.cache_hits, totals.failures, totals.dollars) == (0, 1, 2, 0.0)
  assert (seen[-1].done, seen[-1].total, seen[-1].failures) == (3, 3, 2)


def test_its_ledger_survives_the_process(replayed, tmp_path):
  file = write(tmp_path / "a.json", ROWS)
  first = replayed(file)
  ask(first, [request("How many?", samples=2)], round=1)
  before = first.ledger.of(1)
  again = replayed(file)
  ask(again, [request("How many?", samples=2)], round=1)
  assert again.ledger.of(1) == before and before.cache_hits == 2


@pytest.mark.parametrize(
  ("columns", "message"),
  [
    ({"question": "instruction"}, r"replay\.question"),
    ({"rationale": "output"}, r"replay\.rationale"),
  ],
)
def test_a_missing_column_is_named(replayed, tmp_path, columns, message):
  with pytest.raises(errors.UserError, match=message) as error:
    replayed(write(tmp_path / "a.json", ROWS), **columns)
  assert "question, rationale" in str(error.value)


CHOICES = "What holds salt?\n(A) a shaker, small\n(B) sea water\n(C) $"


@pytest.mark.parametrize(
  "recorded",
  [
    "What holds salt?",
    "Q: What holds salt",
    CHOICES,
    "Q: What holds salt? Answer choices: A: a shaker, small, B: sea water, C: $",
    "Question: What holds salt? Options: 1) a shaker small 2) sea water 3) $",
  ],
)
def test_a_multiple_choice_question_is_found_with_other_labels(replayed, tmp_path, recorded):
  teacher = replayed(write(tmp_path / "a.json", [{"question": recorded, "rationale": "text"}]))
  assert teacher.recorded(CHOICES) == ("text",)


@pytest.mark.parametrize(
  "recorded",
  [
    "What holds salt? Answer choices: A: sea water, B: a shaker, small, C: $",
    "What holds salt? Answer choices: A: a shaker, small, B: fresh water, C: $",
    "What holds salt and pepper?",
    "What holds salts? A: a shaker, small, B: sea water, C: $",
    "holds salt?",
  ],
)
def test_other_choices_or_another_order_make_another_question(replayed, tmp_path, recorded):
  teacher = replayed(write(tmp_path / "a.json", [{"question": recorded, "rationale": "text"}]))
  assert teacher.recorded(CHOICES) == ()


def test_a_question_that_names_its_choices_precedes_the_bare_one(replayed, tmp_path):
  named = "Q: What holds salt? Answer choices: A: a shaker, small, B: sea water, C: $"
  rows = [{"question": "What holds salt?", "rationale": "bare"}]
  rows.append({"question": named, "rationale": "named"})
  assert replayed(write(tmp_path / "a.json", rows)).recorded(CHOICES) == ("named",)


def test_a_question_without_choices_is_not_found_in_a_longer_one(replayed, tmp_path):
  rows = [{"question": "How many? And why?", "rationale": "text"}]
  assert replayed(write(tmp_path / "a.json", rows)).recorded("How many?") == ()


def test_bare_texts_are_joined_to_the_rows_of_a_questions_file(replayed, tmp_path):
  questions = write(
    tmp_path / "questions.jsonl", [{"question": f"{n}?"} for n in range(3)], lines=True
  )
  one = write(tmp_path / "one.json", ["text 0", "text 1"])
  two = write(tmp_path / "two.json", [{"rationale": "text 2"}])
  teacher = replayed(one, two, questions=questions)
  assert [teacher.recorded(f"{n}?") for n in range(3)] == [("text 0",), ("text 1",), ("text 2",)]
  with pytest.raises(errors.UserError, match="3 questions for the 2 rows"):
    replayed(one, questions=questions)
  with pytest.raises(errors.UserError, match="not a JSON object but str"):
    replayed(one)
  with pytest.raises(errors.UserError, match=r"teacher\.replay\.questions"):
    replayed(one, questions=tmp_path / "none.json")


@pytest.mark.parametrize("next_one", ["\n\nQ: What else?\nA: that", "\n \n\nQuestion 2: and?"])
def test_a_text_that_runs_on_into_a_next_question_is_cut(replayed, tmp_path, next_one):
  rows = [{"question": "q", "rationale": f"So it is 1.\n\nAnswer: 1{next_one}"}]
  assert replayed(write(tmp_path / "a.json", rows)).recorded("q") == ("So it is 1.\n\nAnswer: 1",)


SETS = "teacher_distilling_cot"
PUBLISHED = [  # file, question column, rationale column, data set, questions with a rationale
  *(
    (f"{SETS}/svamp/SVAMP_{who}_level{level}_ranked.json", "instruction", "output", "svamp", count)
    for who, level, count in (
      ("ChatGPT", 1, 700), ("ChatGPT", 3, 699), ("ChatGPT", 5, 699), ("gemini", 1, 700),
      ("gemini", 3, 700), ("gemini", 5, 700), ("llama", 1, 700), ("llama", 3, 700),
    )
  ),
  (f"{SETS}/gsm8k/gsm8k_llama_level1_ranked.json", "instruction", "output", "gsm8k", 7441),
  ("teacher_mentor_kd/svamp_3_train_subset.json", "input", "chain", "svamp", 458),
]  # fmt: skip


def questions(name):
  if name == "svamp":
    return [
      f"{row['Body']} {row['Question']}" for row in sources.read_rows(DATA / "svamp" / "train.json")
    ]
  return [row["question"] for row in sources.read_rows(DATA / "gsm8k" / "train.jsonl")]


@pytest.mark.skipif(not DATA.is_dir(), reason="the published files are not available")
@pytest.mark.parametrize(("file", "question", "rationale", "name", "count"), PUBLISHED)
def test_published_sets_answer_the_questions_they_were_written_for(
  replayed, file, question, rationale, name, count
):
  teacher = replayed(DATA / file, question=question, rationale=rationale)
  assert sum(bool(teacher.recorded(text)) for text in questions(name)) == count


PALM = "teacher_dss_palm/cqa"
JUDGED = [  # task, its path, recorded files, columns, questions file, (questions, correct, texts)
  (
    "csqa", "csqa", [f"{PALM}/palm/train_CoT_{n}.json" for n in range(10)],
    ("question", ""), f"{PALM}/cqa_train.json", (9741, 7333, 9741),
  ),
  (
    "openbookqa", "obqa", [f"{SETS}/obqa/openbookQA_chatgpt_level_2_ranked.json"],
    ("instruction", "output"), "", (4955, 4938, 4955),
  ),
  (
    "strategyqa", "strategyqa",
    [f"{SETS}/strategyqa/strategyQA_chatgpt_level_{level}_ranked.json" for level in (1, 3, 5)],
    ("instruction", "output"), "", (1800, 5164, 5397),
  ),
]  # fmt: skip


@pytest.mark.skipif(not DATA.is_dir(), reason="the published files are not available")
@pytest.mark.parametrize(("name", "path", "files", "columns", "questions", "counts"), JUDGED)
def test_published_rationales_are_found_and_graded(
  replayed, name, path, files, columns, questions, counts
):
  task = tasks.get(name, path=str(DATA / path))
  question, rationale = columns
  teacher = replayed(
    *(DATA / file for file in files), question=question, rationale=rationale,
    questions=DATA / questions if questions else "",
  )  # fmt: skip
  problems = task.problems("train")
  texts = [(p, text) for p in problems for text in teacher.recorded(task.render(p))]
  correct = sum(task.is_correct(task.read_answer(text, p), p) for p, text in texts)
  assert (len({p.id for p, _ in texts}), correct, len(texts)) == counts


def test_the_answer_of_a_column_of_its_own_becomes_the_last_line(replayed, tmp_path):
  rows = [
    {"question": "a?", "rationale": "He has 7. That is all.\n\nQ: more?", "answer": "6"},
    {"question": "b?", "rationale": "So.\nAnswer: 8", "answer": 8},
    {"question": "c?", "rationale": "It is.", "answer": True},
    {"question": "d?", "rationale": "Nobody knows.", "answer": None},
  ]
  teacher = replayed(write(tmp_path / "a.json", rows), answer="answer")
  texts = [reply.text for (reply,) in ask(teacher, [request(row["question"]) for row in rows])]
  assert texts == [
    "He has 7. That is all.\nAnswer: 6", "So.\nAnswer: 8", "It is.\nAnswer: yes", "Nobody knows.",
  ]  # fmt: skip
  with pytest.raises(errors.UserError, match=r"no column 'gold'.*teacher\.replay\.answer=COLUMN"):
    replayed(write(tmp_path / "b.json", rows), answer="gold")
