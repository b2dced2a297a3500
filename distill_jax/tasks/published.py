"""Tasks from published files: which file is which split, held-out validation, stable limits."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from distill_jax import errors, records
from distill_jax.data import sources
from distill_jax.tasks import shots, task

# Share of a data set published without splits that becomes the test split (SVAMP: 700/300).
TEST_SHARE = 0.3

Rows = tuple[str, list[dict]]  # (where the rows are from, rows)


class Source(NamedTuple):
  """How a data set is published.

  Attributes:
    problem: Returns the fields of a records.Problem for (row, where); None if the row has no answer
      of the task's kind.
    files: Names of the files of each split. The first pattern with a match counts; a pattern with *
      stands for all files that match.
    hub: Usual name on the hub, with ":CONFIG" if it has several.
    splits: Split of the hub for each split of the task; "all" for a data set with only one.
    single: Names of the file of a data set without splits.
    shots: Worked examples.
    kind: Kind of the problems.
  """

  problem: Callable[[dict, str], dict | None]
  files: dict[str, tuple[str, ...]]
  hub: str
  splits: dict[str, str]
  single: tuple[str, ...] = ()
  shots: tuple[tuple[str, str], ...] = shots.NUMBER
  kind: str = "number"

  @property
  def expected(self) -> str:
    """The expected files, for errors."""
    names = ["/".join(self.single)] if self.single else []
    if self.files:
      names += [" and ".join("/".join(n) for n in self.files.values()) + " in a directory"]
    return " or ".join([*names, "one file with all questions"])


def load(
  name: str,
  source: Source,
  *,
  path: str = "",
  hub: str = "",
  validation: int = 0,
  train: int = 0,
  test: int = 0,
) -> task.Task:
  """Loads a task from its published files or from the hub.

  Args:
    name: Name of the task.
    source: How it is published.
    path: A directory with the files named in `source`, or a single file. Of a single file, 30 % of
      the questions, chosen by their hash, become the test split.
    hub: NAME or NAME:CONFIG on the hub, usually `source.hub`. Give either this or `path`.
    validation: Number of training questions to hold out. If the data set has a validation split,
      that is used instead, and this limits it.
    train: Limit on the training questions; 0 for all.
    test: Limit on the test questions; 0 for all.

  Raises:
    errors.UserError: An invalid option, or data that cannot be read.
  """
  if bool(path) == bool(hub):
    raise errors.usage(
      f"task {name} needs either --config.task.path=PATH ({source.expected}) or"
      f" --config.task.hub={source.hub}"
    )
  tables = _read_hub(source, hub) if hub else _read_files(source, pathlib.Path(path))
  problems = {split: _problems(name, source, split, parts) for split, parts in tables.items()}
  if "all" in problems:
    problems = _split_off_test(problems["all"])
  limits = {"validation": validation, "train": train, "test": test}
  splits = make_splits(**problems, limits=limits)
  return task.Task(name, lambda split: list(splits[split]), source.shots, kind=source.kind)


def hash_position(question: str) -> int:
  """Position of a question in a fixed pseudo-random order of all questions."""
  bare = " ".join(question.split()).encode("utf-8", "surrogatepass")
  return int.from_bytes(hashlib.sha256(b"distill_jax\n" + bare).digest()[:8], "big")


def hashed_order(problems: list[records.Problem]) -> list[records.Problem]:
  """The problems in the order of `hash_position`."""
  return sorted(problems, key=lambda problem: (hash_position(problem.question), problem.id))


def make_splits(
  train: list[records.Problem],
  test: list[records.Problem],
  validation: list[records.Problem] | None = None,
  *,
  limits: dict[str, int],
) -> dict[str, list[records.Problem]]:
  """Makes the splits of a task, each in file order.

  Without a `validation` split, limits["validation"] training questions are held out. They are
  chosen by their text alone, and copies of a question stay together, so there may be a few more.
  Which questions a limit keeps does not depend on the order of the file.

  Args:
    train: Problems published for training.
    test: Problems published for testing.
    validation: Problems published for validation, if any.
    limits: Limit of each split; 0 for no limit (validation: none held out).

  Raises:
    errors.UserError: A limit is negative, or validation would take all training questions.
  """
  for name, value in limits.items():
    if value < 0:
      raise errors.config(f"task.{name}", value, "0 or more questions")
  held_out = limits["validation"]
  if validation is None and held_out >= len(train):
    allowed = f"fewer than the {len(train)} training questions"
    raise errors.config("task.validation", held_out, allowed)
  if validation is None:
    edge = hash_position(hashed_order(train)[held_out - 1].question) if held_out else -1
    validation = [_moved(p, "validation") for p in train if hash_position(p.question) <= edge]
    train = [problem for problem in train if hash_position(problem.question) > edge]
  else:
    validation = _limited(validation, held_out)
  return {
    "train": _limited(train, limits["train"]),
    "validation": validation,
    "test": _limited(test, limits["test"]),
    "out_of_domain": [],
  }


def _limited(problems: list[records.Problem], limit: int) -> list[records.Problem]:
  """A stable subset of at most `limit` problems.

  A larger limit keeps everything that a smaller one keeps. It takes the end of the hashed order
  and validation takes the beginning, so the size of validation does not change this subset.
  """
  if not limit or limit >= len(problems):
    return problems
  kept = {problem.id for problem in hashed_order(problems)[-limit:]}
  return [problem for problem in problems if problem.id in kept]


def _moved(problem: records.Problem, split: str) -> records.Problem:
  return dataclasses.replace(problem, split=split)


def _split_off_test(problems: list[records.Problem]) -> dict[str, list[records.Problem]]:
  """Train and test splits of a data set published without splits."""
  count = max(1, round(TEST_SHARE * len(problems)))
  edge = hash_position(hashed_order(problems)[-count].question)
  splits: dict[str, list[records.Problem]] = {"train": [], "test": []}
  for problem in problems:
    split = "test" if hash_position(problem.question) >= edge else "train"
    splits[split].append(_moved(problem, split))
  return splits


def _problems(
  name: str, source: Source, split: str, tables: Sequence[Rows]
) -> list[records.Problem]:
  """The problems of a split. Warns about rows without an answer of the task's kind."""
  problems, count = [], 0
  for where, rows in tables:
    for number, row in enumerate(rows, start=1):
      fields = source.problem(row, f"{where}: row {number}")
      if fields is not None:
        problem_id = f"{name}/{split}/{count}"
        problems.append(records.Problem(id=problem_id, split=split, kind=source.kind, **fields))
      count += 1
  if not problems:
    raise errors.data(f"{tables[0][0]}: no question with an answer in it; expected {name}")
  if count > len(problems):
    sources.to_stderr(
      f"task {name}: left out {count - len(problems)} of {count} questions of {tables[0][0]},"
      f" whose answer is not a single {source.kind}"
    )
  return problems


