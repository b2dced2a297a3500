"""A task from your own file (task.name=file): any columns, any usual format.

The columns, the kind of the answers and the splits are found in the data; see `columns`, `golds`.
Whatever is left out or decided is noted, and `distill-jax data show` prints it.
"""

import collections
import dataclasses
import math
import pathlib
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distill_jax import errors, records
from distill_jax.data import sources, tables
from distill_jax.settings_task import Task
from distill_jax.tasks import columns, golds, held_out, shots, task

NAME = "file"
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NUMBERS = [str(n) for n in range(1, len(_LETTERS) + 1)]
_IN_NAME = re.compile(r"(?:^|[^a-z])(" + "|".join(tables.SPLITS) + r")(?![a-z])")
_SHOTS = {"number": shots.NUMBER, "choice": shots.CHOICE, "boolean": shots.BOOLEAN}
_SHOTS |= {"expression": shots.MATH, "text": shots.TEXT}
# Files that describe a data set and hold no rows.
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_DESCRIPTIONS += ("package.json", "config.json", "metadata.json")
_LONG_ANSWER = 200  # characters; texts of this length are rarely repeated word for word


@dataclasses.dataclass
class OwnData:
  """What was understood of the data.

  Attributes:
    source: The file, directory or data set.
    kind: Kind of the answers.
    is_guessed: Whether the kind was guessed.
    columns: The columns that are used.
    split_by: How the splits are told apart: files, a column, or the hash of the question.
    splits: The problems of each split.
    left_out: {reason: rows left out for it}.
    notes: What was decided, and the first row of each kind that was left out.
  """

  source: str
  kind: str
  is_guessed: bool
  columns: columns.Columns
  split_by: str
  splits: dict[str, list[records.Problem]]
  left_out: collections.Counter[str]
  notes: list[str]

  def summary(self) -> str:
    """One line for the log of a run."""
    counts = ", ".join(f"{name} {len(rows)}" for name, rows in self.splits.items() if rows)
    guessed = " (guessed)" if self.is_guessed else ""
    used = ", ".join(f"{role}={name}" for role, name in self.columns.described().items())
    return f"{self.source}: {counts} by {self.split_by}; kind {self.kind}{guessed}; columns {used}"


def load(
  *,
  path: str = "",
  hub: str = "",
  validation: int = 0,
  train: int = 0,
  test: int = 0,
  kind: str = "auto",
  column: Mapping[str, str] | None = None,
  grader: str = "",
) -> task.Task:
  """Loads a task from a file, a directory, or any data set of the hub.

  Args:
    path: The file, or a directory whose files are told apart by "train", "test", ... in their
      names.
    hub: NAME or NAME:CONFIG on the hub, instead of `path`.
    validation: Limit on the validation questions. If there is no validation split, so many training
      questions are held out, but at most a fifth of them.
    train: Limit on the training questions; 0 for all.
    test: Limit on the test questions; 0 for all.
    kind: One of golds.KINDS, or "auto".
    column: Columns by role (see columns.NAMES); "" to guess one, "none" for no such column.
    grader: "MODULE:FUNCTION" that judges (answer, gold) and returns a bool; "" to compare by kind.

  Raises:
    errors.UserError: The data cannot be read or understood.
  """
  judge = open_grader(grader) if grader else None
  limits = {"validation": validation, "train": train, "test": test}
  data = understand(path=path, hub=hub, kind=kind, column=column or {}, limits=limits)
  for line in [data.summary(), *data.notes]:
    sources.to_stderr(f"task {NAME}: {line}")
  splits = {name: data.splits.get(name, []) for name in task.SPLITS}
  return task.Task(
    NAME, lambda split: list(splits[split]), _SHOTS[data.kind], kind=data.kind, grader=judge
  )


def open_grader(name: str) -> Callable[[str, str], bool]:
  """The grader that a setting names, importable from the current directory.

  Raises:
    errors.UserError: There is no such function.
  """
  module, _, function = name.partition(":")
  example = "--config.task.grader=my_module:grade"
  if not module or not function.isidentifier():
    raise errors.config("task.grader", name, "MODULE:FUNCTION", example)
  here = str(pathlib.Path.cwd())
  sys.path.insert(0, here)
  try:
    found = pkgutil.resolve_name(name)
  except Exception as error:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    raise errors.config("task.grader", name, f"importable ({reason})", example) from None
  finally:
    sys.path.remove(here)
  if not callable(found):
    raise errors.config("task.grader", name, "a function (answer, gold) -> bool", example)

  def grade(answer: str, gold: str) -> bool:
    try:
      return bool(found(answer, gold))
    except Exception as error:
      reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
      raise errors.data(f"task.grader {name} failed on answer {answer[:60]!r}: {reason}") from None

  return grade


