"""SVAMP (Patel et al. 2021), github.com/arkilpatel/SVAMP: one-step problems, worded to mislead."""

import dataclasses
import pathlib

from distill_jax import errors, records
from distill_jax.data import sources
from distill_jax.tasks import answers, published, task

TEST_SHARE = 0.3  # of the one published file, which has no splits; 700/300 is the custom
EXPECTED = "SVAMP.json, or a directory with train.json and test*.json or with SVAMP.json"


def load(
  *, path: str = "", hub: str = "", validation: int = 0, train: int = 0, test: int = 0
) -> task.Task:
  """The task from its published files, or from the hub ("ChilleD/SVAMP").

  `path`: a directory with train.json and test*.json, or the one published file (or a directory
  with it), of which 30 % by hash of the question are the test split. `validation`: training
  questions held back. `train`, `test`: limits, 0 for all. Raises errors.Refusal.
  """
  if bool(path) == bool(hub):
    raise errors.usage(
      f"task svamp needs either --config.task.path=PATH ({EXPECTED}) or"
      " --config.task.hub=ChilleD/SVAMP"
    )
  if hub:
    found = {
      split: _problems(sources.hub(hub, "", split), split, f"{hub}:{split}")
      for split in ("train", "test")
    }
  else:
    found = _files(pathlib.Path(path))
  made = published.splits(
    found["train"], found["test"], validation=validation, train=train, test=test
  )
  return task.Task("svamp", lambda split: list(made[split]))


def _files(path: pathlib.Path) -> dict[str, list[records.Problem]]:
  single = path / "SVAMP.json" if path.is_dir() else path
  if single.is_file() or not path.is_dir():
    whole = _problems(sources.rows(single, expected=EXPECTED), "all", single)
    return _cut(whole)
  training = _problems(
    sources.rows(path / "train.json", expected=EXPECTED), "train", path / "train.json"
  )
  tests = sorted(path.glob("test*.json"))
  if not tests:
    raise errors.data(f"no file test*.json in {path}; expected {EXPECTED}")
  rows = [row for file in tests for row in sources.rows(file)]
  return {"train": training, "test": _problems(rows, "test", path / "test*.json")}


def _cut(whole: list[records.Problem]) -> dict[str, list[records.Problem]]:
  """Train and test of the one file."""
  ordered = published.hashed_order(whole)
  edge = published.place(ordered[-max(1, round(TEST_SHARE * len(whole)))].question)
  found = {"train": [], "test": []}
  for problem in whole:
    split = "test" if published.place(problem.question) >= edge else "train"
    found[split].append(dataclasses.replace(problem, split=split))
  return found


def _problems(rows: list[dict], split: str, where) -> list[records.Problem]:
  return [
    _problem(row, f"svamp/{split}/{index}", split, f"{where}: row {index + 1}")
    for index, row in enumerate(rows)
  ]


def _problem(row: dict, name: str, split: str, where: str) -> records.Problem:
  """A published row as a problem. The question is body and question joined by a space."""
  body = sources.field(row, "Body", (str,), where).strip()
  question = sources.field(row, "Question", (str,), where).strip()
  gold = answers.canonical(str(sources.field(row, "Answer", (str, int, float), where)))
  if gold is None:
    raise errors.data(f"{where}: field 'Answer' is {row['Answer']!r}, but must be a number")
  return records.Problem(
    id=name, split=split, question=" ".join(f"{body} {question}".split()), gold=gold
  )
