"""The results of a sweep: accuracy and paired difference per row and split, and verdicts on claims.

A pair is (seed, question). Two rows are paired on the seeds that both have finished, if they are
evaluated on the same questions. Intervals resample both seeds and questions (data/statistics.py).
McNemar's test treats all pairs as independent, so it is overconfident, compared with the interval,
where a seed affects many questions at once.

Shape suffixes: S seeds, N questions.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill_jax import errors, plan, records
from distill_jax.ablations.sweep import Claim, PlannedRun, Sweep, question_settings
from distill_jax.data import statistics
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import results

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"

Verdicts = dict[str, bool]  # {problem: correct?}


@dataclasses.dataclass(frozen=True)
class Measured:
  """What a finished run contributes to a table.

  Attributes:
    verdicts: By split. A split that was not evaluated is missing.
    questions: By split, the settings that select its questions, and the digest of the questions,
      as the data of a path may change. Two rows are paired only if these are equal.
    costs: Teacher replies used (paid or cached), steps and seconds.
  """

  verdicts: Mapping[str, Verdicts]
  questions: Mapping[str, Any]
  costs: Mapping[str, float]


def build(sweep: Sweep, planned: Sequence[PlannedRun]) -> dict[str, Any]:
  """Returns the table of the finished runs (see `tabulate`), counted from their records.

  Every file of these runs is compared with its digest first, once in this process.

  Raises:
    UserError: A file of a run is damaged.
  """
  done = [run for run in planned if run.finished]
  return tabulate(sweep, {(run.row, run.seed): measure(run, sweep.splits) for run in done})


def measure(run: PlannedRun, splits: Sequence[str]) -> Measured:
  """Returns what a finished run contributes to a table.

  Raises:
    UserError: A file of the run is damaged.
  """
  RunDir(run.run_dir).verify()
  found = {split: read_verdicts(run.run_dir, split) for split in splits}
  return Measured(
    {split: verdicts for split, verdicts in found.items() if verdicts},
    {split: (question_settings(run.config, split), _digest(run, split)) for split in splits},
    costs(run.run_dir),
  )


def _digest(run: PlannedRun, split: str) -> str:
  """The digest of the questions of a split; "" if it was not evaluated."""
  phase = RunDir(run.run_dir).final(split)
  return phase.facts[results.MEASURED].get("data", "") if phase.finished else ""


def tabulate(sweep: Sweep, measured: Mapping[tuple[str, int], Measured]) -> dict[str, Any]:
  """Returns the table of a sweep.

  Args:
    sweep: Its rows, base, seeds, splits and claims.
    measured: The finished runs by row and seed.

  Returns:
    {"rows": [{row, overrides, seeds, missing, replies, steps, seconds, splits}], "claims": [...]},
    where `splits` maps each split to its accuracy and difference, or to None. Replies, steps and
    seconds are means over seeds; without a run, they are missing.
  """
  rows = []
  for row, overrides in sweep.rows.items():
    runs = {seed: measured[row, seed] for seed in sweep.seeds if (row, seed) in measured}
    splits = {}
    for split in sweep.splits:
      own = _by_seed(measured, row, sweep.seeds, split)
      change = None if row == sweep.base else _paired(measured, row, sweep.base, sweep.seeds, split)
      splits[split] = {**accuracy(own), "difference": change} if own else None
    rows.append(
      {
        "row": row,
        "overrides": overrides,
        "seeds": list(runs),
        "missing": [seed for seed in sweep.seeds if seed not in runs],
        **_means([run.costs for run in runs.values()]),
        "splits": splits,
      }
    )
  claims = [judge(claim, measured, sweep.seeds) for claim in sweep.claims]
  return {"rows": rows, "claims": claims}


def _by_seed(
  measured: Mapping[tuple[str, int], Measured], row: str, seeds: Sequence[int], split: str
) -> dict[int, Verdicts]:
  """{seed: verdicts} of a row, for the seeds that were evaluated on the split.

  Raises:
    UserError: The data have changed between these runs.
  """
  runs = {seed: measured[row, seed] for seed in seeds if (row, seed) in measured}
  runs = {seed: run for seed, run in runs.items() if split in run.verdicts}
  asked = [(seed, run.questions.get(split)) for seed, run in runs.items()]
  for seed, questions in asked[1:]:
    if questions != asked[0][1]:
      raise errors.data(
        f"row {row}: the {split} questions of seed {seed} are not those of seed {asked[0][0]}, as"
        " the data have changed: restore them, remove the runs with other data, and re-run"
      )
  return {seed: run.verdicts[split] for seed, run in runs.items()}


def _paired(
  measured: Mapping[tuple[str, int], Measured],
  row: str,
  base: str,
  seeds: Sequence[int],
  split: str,
) -> dict[str, Any] | None:
  """The difference of two rows; None if no seed has both, or if their questions differ."""
  own, other = (_by_seed(measured, name, seeds, split) for name in (row, base))
  pairs = [(measured[row, seed], measured[base, seed]) for seed in own if seed in other]
  if any(one.questions.get(split) != two.questions.get(split) for one, two in pairs):
    return None
  return difference(own, other)


def read_verdicts(run_dir: pathlib.Path, split: str) -> Verdicts:
  """Returns {problem: correct?} of a finished run on a split; {} if it was not evaluated.

  Raises:
    UserError: The file is invalid, or the test was run with weights other than its round's.
  """
  phase = RunDir(run_dir).final(split)
  if not phase.finished:
    return {}
  measured = phase.facts[results.MEASURED]
  if measured["weights"] != results.weights(RunDir(run_dir), measured["round"]):
    raise errors.data(
      f"{phase.path} was measured with weights other than those of round {measured['round']}; "
      f"remove {phase.path} and re-run"
    )
  verdicts: Verdicts = {}
  for number, row in enumerate(phase.rows(results.VERDICTS, records.Verdict), 1):
    if row.problem in verdicts:
      where = f"{phase.path / results.VERDICTS}:{number}"
      raise errors.data(f"{where}: a second verdict on {row.problem}; remove the wrong one")
    verdicts[row.problem] = row.correct
  return verdicts


def costs(run_dir: pathlib.Path) -> dict[str, float]:
  """Returns the teacher replies that a run used (paid or cached), its steps and its seconds."""
  run = RunDir(run_dir)
  phases = [p for p in run.phases() if p.finished]
  use = [p.facts["teacher"] for p in phases if "teacher" in p.facts]
  trained = [p for p in phases if p.path.name.partition("_")[2] in plan.TRAINERS]
  return {
    "replies": sum(u["calls"] + u["cache_hits"] for u in use),
    "steps": sum(results.training(p)["steps"] for p in trained),
    "seconds": run.seconds,
  }


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
  names = rows[0] if rows else ()
  return {name: round(math.fsum(row[name] for row in rows) / len(rows), 1) for name in names}


def accuracy(verdicts: dict[int, Verdicts]) -> dict[str, Any]:
  """Returns the mean accuracy, its 95 % interval, and the standard deviation over seeds.

  The standard deviation ("sd") is None for a single seed.
  """
  correct_SN, questions = verdict_matrix(verdicts)
  by_seed_S = correct_SN.mean(axis=1)
  low, high = statistics.bootstrap(correct_SN)
  return {
    "mean": float(correct_SN.mean()),
    "sd": float(by_seed_S.std(ddof=1)) if len(by_seed_S) > 1 else None,
    "low": low,
    "high": high,
    "n": len(questions),
    "by_seed": {str(seed): float(m) for seed, m in zip(verdicts, by_seed_S, strict=True)},
  }


def difference(own: dict[int, Verdicts], base: dict[int, Verdicts]) -> dict[str, Any] | None:
  """Compares two rows on the same questions, over the seeds that both have.

  Returns:
    The mean of own - base, its 95 % interval, McNemar's p, and the numbers of seeds and questions.
    None if the rows have no seed in common.
  """
  seeds = [seed for seed in own if seed in base]
  if not seeds:
    return None
  own_SN, own_questions = verdict_matrix({s: own[s] for s in seeds})
  base_SN, base_questions = verdict_matrix({s: base[s] for s in seeds})
  if own_questions != base_questions:
    raise errors.data("rows with the same world have different questions: a run is damaged")
  change_SN = own_SN - base_SN
  low, high = statistics.bootstrap(change_SN)
  gained, lost = int((change_SN > 0).sum()), int((change_SN < 0).sum())
  return {
    "mean": float(change_SN.mean()),
    "low": low,
    "high": high,
    "gained": gained,
    "lost": lost,
    "p": statistics.mcnemar(gained, lost),
    "seeds": len(seeds),
    "n": len(own_questions),
  }


def verdict_matrix(verdicts: dict[int, Verdicts]) -> tuple[np.ndarray, list[str]]:
  """Returns (verdicts as float64 [S, N], the questions).

  Raises:
    UserError: The seeds were evaluated on different questions.
  """
  questions = sorted(next(iter(verdicts.values())))
  for seed, found in verdicts.items():
    if sorted(found) != questions:
      raise errors.data(f"seed {seed} has different questions than the seeds before it")
  rows = [[found[question] for question in questions] for found in verdicts.values()]
  return np.array(rows, np.float64), questions


def judge(
  claim: Claim, measured: Mapping[tuple[str, int], Measured], seeds: Sequence[int]
) -> dict[str, Any]:
  """Returns the fields of a claim, with its effect and verdict."""
  effect = _paired(measured, claim.better, claim.worse, seeds, claim.split)
  return {
    **{name: getattr(claim, name) for name in claim.__dataclass_fields__},
    "effect": effect,
    "missing": len(seeds) - (effect["seeds"] if effect else 0),
    "verdict": verdict(effect, claim.smallest),
  }


def verdict(effect: dict[str, Any] | None, smallest: float) -> str:
  """Returns the verdict on a claim.

  It holds if the interval is above 0. It does not hold if the interval is at or below 0, or ends
  below the smallest effect of interest. Otherwise it is undecided; without an effect, not run.
  """
  if effect is None:
    return NOT_RUN
  if effect["low"] > 0:
    return HOLDS
  return FAILS if effect["high"] <= 0 or effect["high"] < smallest else UNDECIDED
