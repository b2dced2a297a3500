"""GSM8K (Cobbe et al. 2021), github.com/openai/grade-school-math: train.jsonl and test.jsonl."""

import pathlib
import re

from distill_jax import errors, records
from distill_jax.data import sources
from distill_jax.tasks import answers, published, task

_CALCULATOR = re.compile(r"<<[^<>\n]{0,400}>>")


def load(
  *, path: str = "", hub: str = "", validation: int = 0, train: int = 0, test: int = 0
) -> task.Task:
  """The task from a directory with the published files, or from the hub ("openai/gsm8k").

  `validation`: training questions held back. `train`, `test`: limits, 0 for all. Raises
  errors.Refusal.
  """
  if bool(path) == bool(hub):
    raise errors.usage(
      "task gsm8k needs either --config.task.path=DIRECTORY (train.jsonl and"
      " test.jsonl) or --config.task.hub=openai/gsm8k"
    )
  found = {}
  for split in ("train", "test"):
    if hub:
      rows, where = sources.hub(hub, "main", split), f"{hub}:{split}"
    else:
      where = str(pathlib.Path(path) / f"{split}.jsonl")
      rows = sources.rows(where, expected="train.jsonl and test.jsonl of GSM8K in that directory")
    found[split] = [
      problem(row, f"gsm8k/{split}/{index}", split, f"{where}: row {index + 1}")
      for index, row in enumerate(rows)
    ]
  made = published.splits(
    found["train"], found["test"], validation=validation, train=train, test=test
  )
  return task.Task("gsm8k", lambda split: list(made[split]))


def problem(row: dict, name: str, split: str, where: str) -> records.Problem:
  """A published row as a problem; calculator marks are dropped, "#### N" becomes "Answer: N"."""
  question = sources.field(row, "question", (str,), where).strip()
  solution, mark, stated = sources.field(row, "answer", (str,), where).rpartition("####")
  gold = answers.canonical(stated) if mark else None
  if gold is None:
    raise errors.data(f"{where}: field 'answer' has no \"#### NUMBER\" at its end")
  lines = [line.strip() for line in _CALCULATOR.sub("", solution).splitlines() if line.strip()]
  pairs = tuple(tuple(part.strip() for part in line.split(" ** ", 1)) for line in lines)
  socratic = bool(pairs) and all(len(pair) == 2 for pair in pairs)
  told = [pair[1] for pair in pairs] if socratic else lines
  return records.Problem(
    id=name,
    split=split,
    question=question,
    gold=gold,
    rationale="\n".join([*told, f"Answer: {gold}"]),
    decomposition=pairs if socratic else (),
  )