def understand_settings(settings: Task) -> OwnData:
  """What is understood of the data that `config.task` names."""
  return understand(
    path=settings.path,
    hub=settings.hub,
    kind=settings.kind,
    column=dataclasses.asdict(settings.columns),
    limits={"validation": settings.validation, "train": settings.train, "test": settings.test},
  )


def understand(
  *, path: str, hub: str, kind: str, column: Mapping[str, str], limits: Mapping[str, int]
) -> OwnData:
  """Reads the data and finds out what is in it; see `load`."""
  if bool(path) == bool(hub):
    raise errors.usage(f"task {NAME} needs either --config.task.path=FILE_OR_DIR or task.hub")
  notes: list[str] = []
  rows = _hub_rows(hub) if hub else _file_rows(pathlib.Path(path), notes.append)
  source = hub or path
  for row in rows:
    if not isinstance(row.value, dict):
      raise errors.data(
        f"{row.where} is not a JSON object but {type(row.value).__name__}; expected rows such as"
        ' {"question": ..., "answer": ...}'
      )
  rows = [row._replace(value=_without_nan(row.value)) for row in rows]
  found = columns.guess([row.value for row in rows], column, source)
  _check_splits(rows, found.chat or found.question)
  raws = [
    golds.Raw(columns.answer_of(row.value, found), columns.choices_of(row.value, found))
    for row in rows
  ]
  if all(raw.answer in (None, "", []) for raw in raws):
    raise errors.data(f"{source}: column {found.answer or found.chat!r} has no answer in any row")
  raws = _lettered(raws, notes)
  chosen = golds.guess_kind(raws) if kind == "auto" else kind
  by_split, left_out, first_left = _problems(rows, raws, found, chosen, source)
  notes += [
    f"left out {n} of {len(rows)} rows: {why} ({first_left[why]})" for why, n in left_out.items()
  ]
  split_by = "file" if any(row.split for row in rows) else "hash of the question"
  if found.split:
    split_by = f"column {found.split}"
  if chosen == "text":
    lengths = sorted(len(p.gold) for problems in by_split.values() for p in problems)
    if lengths[len(lengths) // 2] > _LONG_ANSWER:
      notes.append("the answers are long texts, compared word for word: consider task.grader")
  splits = held_out.make_splits(by_split, limits, notes, source)
  return OwnData(source, chosen, kind == "auto", found, split_by, splits, left_out, notes)


def _check_splits(rows: Sequence[tables.Row], question: str) -> None:
  """Rejects a file of train, validation or test in which no row has the column of the question."""
  with_question = {row.split for row in rows if question in row.value}
  for row in rows:
    if row.split.lower() in tables.SPLITS and row.split not in with_question:
      raise errors.data(
        f"{row.where}: no column {question!r}, which holds the questions of the other splits; give"
        " the columns of all splits the same names"
      )


def _without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
  """A row with None for NaN, which tables have for a missing value."""
  return {
    key: None if isinstance(value, float) and math.isnan(value) else value
    for key, value in row.items()
  }


def _file_rows(path: pathlib.Path, note: Callable[[str], None]) -> list[tables.Row]:
  """The rows of a file or of every data file below a directory, with their splits."""
  if not path.is_dir():
    return tables.read(path, warn=note, expected="a .json, .jsonl, .csv, .tsv or .parquet file")
  files = [
    file
    for file in sorted(path.rglob("*"))
    if file.name.lower().removesuffix(".gz").endswith(tables.SUFFIXES)
    and file.is_file()
    and file.name not in _DESCRIPTIONS
    and not any(part.startswith(".") for part in file.relative_to(path).parts)
  ]
  if not files:
    raise errors.data(f"{path}: no data file in it; expected {', '.join(tables.SUFFIXES)}")
  splits = {file: _split_in(file.relative_to(path).as_posix().lower()) for file in files}
  named = any(splits.values())
  rows: list[tables.Row] = []
  for file in files:
    split = (splits[file] or "train") if named else ""
    rows += [row._replace(split=row.split or split) for row in tables.read(file, warn=note)]
  return rows


def _split_in(name: str) -> str:
  """The split that the name of a file tells, "" for none; a directory counts less than the file."""
  found = _IN_NAME.findall(name)
  return tables.SPLITS[found[-1]] if found else ""


def _hub_rows(hub: str) -> list[tables.Row]:
  name, _, config = hub.partition(":")
  rows: list[tables.Row] = []
  for split, values in sources.load_hub_splits(name, config).items():
    rows += [
      tables.Row(f"{hub}:{split} row {number}", value, split)
      for number, value in enumerate(values, start=1)
    ]
  return rows


def _lettered(raws: Sequence[golds.Raw], notes: list[str]) -> list[golds.Raw]:
  """The rows with the options labelled A, B, C, ...; a published label as answer is replaced.

  Where the labels are 1, 2, ... and some answer is 0, but none is the last label, all answers are
  positions from 0: choice1, choice2 and the label 0 or 1. This is noted.
  """
  labelled = [(raw, [label.strip() for label, _ in raw.choices]) for raw in raws]
  numbered = [
    (str(raw.answer).strip(), labels)
    for raw, labels in labelled
    if not isinstance(raw.answer, bool) and labels and labels == _NUMBERS[: len(labels)]
  ]
  by_position = any(answer == "0" for answer, _ in numbered)
  by_position = by_position and not any(answer == labels[-1] for answer, labels in numbered)
  if by_position:
    notes.append("the answers are read as positions of the options, counted from 0")
  lettered: list[golds.Raw] = []
  for (answer, choices), labels in labelled:
    if isinstance(answer, str | int) and not isinstance(answer, bool) and not by_position:
      if str(answer).strip() in labels and len(labels) <= len(_LETTERS):
        answer = _LETTERS[labels.index(str(answer).strip())]
    pairs = [(letter, text) for letter, (_, text) in zip(_LETTERS, choices, strict=False)]
    lettered.append(golds.Raw(answer, pairs))
  return lettered


def _problems(
  rows: Sequence[tables.Row],
  raws: Sequence[golds.Raw],
  found: columns.Columns,
  kind: str,
  source: str,
) -> tuple[dict[str, list[records.Problem]], collections.Counter[str], dict[str, str]]:
  """The problems by split ("" without one), and how many rows were left out, with the first."""
  base = golds.index_base(raws) if kind == "choice" else 0
  positions = kind == "choice" and golds.are_positions(raws, base)
  problems: dict[str, list[records.Problem]] = {}
  left_out: collections.Counter[str] = collections.Counter()
  first_left: dict[str, str] = {}
  ids: dict[str, str] = {}
  seen: set[tuple] = set()
  for row, raw in zip(rows, raws, strict=True):
    why, problem = "", None
    question = columns.question_of(row.value, found)
    gold = golds.gold(kind, raw, base=base, positions=positions)
    split = _split_of(row, found)
    if not question:
      why = "no question"
    elif raw.answer in (None, "", []):
      why = "no answer"
    elif gold is None:
      why = f"the answer is not a {kind}" if kind != "number" else "the answer is not one number"
    elif kind == "choice" and len(raw.choices) < 2:
      why = "fewer than two options"
    elif split is None:
      why = f"column {found.split} names no split"
    elif (key := (split, question, gold.answer, tuple(raw.choices))) in seen:
      why = "a copy of an earlier row"
    else:
      seen.add(key)
      problem_id = _id(row, found, ids, len(problems.get(split, [])), split)
      problem = _problem(row, raw, found, kind, question, gold, problem_id, split)
      problems.setdefault(split, []).append(problem)
    if problem is None:
      left_out[why] += 1
      shown = "" if raw.answer is None else f": {' '.join(str(raw.answer).split())[:40]!r}"
      first_left.setdefault(why, f"first {row.where}{shown}")
  if not problems:
    why = left_out.most_common(1)[0][0]
    raise errors.data(f"{source}: no usable question; {why} ({first_left[why]})")
  return problems, left_out, first_left


def _problem(
  row: tables.Row,
  raw: golds.Raw,
  found: columns.Columns,
  kind: str,
  question: str,
  gold: golds.Gold,
  problem_id: str,
  split: str,
) -> records.Problem:
  rationale = gold.rationale
  written = row.value.get(found.rationale) if found.rationale else None
  if isinstance(written, list):
    written = "\n".join(str(step) for step in written)
  if isinstance(written, str):
    rationale = golds.ending(written, gold.answer) or rationale
  return records.Problem(
    id=problem_id,
    split=split or "train",
    question=question,
    gold=gold.answer,
    kind=kind,
    rationale=rationale,
    choices=tuple((a, " ".join(b.split())) for a, b in raw.choices) if kind == "choice" else (),
    accepted=gold.accepted,
  )


def _id(
  row: tables.Row, found: columns.Columns, ids: dict[str, str], count: int, split: str
) -> str:
  """The id of a problem: its own, if there is a column of ids, or its number."""
  own = row.value.get(found.id) if found.id else None
  if own in (None, ""):
    return f"{NAME}/{split or 'all'}/{count}"
  if str(own) in ids:
    raise errors.data(
      f"{row.where}: id {own!r} is also that of {ids[str(own)]}; ids must differ, or set"
      " --config.task.columns.id=none"
    )
  ids[str(own)] = row.where
  return f"{NAME}/{own}"


def _split_of(row: tables.Row, found: columns.Columns) -> str | None:
  """The split of a row; "" if the data have none, None if its name is not known."""
  named = str(row.value.get(found.split) or "") if found.split else row.split
  return tables.SPLITS.get(named.strip().lower()) if named else None if found.split else ""
