"""distill-jax show: the records of a phase with their questions and gold answers.

Works on unfinished runs, changes nothing and never imports jax. In a terminal, records are
formatted as text; otherwise, each is one JSON object.
"""

import dataclasses
import pathlib
import re
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

from distill_jax import console, errors, records
from distill_jax.run_dir import absent, questions
from distill_jax.run_dir.phase_dir import ATTEMPTS, DROPPED, RATIONALES, PhaseDir
from distill_jax.run_dir.run_dir import RunDir

FILTERS = ("wrong", "right", "cut", "unread", "all")
EXAM = "exam"  # the phase that is shown if none is named
FINAL = "final"
TEXT = "text"  # label of what a student or a teacher wrote
Row = records.Attempt | records.Rationale | records.PreferencePair | records.Example
# Files of rows about questions, and the type of their rows. A phase writes one of them.
KINDS: dict[str, type[Row]] = {
  ATTEMPTS: records.Attempt,
  RATIONALES: records.Rationale,
  "pairs.jsonl": records.PreferencePair,
  "examples.jsonl": records.Example,
}
ROUND_DIR = re.compile(r"round_(\d+)")
PHASE_DIR = re.compile(r"(\d+)_(\w+)")


class Rows(NamedTuple):
  """A file of rows about questions."""

  round_index: int | None  # None: of the final test
  phase: str
  file: pathlib.Path


class Shown(NamedTuple):
  """A row with its question."""

  question: records.Question
  row: Row
  correct: bool | None  # None: the row has no answer of its own


def run(workdir: str, round_index: int, phase: str, which: str, count: int, problem: str) -> None:
  """Prints rows of a phase.

  Args:
    workdir: The run directory.
    round_index: The round; -1 = the last one that has the phase.
    phase: The phase, or a split of the final test; "" = exam.
    which: One of FILTERS.
    count: Rows to show at most; 0 = all.
    problem: Id of the only question to show; "" = all.

  Raises:
    UserError: The run has no such round, phase or question, its rows cannot be filtered, or a file
      is damaged.
  """
  if which not in FILTERS:
    raise errors.usage(f"--filter={which} is unknown; choose one of {', '.join(FILTERS)}")
  if count < 0:
    raise errors.usage(f"--n={count} must be 0 (all) or more")
  if not workdir:
    raise errors.missing("workdir", "runs/quickstart")
  run_dir = pathlib.Path(workdir)
  if not (run_dir / "config.json").is_file():
    raise absent.error(workdir)
  rows = select(run_dir, round_index, phase or EXAM)
  RunDir(run_dir).verify_own()
  finished = PhaseDir(rows.file.parent).verify()
  known = questions.read(run_dir)
  if problem and problem not in known:
    raise errors.usage(f"--id={problem}: {run_dir / questions.QUESTIONS} has no such question")
  shown = join(rows.file, known)
  scored = [item.row.round for item in shown if isinstance(item.row, records.Attempt)]
  if rows.round_index is None and round_index not in (-1, *scored):
    raise errors.usage(
      f"--phase={rows.phase} scores the student of round {scored[0]}; leave out --round"
      if scored
      else f"{rows.file} is empty so far"
    )
  if not shown and (dropped := rows.file.with_name(DROPPED)).is_file() and dropped.stat().st_size:
    print(f"nothing was kept; {dropped} has examples of what was dropped, and why", file=sys.stderr)
  shown = [item for item in shown if problem in ("", item.question.id)]
  matching = [item for item in shown if matches(item, which)]
  listed = matching[: count or len(matching)]
  if not listed and not sys.stdout.isatty():
    print(f"{rows.file}: none of the {len(shown)} rows passes --filter={which}", file=sys.stderr)
  if sys.stdout.isatty():
    rest = "" if len(listed) == len(matching) else f", {len(listed)} shown (--n=0 shows all)"
    state = "" if finished else " so far"
    _print_pretty(rows, listed, f"{which}: {len(matching)} of {len(shown)} rows{state}{rest}")
    return
  for item in listed:
    print(console.json_line(_as_json(rows, item)))


def select(run_dir: pathlib.Path, round_index: int, phase: str) -> Rows:
  """Returns the rows of a phase; with round -1, those of the last round that has it.

  Raises:
    UserError: There is no such round or phase. The message lists what there is.
  """
  existing = find(run_dir)
  fitting = [
    rows
    for rows in existing
    if rows.phase == phase and (rows.round_index is None or round_index in (-1, rows.round_index))
  ]
  if fitting:
    return fitting[-1]
  wanted = f"phase {phase}" if round_index == -1 else f"phase {phase} in round {round_index}"
  raise errors.usage(f"{run_dir} has no records of {wanted}; it has {_listed(existing)}")


