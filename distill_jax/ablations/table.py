"""What a sweep has come to: for each row and split its share of right answers, and the paired
difference to the base row; for each claim its verdict.

Pairs are (seed, question): two rows that were asked the same questions, by the seeds that both have
finished. Intervals resample seeds and questions (data/statistics.py); McNemar's test counts all
pairs as if each stood for itself, and so is surer than the interval where a seed moves many
questions at once.
"""

import json
import pathlib
import statistics

import numpy as np

from distill_jax import errors
from distill_jax.ablations import sweep as sweeps
from distill_jax.data import statistics as intervals

VERDICTS = ("verdicts.jsonl", "attempts.jsonl")  # the first that is there says what was right
HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"


def read(sweep, planned) -> dict:
  """The table of the runs that are finished: {rows: [{row, overrides, seeds, missing, replies,
  steps, seconds, splits: {split: share and difference, or None}}], claims: [...]}."""
  done = {(p.row, p.seed): p for p in planned if p.finished}
  configs = {p.row: p.config for p in planned}
  marks = {
    (row, seed, split): verdicts(p.folder, split)
    for (row, seed), p in done.items()
    for split in sweep.splits
  }
  rows = []
  for row, overrides in sweep.rows.items():
    mine = {seed: done[row, seed] for seed in sweep.seeds if (row, seed) in done}
    splits = {}
    for split in sweep.splits:
      own = {seed: found for seed in mine if (found := marks[row, seed, split])}
      base = {s: found for s in sweep.seeds if (found := marks.get((sweep.base, s, split)))}
      alike = row != sweep.base and sweeps.same_questions(configs[row], configs[sweep.base], split)
      against = difference(own, base) if alike else None
      splits[split] = {**share(own), "difference": against} if own else None
    rows.append(
      {
        "row": row,
        "overrides": overrides,
        "seeds": list(mine),
        "missing": [seed for seed in sweep.seeds if seed not in mine],
        **costs([p.folder for p in mine.values()]),
        "splits": splits,
      }
    )
  return {"rows": rows, "claims": [judged(c, marks, configs, sweep.seeds) for c in sweep.claims]}


def verdicts(folder, split: str) -> dict[str, bool]:
  """{problem: was it answered right?} of a finished run on a split; {} if it was not asked.

  Raises UserError if a question has several attempts and nothing says what they come to.
  """
  here = pathlib.Path(folder) / "final" / split
  if not (here / "manifest.json").exists():
    return {}
  file = next((f for name in VERDICTS if (f := here / name).exists()), None)
  if file is None:
    return {}
  found = {}
  for number, text in enumerate(file.read_text("ascii").splitlines(), 1):
    try:
      row = json.loads(text)
      problem, correct = row["problem"], row["correct"]
    except (ValueError, KeyError, TypeError):
      raise errors.data(f"{file}:{number}: no verdict; remove {here} and run again") from None
    if problem in found:
      raise errors.data(f"{file}:{number}: a second verdict on {problem}: which one counts?")
    found[problem] = bool(correct)
  return found


def costs(folders) -> dict:
  """Means over runs: the teacher's replies used (paid or cached), updates, seconds; {} of none."""
  if not folders:
    return {}
  summaries = [json.loads((f / "summary.json").read_bytes()) for f in folders]
  replies = [
    sum(r["teacher"]["calls"] + r["teacher"]["cache_hits"] for r in s["rounds"]) for s in summaries
  ]
  steps = [sum(r["steps"] for r in s["rounds"]) for s in summaries]
  means = {"replies": replies, "steps": steps, "seconds": [s["seconds"] for s in summaries]}
  return {name: round(statistics.fmean(values), 1) for name, values in means.items()}


def share(marks: dict[int, dict]) -> dict:
  """Of {seed: verdicts}: mean, interval, and standard deviation over seeds (None of one)."""
  values_SN, items = matrix(marks)
  by_seed = values_SN.mean(axis=1)
  low, high = intervals.bootstrap(values_SN)
  return {
    "mean": float(values_SN.mean()),
    "sd": float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None,
    "low": low,
    "high": high,
    "n": len(items),
    "by_seed": {str(seed): float(m) for seed, m in zip(marks, by_seed, strict=True)},
  }


def difference(own: dict[int, dict], base: dict[int, dict]) -> dict | None:
  """Of two rows on the same questions, over the seeds both have: mean of own - base, its interval,
  McNemar's p, seeds and questions; None without a seed in common."""
  seeds = [seed for seed in own if seed in base]
  if not seeds:
    return None
  ours_SN, items = matrix({s: own[s] for s in seeds})
  theirs_SN, same = matrix({s: base[s] for s in seeds})
  if items != same:
    raise errors.data("rows of one world were asked different questions: their runs are damaged")
  change_SN = ours_SN - theirs_SN
  low, high = intervals.bootstrap(change_SN)
  gained, lost = int((change_SN > 0).sum()), int((change_SN < 0).sum())
  return {
    "mean": float(change_SN.mean()),
    "low": low,
    "high": high,
    "gained": gained,
    "lost": lost,
    "p": intervals.mcnemar(gained, lost),
    "seeds": len(seeds),
    "n": len(items),
  }


def matrix(marks: dict[int, dict]) -> tuple[np.ndarray, list[str]]:
  """(verdicts, a row a seed and a column a question; the questions). Raises UserError if seeds were
  asked different ones."""
  items = sorted(next(iter(marks.values())))
  for seed, found in marks.items():
    if sorted(found) != items:
      raise errors.data(f"seed {seed} was asked other questions than the seeds before it")
  return np.array([[found[i] for i in items] for found in marks.values()], np.float64), items


def judged(claim, marks, configs, seeds) -> dict:
  """A claim with its effect and verdict."""
  of = lambda row: {s: found for s in seeds if (found := marks.get((row, s, claim.split)))}
  out = {name: getattr(claim, name) for name in claim.__dataclass_fields__}
  effect = None
  if sweeps.same_questions(configs[claim.better], configs[claim.worse], claim.split):
    effect = difference(of(claim.better), of(claim.worse))
  missing = len(seeds) - (effect["seeds"] if effect else 0)
  return {**out, "effect": effect, "missing": missing, "verdict": verdict(effect, claim.smallest)}


def verdict(effect: dict | None, smallest: float) -> str:
  """Holds: the interval is above 0. Does not hold: it is at or below 0, or ends below the smallest
  effect of interest. Otherwise undecided; without an effect, not run."""
  if effect is None:
    return NOT_RUN
  if effect["low"] > 0:
    return HOLDS
  return FAILS if effect["high"] <= 0 or effect["high"] < smallest else UNDECIDED
