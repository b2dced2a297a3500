"""distill-jax show: rows of a phase with their questions, for people and for programs."""

import dataclasses
import io
import json
import subprocess
import sys

import pytest

from distill_jax import console, errors, records
from distill_jax.cli import main as cli
from distill_jax.run_dir import questions, readme
from distill_jax.run_dir.run_dir import RunDir

HOSTILE = (
  "\x1b[31mred\x1b[0m \x07 \u202egnp.exe\u2066 \u200fx\r\n[bold]not markup[/bold]\ud800\u2028"
)
PROBLEMS = (
  records.Problem("t/train/0", "train", f"How many? {HOSTILE}", "18"),
  records.Problem(
    "t/train/1", "train", "Where?", "B", "choice",
    choices=(("A", "a cave"), ("B", "a lamp \u202elit")), decomposition=(("Is it lit?", "Yes."),),
  ),
  records.Problem("t/test/0", "test", "How few?", "0.5"),
)  # fmt: skip


def attempt(problem: str, text: str, answer: str | None, *, correct: bool, **other):
  fields = {"round": 1, "sample": 0, "finish": "stop", "tokens": 4, "logprob": -1.5, **other}
  return records.Attempt(problem, text, answer, correct, **fields)


ATTEMPTS = [
  attempt("t/train/0", f"It is 18.\n{HOSTILE}", "18", correct=True),
  attempt("t/train/0", "It is 17.", "17", correct=False, sample=1),
  attempt("t/train/1", "A lamp, because", None, correct=False, finish="length"),
  attempt("t/train/1", "Answer: B", "B", correct=True, sample=1, finish="length"),
]
RATIONALE = records.Rationale(
  "t/test/0", "1/2\nAnswer: 1/2", "1/2", "big", 1, "correct", 0, 0.7, corrects="no", critique="why"
)
PAIR = records.PreferencePair("t/train/1", "Q", "good", "bad", "analyze", -1.0, -2.0)
EXAMPLE = records.Example("t/train/1", "Q", "A")


@pytest.fixture
def run_dir(tmp_path) -> RunDir:
  """An unfinished run with rows of every kind."""
  run = RunDir(tmp_path / "run")
  run.claim({})
  questions.write(run, [(p.split, p) for p in PROBLEMS])
  run.phase(0, 1, "exam").write("attempts.jsonl", ATTEMPTS[1:2])
  run.phase(0, 1, "exam").finish({})
  run.seal()
  run.release()
  run.phase(1, 0, "exam").write("attempts.jsonl", ATTEMPTS)
  run.phase(1, 1, "feedback").write("rationales.jsonl", [RATIONALE])
  run.phase(1, 2, "pair").write("pairs.jsonl", [PAIR])
  run.phase(1, 3, "train").write("examples.jsonl", [EXAMPLE])
  run.phase(1, 4, "prefer").write("metrics.jsonl", [])
  run.final("test").write("attempts.jsonl", [attempt("t/test/0", "1/2", "1/2", correct=True)])
  return run


def show(run_dir: RunDir, capsys, *words: str) -> list[dict]:
  """The rows that `show` prints where standard output is not a terminal."""
  assert cli.main(["show", f"--workdir={run_dir.path}", *words]) == 0
  return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


class Terminal(io.StringIO):
  encoding = "utf-8"

  def isatty(self) -> bool:
    return True


def pretty(run_dir: RunDir, monkeypatch, *words: str) -> str:
  """What `show` prints in a terminal without colors."""
  monkeypatch.setenv("NO_COLOR", "1")
  monkeypatch.setenv("TERM", "dumb")
  terminal = Terminal()
  monkeypatch.setattr(sys, "stdout", terminal)
  assert cli.main(["show", f"--workdir={run_dir.path}", *words]) == 0
  return terminal.getvalue()


def test_each_row_is_json_with_its_question_and_loses_nothing(run_dir, capsys):
  rows = show(run_dir, capsys, "--round=1", "--n=0")
  fields = {f.name for f in dataclasses.fields(records.Attempt)}
  known = questions.read(run_dir.path)
  for row, written in zip(rows, ATTEMPTS, strict=True):
    own = json.dumps({name: row[name] for name in fields})
    assert records.load(records.Attempt, own, "row") == written
    question = known[written.problem]
    assert (row["question"], row["gold"]) == (question.question, question.gold)
    assert row["split"] == "train" and row["phase"] == "exam" and row["round"] == 1
  assert rows[2]["choices"] == [["A", "a cave"], ["B", "a lamp \u202elit"]]
  assert rows[2]["decomposition"] == [["Is it lit?", "Yes."]] and "decomposition" not in rows[0]


