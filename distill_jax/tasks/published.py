"""From published rows to splits: a real validation split, and limits that are no mere prefix."""

import dataclasses
import hashlib

from distill_jax import errors, records


def place(question: str) -> int:
  """Where a question stands in the fixed, seemingly random order of all questions."""
  bare = " ".join(question.split()).encode("utf-8", "surrogatepass")
  return int.from_bytes(hashlib.sha256(b"distill_jax\n" + bare).digest()[:8], "big")


def hashed_order(problems: list[records.Problem]) -> list[records.Problem]:
  return sorted(problems, key=lambda problem: (place(problem.question), problem.id))


def splits(
  training: list[records.Problem],
  testing: list[records.Problem],
  *,
  validation: int,
  train: int,
  test: int,
) -> dict[str, list[records.Problem]]:
  """The splits, each in the order of its file.

  `validation` questions of the training file are held back, chosen by their text alone, copies
  of a question together (so that there may be a few more). `train` and `test` are limits, 0 for
  all; which questions they keep does not depend on the order of the file. Raises errors.Refusal.
  """
  for name, value in (("validation", validation), ("train", train), ("test", test)):
    if value < 0:
      raise errors.config(f"task.{name}", value, "0 or more questions")
  if validation >= len(training):
    allowed = f"fewer than the {len(training)} training questions"
    raise errors.config("task.validation", validation, allowed)
  ordered = hashed_order(training)
  edge = place(ordered[validation - 1].question) if validation else -1
  held = {problem.id for problem in ordered if place(problem.question) <= edge}
  rest = [problem for problem in training if problem.id not in held]
  return {
    "train": _limited(rest, train),
    "validation": [_moved(problem) for problem in training if problem.id in held],
    "test": _limited(testing, test),
    "out_of_domain": [],
  }


def _limited(problems: list[records.Problem], limit: int) -> list[records.Problem]:
  """A stable subset: a larger limit keeps all that a smaller one keeps, and as it counts from the
  end where validation is not cut, the size of the validation split does not change it."""
  if not limit or limit >= len(problems):
    return problems
  kept = {problem.id for problem in hashed_order(problems)[-limit:]}
  return [problem for problem in problems if problem.id in kept]


def _moved(problem: records.Problem) -> records.Problem:
  return dataclasses.replace(problem, split="validation")
