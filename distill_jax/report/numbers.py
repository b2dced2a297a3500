"""The numbers of a report, counted from the records of a run."""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from distill_jax import records, summary
from distill_jax.data import statistics
from distill_jax.report.load import Phase, Run
from distill_jax.runtime import results

# Reasons for which a reply is dropped, by how far it got. All others are failed requests.
UNREADABLE = ("malformed", "no_answer")
WRONG = ("wrong_answer", "overruled")
REPEATED = ("no_reasoning", "duplicate", "no_rationale")


@dataclasses.dataclass(frozen=True)
class Difference:
  """A paired difference of accuracies on the same questions.

  Attributes:
    mean: Difference as a share of the questions.
    low: Lower end of its 95 % bootstrap interval.
    high: Upper end.
    gained: Questions that were wrong before and are right now.
    lost: The reverse.
    p: Exact two-sided McNemar test.
    n: Questions.
  """

  mean: float
  low: float
  high: float
  gained: int
  lost: int
  p: float
  n: int


def difference(now: Mapping[str, bool], before: Mapping[str, bool]) -> Difference | None:
  """Compares verdicts on the questions that both have; None without such questions."""
  shared = [question for question in now if question in before]
  if not shared:
    return None
  changes = np.array([[int(now[q]) - int(before[q]) for q in shared]], np.float64)
  low, high = statistics.bootstrap(changes)
  gained, lost = int((changes > 0).sum()), int((changes < 0).sum())
  p = statistics.mcnemar(gained, lost)
  return Difference(float(changes.mean()), low, high, gained, lost, p, len(shared))


def accuracy(verdicts: Mapping[str, bool]) -> dict[str, Any]:
  """Returns accuracy, correct, low, high (95 % Wilson interval) and n, as the summary has them."""
  return results.scores(list(verdicts.values()))


def row(run: Run, index: int) -> dict[str, Any]:
  """Returns a round as summary.json has it; what is not finished is None or 0."""
  exam, before = run.phase(index, "exam"), run.phase(index - 1, "evaluate")
  flawless = exam and before and all(attempt.correct for attempt in exam.attempts)
  no_mistakes = bool(flawless and not run.phase(index, "evaluate"))
  return summary.row(run.directory, index, no_mistakes=no_mistakes)


def teacher_use(phases: Iterable[Phase]) -> dict[str, Any]:
  """Returns calls, cache_hits, tokens and dollars of some phases."""
  return results.sum_by_key([results.NO_USE, *(p.facts.get("teacher", {}) for p in phases)])


def dropped(phases: Iterable[Phase]) -> dict[str, int]:
  """Returns how many replies were dropped, by reason."""
  return results.sum_by_key([phase.facts.get("dropped", {}) for phase in phases])


def flow(kept: int, reasons: Mapping[str, int]) -> dict[str, int]:
  """Returns how many requested rationales got how far: asked, replied, readable, right, kept."""
  of = collections.Counter(dict(reasons))
  repeated, wrong = sum(of[r] for r in REPEATED), sum(of[r] for r in WRONG)
  unreadable, total = sum(of[r] for r in UNREADABLE), sum(of.values())
  right = kept + repeated
  return {
    "asked": kept + total,
    "replied": right + wrong + unreadable,
    "readable": right + wrong,
    "right": right,
    "kept": kept,
  }


def curves(run: Run) -> tuple[dict[str, list[tuple[float, float]]], list[tuple[float, str]]]:
  """Returns the training metrics of all rounds in one sequence of steps.

  Returns:
    ({metric: [(step, value)]}, [(first step, label)] of the training phases). Metrics of a second
    student are named after it.
  """
  found: dict[str, list[tuple[float, float]]] = {}
  starts: list[tuple[float, str]] = []
  offset = 0
  names = [f.name for f in dataclasses.fields(records.Metrics) if f.name not in ("step", "student")]
  for index, phases in run.rounds.items():
    for phase in (p for p in phases if p.metrics):
      starts.append((offset, f"{index} {phase.name}"))
      students = list(dict.fromkeys(m.student for m in phase.metrics))
      for metrics in phase.metrics:
        suffix = f" ({metrics.student})" if len(students) > 1 else ""
        for name in names:
          value = getattr(metrics, name)
          if value is not None and math.isfinite(value):
            found.setdefault(f"{name}{suffix}", []).append((offset + metrics.step, value))
      offset += max(m.step for m in phase.metrics)
  return found, starts


