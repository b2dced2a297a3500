"""From published files to a task: which file is which split, a real validation split, and limits
that are no mere prefix."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from distill_jax import errors, records
from distill_jax.data import sources
from distill_jax.tasks import shots, task

TEST_SHARE = 0.3  # of what is published as one file without splits; 700/300 is SVAMP's custom


class Source(NamedTuple):
  """How a data set is published. `problem(row, where)` gives the fields of a records.Problem, or
  None if the row has no answer of the task's kind."""

  problem: Callable[[dict, str], dict | None]
  files: dict[str, tuple[str, ...]]  # split -> names; the first there is counts, * is all of them
  hub: str  # the customary name, with :CONFIG where it has several
  splits: dict[str, str]  # split -> split of the hub; "all": it has but one
  single: tuple[str, ...] = ()  # the one file of a data set without splits
  shots: tuple[tuple[str, str], ...] = shots.NUMBER
  kind: str = "number"

  @property
  def expected(self) -> str:
    whole = ["/".join(self.single)] if self.single else []
    if self.files:
      whole += [" and ".join("/".join(names) for names in self.files.values()) + " in a directory"]
    return " or ".join([*whole, "one file with all questions"])


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
  """The task from its published files or from the hub.

  path: a directory with the files named in `source`, or one file, of which 30 % by hash of the
  question become the test split. hub: NAME or NAME:CONFIG; the custom is `source.hub`.
  validation: training questions held back; where the data set has a validation split of its own,
  that is taken instead, and this is its limit. train, test: limits; 0 is all. Raises
  errors.UserError.
  """
  if bool(path) == bool(hub):
    raise errors.usage(
      f"task {name} needs either --config.task.path=PATH ({source.expected}) or"
      f" --config.task.hub={source.hub}"
    )
  found = {}
  for split, parts in (_hub(source, hub) if hub else _files(source, pathlib.Path(path))).items():
    found[split] = _problems(name, source, split, parts)
  if "all" in found:
    found = _cut(found["all"])
  made = make_splits(**found, limits={"validation": validation, "train": train, "test": test})
  return task.Task(name, lambda split: list(made[split]), source.shots, kind=source.kind)


def hash_position(question: str) -> int:
  """Where a question stands in the fixed, seemingly random order of all questions."""
  bare = " ".join(question.split()).encode("utf-8", "surrogatepass")
  return int.from_bytes(hashlib.sha256(b"distill_jax\n" + bare).digest()[:8], "big")


def hashed_order(problems: list[records.Problem]) -> list[records.Problem]:
  return sorted(problems, key=lambda problem: (hash_position(problem.question), problem.id))


def make_splits(
  train: list[records.Problem],
  test: list[records.Problem],
  validation: list[records.Problem] | None = None,
  *,
  limits: dict[str, int],
) -> dict[str, list[records.Problem]]:
  """The splits, each in the order of its file.

  Without a `validation` split, limits["validation"] questions of the training file are held back,
  chosen by their text alone, copies of a question together (so that there may be a few more).
  Which questions a limit keeps does not depend on the order of the file. Raises errors.UserError.
  """
  for name, value in limits.items():
    if value < 0:
      raise errors.config(f"task.{name}", value, "0 or more questions")
  held = limits["validation"]
  if validation is None and held >= len(train):
    allowed = f"fewer than the {len(train)} training questions"
    raise errors.config("task.validation", held, allowed)
  if validation is None:
    edge = hash_position(hashed_order(train)[held - 1].question) if held else -1
    validation = [_moved(p, "validation") for p in train if hash_position(p.question) <= edge]
    train = [problem for problem in train if hash_position(problem.question) > edge]
  else:
    validation = _limited(validation, held)
  return {
    "train": _limited(train, limits["train"]),
    "validation": validation,
    "test": _limited(test, limits["test"]),
    "out_of_domain": [],
  }


def _limited(problems: list[records.Problem], limit: int) -> list[records.Problem]:
  """A stable subset: a larger limit keeps all that a smaller one keeps, and as it counts from the
  end where validation is not cut, the size of the validation split does not change it."""
  if not limit or limit >= len(problems):
    return problems
  kept = {problem.id for problem in hashed_order(problems)[-limit:]}
  return [problem for problem in problems if problem.id in kept]


def _moved(problem: records.Problem, split: str) -> records.Problem:
  return dataclasses.replace(problem, split=split)


def _cut(whole: list[records.Problem]) -> dict[str, list[records.Problem]]:
  """Train and test of what is published without splits."""
  edge = hash_position(hashed_order(whole)[-max(1, round(TEST_SHARE * len(whole)))].question)
  found = {"train": [], "test": []}
  for problem in whole:
    split = "test" if hash_position(problem.question) >= edge else "train"
    found[split].append(_moved(problem, split))
  return found


def _problems(name: str, source: Source, split: str, parts) -> list[records.Problem]:
  """The problems in (name of the rows, rows) parts. How many are left out is told."""
  found, count = [], 0
  for where, rows in parts:
    for number, row in enumerate(rows, start=1):
      fields = source.problem(row, f"{where}: row {number}")
      if fields is not None:
        named = {"id": f"{name}/{split}/{count}", "split": split, "kind": source.kind}
        found.append(records.Problem(**named, **fields))
      count += 1
  if not found:
    raise errors.data(f"{parts[0][0]}: no question with an answer in it; expected {name}")
  if count > len(found):
    sources.to_stderr(
      f"task {name}: {count - len(found)} of {count} questions of {parts[0][0]} have an answer"
      f" that is no single {source.kind}; they are left out"
    )
  return found


def _hub(source: Source, hub: str) -> dict[str, list]:
  name, _, config = hub.partition(":")
  config = config or source.hub.partition(":")[2]
  return {
    split: [(f"{hub}:{theirs}", sources.load_hub(name, config, theirs))]
    for split, theirs in source.splits.items()
  }


def _files(source: Source, path: pathlib.Path) -> dict[str, list]:
  """split -> [(file, rows)]; {"all": ...} if there is one file without splits."""
  if not path.is_dir():
    return {"all": [_rows(source, path)]}
  for name in source.single:
    if (path / name).is_file():
      return {"all": [_rows(source, path / name)]}
  found = {}
  for split, names in source.files.items():
    there = [files for name in names if (files := sorted(path.glob(name)))]
    if there:
      found[split] = [_rows(source, file) for file in there[0]]
    elif split != "validation":
      missing = "/".join(names)
      raise errors.data(f"no file {missing} in {path}; expected {source.expected}")
  if not found:
    raise errors.data(f"no file {'/'.join(source.single)} in {path}; expected {source.expected}")
  return found


def _rows(source: Source, path: pathlib.Path) -> tuple[str, list[dict]]:
  """A file and its rows; the labels that AI2 publishes in a file beside it become a field."""
  if path.suffix == ".xml":
    return str(path), sources.read_xml(path, "Problem", expected=source.expected)
  rows = sources.read_rows(path, expected=source.expected)
  beside = path.with_name(f"{path.stem}-labels.lst")
  if beside.is_file():
    labels = sources.read_lines(beside)
    if len(labels) != len(rows):
      raise errors.data(f"{beside}: {len(labels)} labels for the {len(rows)} rows of {path.name}")
    rows = [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]
  return str(path), rows