def find(run_dir: pathlib.Path) -> list[Rows]:
  """Returns every file of rows in a run directory, in the order of rounds and phases."""
  found: list[tuple[int, int, Rows]] = []
  for path in run_dir.glob("round_*/*"):
    directory, place = ROUND_DIR.fullmatch(path.parent.name), PHASE_DIR.fullmatch(path.name)
    if directory and place and (file := _rows_file(path)):
      rows = Rows(int(directory[1]), place[2], file)
      found.append((int(directory[1]), int(place[1]), rows))
  finals = [
    Rows(None, path.name, file)
    for path in sorted((run_dir / FINAL).glob("*"))
    if (file := _rows_file(path))
  ]
  return [rows for *_, rows in sorted(found, key=lambda item: item[:2])] + finals


def _rows_file(path: pathlib.Path) -> pathlib.Path | None:
  return next((path / name for name in KINDS if (path / name).is_file()), None)


def _listed(existing: Iterable[Rows]) -> str:
  """Lists rounds and phases, in one line."""
  phases: dict[str, list[str]] = {}
  for rows in existing:
    place = FINAL if rows.round_index is None else f"round {rows.round_index}"
    phases.setdefault(place, []).append(rows.phase)
  return "; ".join(f"{place}: {', '.join(names)}" for place, names in phases.items()) or "none yet"


def join(file: pathlib.Path, known: dict[str, records.Question]) -> list[Shown]:
  """Reads the rows of a file and joins them with their questions.

  Raises:
    UserError: A row is damaged, or its question is not in questions.jsonl.
  """
  rows = questions.read_records(file, KINDS[file.name])
  if unknown := next((row.problem for row in rows if row.problem not in known), None):
    raise errors.data(f"{file}: question {unknown} is not in {questions.QUESTIONS}")
  return [Shown(known[row.problem], row, is_correct(row)) for row in rows]


def is_correct(row: Row) -> bool | None:
  """Returns whether a row's answer is correct, as the run has decided; None: it has no answer.

  A rationale is only kept if its answer is correct.
  """
  if isinstance(row, records.Attempt):
    return row.correct
  return True if isinstance(row, records.Rationale) and row.answer is not None else None


def matches(shown: Shown, which: str) -> bool:
  """Returns whether a row passes a filter.

  Raises:
    UserError: Rows of this type have nothing to filter by.
  """
  row = shown.row
  if which == "all":
    return True
  if which == "cut" and isinstance(row, records.Attempt):
    return row.finish != "stop"
  if which == "cut" or not isinstance(row, records.Attempt | records.Rationale):
    raise errors.usage(f"--filter={which} does not apply to this phase; use --filter=all")
  if which == "unread":
    return row.answer is None
  return shown.correct == (which == "right")


def _as_json(rows: Rows, shown: Shown) -> dict[str, Any]:
  """A row with its question, as one JSON object. `round` is None where a row belongs to none."""
  question = dataclasses.asdict(shown.question)
  joined = {"phase": rows.phase, "round": rows.round_index, **dataclasses.asdict(shown.row)}
  joined |= {name: question[name] for name in ("split", "question", "choices", "gold")}
  if question["decomposition"]:
    joined["decomposition"] = question["decomposition"]
  return joined if shown.correct is None else {**joined, "correct": shown.correct}


def _print_pretty(rows: Rows, listed: Iterable[Shown], counts: str) -> None:
  screen = console.Console()
  place = FINAL if rows.round_index is None else f"round {rows.round_index}"
  screen.line(f"{place} {rows.phase}, {counts}")
  for question, row, correct in listed:
    screen.line()
    head = "  ".join([question.id, *_facts(row, correct)])
    screen.line(" ".join(head.split("\n")))
    screen.block("question", question.question)
    for label, text in question.choices:
      screen.block("", f"({label}) {text}")
    for label, text in _texts(row):
      judged = label == TEXT and correct is not None
      screen.block(label, text, ("green" if correct else "red") if judged else "")
    screen.block("gold", question.gold)


def _facts(row: Row, correct: bool | None) -> list[str]:
  """What is shown after the ID of a row's question."""
  facts = [] if correct is None else ["right" if correct else "wrong"]
  if isinstance(row, records.Attempt | records.Rationale):
    facts.append("no answer was read" if row.answer is None else f"answer {row.answer}")
    facts.append(f"sample {row.sample}")
    facts.append(f"{row.tokens} tokens")
  if isinstance(row, records.Attempt) and row.finish != "stop":
    facts.append("cut off")
  if isinstance(row, records.Rationale):
    facts.append(f"by {row.writer}")
  return [*facts, *(getattr(row, name) for name in ("style", "stage") if getattr(row, name, ""))]


def _texts(row: Row) -> list[tuple[str, str]]:
  """(label, text) of the texts of a row that are not empty."""
  if isinstance(row, records.PreferencePair):
    labeled = [
      ("prompt", records.prompt_text(row.prompt)),
      ("chosen", row.chosen),
      ("rejected", row.rejected),
    ]
  elif isinstance(row, records.Example):
    labeled = [("prompt", records.prompt_text(row.prompt)), ("target", row.target)]
  elif isinstance(row, records.Rationale):
    labeled = [("corrects", row.corrects), ("critique", row.critique), (TEXT, row.text)]
  else:
    return [(TEXT, row.text)]
  return [(label, text) for label, text in labeled if text]
