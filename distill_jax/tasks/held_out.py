"""Splits of the questions of your own file: which are held out, and how many."""

import dataclasses
from collections.abc import Mapping, Sequence

from distill_jax import errors, records
from distill_jax.tasks import published, texts

VALIDATION_SHARE = 0.2  # largest share of the training questions that is held out


def make_splits(
  problems: dict[str, list[records.Problem]],
  limits: Mapping[str, int],
  notes: list[str],
  source: str,
) -> dict[str, list[records.Problem]]:
  """Makes train, validation and test, each in file order.

  Args:
    problems: The problems of each split; "" for data without splits.
    limits: Limit of each split; 0 for none (validation: none held out). One that is too large is
      clipped.
    notes: Receives what was decided.
    source: Names the data in errors.

  Raises:
    errors.UserError: There are too few questions.
  """
  train = problems.get("train") or problems.get("") or []
  validation, test = problems.get("validation"), problems.get("test")
  if not train:
    notes.append(f"no training split: the {'validation' if validation else 'test'} split is used")
    train, validation = validation or test or [], None
    train = [dataclasses.replace(p, split="train") for p in train]
    test = test if problems.get("validation") else None
  if validation and not test:
    test, validation = validation, None
    notes.append("no test split: the validation split is the test split")
  if not test:
    if len(train) < 3:
      raise errors.data(f"{source}: usable questions: {len(train)}; at least 3 are needed to split")
    count = max(1, round(published.TEST_SHARE * len(train)))
    train, test = _hold_out(train, count, "test")
  held = {_key(p) for p in [*test, *(validation or [])]}
  both = [p for p in train if _key(p) in held]
  if both:
    notes.append(
      f"{len(both)} training questions are also in test or validation and are left out of training"
      f" (first {both[0].question[:60]!r})"
    )
    train = [p for p in train if _key(p) not in held]
  if validation:
    validation = _limited(validation, "validation", limits, notes)
  elif len(train) < 2:
    raise errors.data(f"{source}: {len(train)} training questions; at least 2 are needed")
  else:
    most = max(1, int(VALIDATION_SHARE * len(train)))
    count = min(limits["validation"], most)
    if count < limits["validation"]:
      notes.append(
        f"task.validation is {count} instead of {limits['validation']}: a fifth of the training"
        " questions"
      )
    train, validation = _hold_out(train, count, "validation") if count else (train, [])
  train = _limited(train, "train", limits, notes)
  test = _limited(test, "test", limits, notes)
  return {"train": train, "validation": validation, "test": test}


def _key(problem: records.Problem) -> str:
  """A question with its options, without differences in space, case and punctuation."""
  return texts.normalize(" ".join([problem.question, *(text for _, text in problem.choices)]))


def _by_hash(problems: Sequence[records.Problem]) -> list[records.Problem]:
  """The problems in an order that their text alone decides."""
  return sorted(problems, key=lambda p: (published.hash_position(_key(p)), p.id))


def _hold_out(
  problems: Sequence[records.Problem], count: int, split: str
) -> tuple[list[records.Problem], list[records.Problem]]:
  """(the rest, `count` problems for a split), chosen by their text; copies stay together."""
  chosen = {_key(p) for p in _by_hash(problems)[-count:]}
  held = [dataclasses.replace(p, split=split) for p in problems if _key(p) in chosen]
  return [p for p in problems if _key(p) not in chosen], held


def _limited(
  problems: list[records.Problem], name: str, limits: Mapping[str, int], notes: list[str]
) -> list[records.Problem]:
  """At most so many problems as a limit allows; a limit above what there is, is noted."""
  limit = limits[name]
  if limit > len(problems) and name != "validation":
    notes.append(f"task.{name} is {len(problems)} instead of {limit}: there are no more questions")
  if not limit or limit >= len(problems):
    return problems
  kept = {p.id for p in _by_hash(problems)[-limit:]}
  return [p for p in problems if p.id in kept]
