"""The results of a run's phases, counted from their records.

The manifest of a phase repeats some of these numbers, but it is not their source: the numbers that
are shown, compared and exported come from the records. Only the use of the teacher and the reasons
for dropped replies are not in the records; they are read from the manifest.
"""

import itertools
import json
from collections.abc import Sequence
from typing import Any

from distill_jax import disk, errors, plan, records, together
from distill_jax.data import statistics
from distill_jax.run_dir import phase_dir
from distill_jax.run_dir.phase_dir import PhaseDir
from distill_jax.run_dir.run_dir import RunDir

VERDICTS, PAIRS, CONTRASTS = "verdicts.jsonl", "pairs.jsonl", "contrasts.jsonl"
METRICS = "metrics.jsonl"
NO_USE = {"calls": 0, "cache_hits": 0, "tokens": 0, "dollars": 0.0}  # of the teacher
CUT_ALARM = 0.05  # a run warns if at least this share of attempts is cut off
FALLING = 5  # consecutive metrics rows with a falling log-probability of the chosen sides
MEASURED = "measured"  # fact of an evaluation: the round, weights, data and settings it is about


@together.on_first
def exam(phase: PhaseDir) -> dict[str, Any]:
  """Returns accuracy, n and mistakes over all attempts of an exam."""
  verdicts = _verdicts(phase, phase_dir.ATTEMPTS)
  correct = sum(verdicts)
  return {
    "accuracy": correct / max(len(verdicts), 1),
    "n": len(verdicts),
    "mistakes": len(verdicts) - correct,
  }


@together.on_first
def evaluation(phase: PhaseDir) -> dict[str, Any]:
  """Returns accuracy, correct, low, high (95% Wilson interval) and n of an evaluation."""
  return scores(_verdicts(phase, VERDICTS))


def scores(verdicts: list[bool]) -> dict[str, Any]:
  """Returns accuracy, correct, low, high (95% Wilson interval) and n of verdicts."""
  correct, n = sum(verdicts), len(verdicts)
  low, high = statistics.wilson(correct, n)
  return {"accuracy": correct / max(n, 1), "correct": correct, "n": n, "low": low, "high": high}


def is_falling(chosen: Sequence[float]) -> bool:
  """Returns whether the chosen log-probability fell in each of the last rows, below its first."""
  last = chosen[-FALLING - 1 :]
  decreasing = all(b < a for a, b in itertools.pairwise(last))
  return len(last) > FALLING and decreasing and last[-1] < chosen[0]


def _verdicts(phase: PhaseDir, name: str) -> list[bool]:
  """Returns the field `correct` of each row, without reading its other fields."""
  verdicts: list[bool] = []
  for number, line in enumerate(_lines(phase, name), 1):
    try:
      verdicts.append(json.loads(line)["correct"] is True)
    except (ValueError, KeyError, TypeError, RecursionError):
      raise errors.data(f"{phase.path / name}:{number}: no verdict; restore the file") from None
  return verdicts


@together.on_first
def count(phase: PhaseDir, name: str) -> int:
  """Returns the number of records in a file of a phase."""
  return len(_lines(phase, name))


def _lines(phase: PhaseDir, name: str) -> list[bytes]:
  file = phase.path / name
  with phase_dir.report_os_errors(file):
    return disk.read_bytes(file).split(b"\n")[:-1] if file.exists() else []


@together.on_first
def training(phase: PhaseDir) -> dict[str, Any]:
  """Returns steps (the sum over students) and loss (their mean, at the end; None without steps)."""
  last = {row.student: row for row in phase.rows(METRICS, records.Metrics)}
  losses = [row.loss for row in last.values()]
  return {
    "steps": sum(row.step for row in last.values()),
    "loss": sum(losses) / len(losses) if losses else None,
  }


@together.on_first
def teacher_use(phases: dict[str, PhaseDir]) -> dict[str, Any]:
  """Returns calls, cache_hits, tokens and dollars of the teacher in some phases."""
  used = [phase.facts.get("teacher", {}) for name, phase in phases.items() if name in plan.WRITERS]
  return sum_by_key([NO_USE, *used])


def sum_by_key(parts: list[dict[str, Any]]) -> dict[str, Any]:
  """Adds up dictionaries key by key."""
  total: dict[str, Any] = {}
  for part in parts:
    for name, value in part.items():
      total[name] = total.get(name, 0) + value
  return total


@together.on_first
def weights(run_dir: RunDir, round_index: int) -> dict[str, str]:
  """Returns {student: digest of its weights} at the end of a round; {} for the base."""
  for index in range(round_index, -1, -1):
    for name, phase in reversed(run_dir.finished(index).items()):
      if name in plan.TRAINERS and phase.facts["steps"] > 0:
        return phase.facts["weights"]
  return {}


@together.on_first
def final(run_dir: RunDir, split: str, round_index: int) -> dict[str, Any] | None:
  """Returns the scores of a round's student in the final test; None if it was not tested."""
  phase = run_dir.final(split)
  if not phase.finished:
    return None
  measured = phase.facts[MEASURED]
  of = (round_index, weights(run_dir, round_index))
  return evaluation(phase) if (measured["round"], measured["weights"]) == of else None