@pytest.mark.parametrize(
  ("which", "kept"),
  [("wrong", [1, 2]), ("right", [0, 3]), ("cut", [2, 3]), ("unread", [2]), ("all", [0, 1, 2, 3])],
)
def test_a_filter_keeps_the_rows_it_names(run_dir, capsys, which, kept):
  rows = show(run_dir, capsys, f"--filter={which}", "--n=0")
  assert [row["text"] for row in rows] == [ATTEMPTS[n].text for n in kept]


def test_an_empty_selection_says_so_and_prints_no_record(run_dir, capsys):
  words = ["--phase=exam", "--filter=cut", "--id=t/train/0"]
  assert cli.main(["show", f"--workdir={run_dir.path}", *words]) == 0
  printed = capsys.readouterr()
  assert not printed.out and "none of" in printed.err and "--filter=cut" in printed.err


def test_a_phase_that_kept_nothing_points_to_what_was_dropped(run_dir, capsys):
  phase = run_dir.phase(2, 0, "demonstrate")
  phase.write("rationales.jsonl", [])
  dropped = records.Dropped("t/train/0", "malformed", "{", 0)
  phase.write("dropped.jsonl", [dropped])
  words = ("show", f"--workdir={run_dir.path}", "--phase=demonstrate", "--filter=all")
  assert cli.main(list(words)) == 0
  out, err = capsys.readouterr()
  assert not out and f"nothing was kept; {phase.path / 'dropped.jsonl'} has examples" in err


def test_without_a_round_the_last_one_with_the_phase_is_shown(run_dir, capsys):
  assert len(show(run_dir, capsys)) == 4
  assert len(show(run_dir, capsys, "--round=0")) == 1


def test_one_question_and_a_number_of_rows_are_selected(run_dir, capsys):
  assert len(show(run_dir, capsys, "--n=3")) == 3
  rows = show(run_dir, capsys, "--id=t/train/1")
  assert [row["problem"] for row in rows] == ["t/train/1"] * 2


def test_rationales_pairs_examples_and_final_attempts_have_their_questions_too(run_dir, capsys):
  (feedback,) = show(run_dir, capsys, "--phase=feedback", "--filter=right")
  assert feedback["gold"] == "0.5" and feedback["correct"] and feedback["critique"] == "why"
  assert show(run_dir, capsys, "--phase=feedback", "--filter=wrong") == []
  (pair,) = show(run_dir, capsys, "--phase=pair")
  assert (pair["round"], pair["chosen"], pair["gold"]) == (1, "good", "B")
  (example,) = show(run_dir, capsys, "--phase=train", "--round=1")
  assert (example["target"], example["question"]) == ("A", "Where?")
  (final,) = show(run_dir, capsys, "--phase=test")
  assert final["split"] == "test" and show(run_dir, capsys, "--phase=test", "--round=1") == [final]


def test_in_a_terminal_hostile_text_is_shown_as_text(run_dir, monkeypatch):
  text = pretty(run_dir, monkeypatch, "--n=0")
  assert not {"\x07", "\x1b", "\r", "\u202e", "\u2066", "\u200f", "\u2028", "\ud800"} & {*text}
  assert "[bold]not markup[/bold]\ufffd\ufffd" in text and "red \ufffd \ufffdgnp.exe" in text
  assert "round 1 exam, all: 4 of 4 rows so far" in text
  lines = text.splitlines()
  assert "t/train/1  wrong  no answer was read  sample 0  4 tokens  cut off" in lines
  assert "            (B) a lamp \ufffdlit" in lines and "  gold      B" in lines