@dataclasses.dataclass(frozen=True)
class Group:
  """A group of questions: what it is grouped by, its name, and the ids of its questions."""

  by: str
  name: str
  ids: frozenset[str]


def groups(run: Run, split: str) -> list[Group]:
  """Returns the questions of a split by subject, answer kind, number of steps and length.

  A way of grouping that has a single group is left out.
  """
  chosen = {q.id: q for q in run.questions.values() if q.split == split}
  lengths = sorted(len(q.question.split()) for q in chosen.values())
  cuts = [lengths[len(lengths) * k // 3] for k in (1, 2)] if lengths else []
  ways: dict[str, Callable[[records.Question], str]] = {
    "skill": lambda q: _subject(q),
    "kind": lambda q: q.kind,
    "steps": lambda q: f"{len(q.decomposition)}" if q.decomposition else "",
    "length": lambda q: _length(len(q.question.split()), cuts),
  }
  found: list[Group] = []
  for by, name_of in ways.items():
    members: dict[str, set[str]] = {}
    for question in chosen.values():
      if name := name_of(question):
        members.setdefault(name, set()).add(question.id)
    if 1 < len(members) <= 20:
      found += [Group(by, name, frozenset(members[name])) for name in sorted(members, key=_natural)]
  return found


def _subject(question: records.Question) -> str:
  """Returns the parts of an id between its task and its number, without its split."""
  parts = [part for part in question.id.split("/")[1:-1] if part != question.split]
  return "/".join(parts)


def _length(words: int, cuts: Sequence[int]) -> str:
  if words < cuts[0]:
    return f"under {cuts[0]} words"
  return f"{cuts[0]} to {cuts[1]} words" if words <= cuts[1] else f"over {cuts[1]} words"


def _natural(name: str) -> tuple[int, str]:
  order = {"under": 0, "over": 2}.get(name.split(" ")[0], 1)
  return (int(name) if name.isdecimal() else order, name)


@dataclasses.dataclass(frozen=True)
class Health:
  """What went wrong in a set of attempts.

  Attributes:
    n: Attempts.
    cut: They reached the limit of tokens.
    unread: No answer could be read.
    repeated: They have the text of another attempt at the same question.
  """

  n: int
  cut: int
  unread: int
  repeated: int


def health(attempts: Sequence[records.Attempt]) -> Health:
  """Counts what went wrong in attempts."""
  distinct = len({(a.problem, a.style, a.stage, a.text) for a in attempts})
  return Health(
    n=len(attempts),
    cut=sum(a.finish != "stop" for a in attempts),
    unread=sum(a.answer is None for a in attempts),
    repeated=len(attempts) - distinct,
  )


def fits(phase: Phase) -> tuple[int, int]:
  """Returns the rows of a phase that trains or pairs, and how many of them did not fit."""
  left_out = phase.facts.get("too_long", 0)
  rows = phase.facts.get("examples", phase.facts.get("pairs", 0))
  return (rows + left_out if phase.name == "pair" else rows), left_out  # pair counts the rest only


def changed_settings(
  config: Mapping[str, Any], other: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
  """Returns (dotted key, value, other value) of the settings that differ."""
  mine, theirs = _flat(config), _flat(other)
  return [
    (key, mine.get(key), theirs.get(key))
    for key in sorted(mine.keys() | theirs.keys())
    if mine.get(key) != theirs.get(key)
  ]


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
  if not isinstance(tree, Mapping) or (prefix and not tree):
    return {prefix: tree}
  found: dict[str, Any] = {}
  for name, part in tree.items():
    found |= _flat(part, f"{prefix}.{name}" if prefix else name)
  return found