def _read_hub(source: Source, hub: str) -> dict[str, list[Rows]]:
  name, _, config = hub.partition(":")
  config = config or source.hub.partition(":")[2]
  return {
    split: [(f"{hub}:{hub_split}", sources.load_hub(name, config, hub_split))]
    for split, hub_split in source.splits.items()
  }


def _read_files(source: Source, path: pathlib.Path) -> dict[str, list[Rows]]:
  """The rows of each split; {"all": ...} for a single file without splits."""
  if not path.is_dir():
    return {"all": [_read_file(source, path)]}
  for name in source.single:
    if (path / name).is_file():
      return {"all": [_read_file(source, path / name)]}
  tables = {}
  for split, names in source.files.items():
    matches = [files for name in names if (files := sorted(path.glob(name)))]
    if matches:
      tables[split] = [_read_file(source, file) for file in matches[0]]
    elif split != "validation":
      missing = "/".join(names)
      raise errors.data(f"no file {missing} in {path}; expected {source.expected}")
  if not tables:
    raise errors.data(f"no file {'/'.join(source.single)} in {path}; expected {source.expected}")
  return tables


def _read_file(source: Source, path: pathlib.Path) -> Rows:
  """Reads a file; labels that AI2 publishes in a separate file become the field "label"."""
  if path.suffix == ".xml":
    return str(path), sources.read_xml(path, "Problem", expected=source.expected)
  rows = sources.read_rows(path, expected=source.expected)
  labels_file = path.with_name(f"{path.stem}-labels.lst")
  if labels_file.is_file():
    labels = sources.read_lines(labels_file)
    if len(labels) != len(rows):
      raise errors.data(
        f"{labels_file}: {len(labels)} labels for the {len(rows)} rows of {path.name}"
      )
    rows = [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]
  return str(path), rows