def test_in_a_terminal_the_teacher_texts_are_labeled(run_dir, monkeypatch):
  lines = pretty(run_dir, monkeypatch, "--phase=feedback").splitlines()
  assert lines[2].startswith("t/test/0  right  answer 1/2")
  assert lines[3:] == [
    "  question  How few?",
    "  corrects  no",
    "  critique  why",
    "  text      1/2",
    "            Answer: 1/2",
    "  gold      0.5",
  ]


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--round=7"], "no records of phase exam in round 7; it has round 0: exam; round 1: exam"),
    (["--phase=prefer"], "no records of phase prefer; it has round 0"),
    (["--phase=nonsense"], "train; final: test"),
    (["--filter=no"], "choose one of wrong, right"),
    (["--n=-1"], "--n=-1 must be 0"),
    (["--id=t/train/9"], "no such question"),
    (["--phase=pair", "--filter=wrong"], "use --filter=all"),
    (["--phase=feedback", "--filter=cut"], "use --filter=all"),
    (["--phase=test", "--round=0"], "scores the student of round 1"),
  ],
)
def test_what_does_not_exist_is_one_line_with_what_does(run_dir, capsys, words, message):
  assert cli.main(["show", f"--workdir={run_dir.path}", *words]) == errors.USAGE
  captured = capsys.readouterr()
  assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_a_directory_that_is_no_run_is_rejected(tmp_path, capsys):
  assert cli.main(["show", f"--workdir={tmp_path}"]) == errors.USAGE
  assert cli.main(["show"]) == errors.USAGE
  assert "not a run directory" in capsys.readouterr().err


def test_a_run_without_its_questions_is_told_how_to_get_them(run_dir, capsys):
  (run_dir.path / questions.QUESTIONS).unlink()
  assert cli.main(["show", f"--workdir={run_dir.path}"]) == errors.DATA
  assert "re-run the run's own command, which writes it" in capsys.readouterr().err


def test_a_torn_line_of_a_running_phase_is_left_alone(run_dir, capsys):
  file = run_dir.path / "round_01" / "0_exam" / "attempts.jsonl"
  with open(file, "a") as opened:
    opened.write('{"problem": "t/tr')
  before = {path: path.read_bytes() for path in run_dir.path.rglob("*") if path.is_file()}
  assert len(show(run_dir, capsys, "--n=0")) == 4
  assert {p: p.read_bytes() for p in run_dir.path.rglob("*") if p.is_file()} == before


def test_a_damaged_row_of_a_finished_phase_is_an_error(run_dir, capsys):
  file = run_dir.path / "round_00" / "1_exam" / "attempts.jsonl"
  file.write_bytes(file.read_bytes().replace(b"17", b"18"))
  assert cli.main(["show", f"--workdir={run_dir.path}", "--round=0"]) == errors.DATA
  assert str(file) in capsys.readouterr().err


@pytest.mark.parametrize("name", ["questions.jsonl", "config.json", "manifest.json"])
def test_a_damaged_file_of_the_run_is_an_error(run_dir, capsys, name):
  file = run_dir.path / name
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)
  assert cli.main(["show", f"--workdir={run_dir.path}"]) == errors.DATA
  assert str(file) in capsys.readouterr().err


def test_a_number_that_json_does_not_have_is_not_passed_on(run_dir, capsys):
  file = run_dir.path / "round_01" / "0_exam" / "attempts.jsonl"
  file.write_bytes(file.read_bytes().replace(b"-1.5", b"NaN", 1))
  assert cli.main(["show", f"--workdir={run_dir.path}"]) == errors.DATA
  captured = capsys.readouterr()
  assert f"{file}:1: not JSON" in captured.err and captured.out == ""
  assert console.json_line({"a": [float("nan"), 1.5]}) == '{"a": [null, 1.5]}'


def test_show_does_not_import_jax(run_dir):
  program = (
    "import sys; from distill_jax.cli import main;"
    f"code = main.main(['show', '--workdir={run_dir.path}']);"
    "sys.exit(code or 'jax' in sys.modules)"
  )
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
  assert done.returncode == 0 and len(done.stdout.splitlines()) == 4, done.stderr


def test_questions_are_written_once_and_read_back(tmp_path):
  problems = [(p.split, p) for p in PROBLEMS]
  questions.write(RunDir(tmp_path), problems)
  file = tmp_path / questions.QUESTIONS
  before = file.stat().st_ino
  questions.write(RunDir(tmp_path), problems)
  assert file.stat().st_ino == before
  known = questions.read(tmp_path)
  for problem in PROBLEMS:
    question = known[problem.id]
    for name in ("split", "question", "gold", "kind", "choices", "decomposition"):
      assert getattr(question, name) == getattr(problem, name)


def test_the_readme_names_every_file_that_a_run_writes(tmp_path):
  readme.write(tmp_path)
  text = (tmp_path / readme.README).read_text()
  names = ("config.json", "questions.jsonl", "attempts.jsonl", "manifest.json", "round_00/")
  for name in (*names, "changes.jsonl", "teacher.json", "measured.json"):
    assert f"`{name}`" in text


def test_the_version_is_printed(capsys):
  assert cli.main(["--version"]) == 0
  name, version = capsys.readouterr().out.split()
  assert name == "distill-jax" and version[0].isdigit()
