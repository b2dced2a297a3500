"""The table of the rows that are finished, read from their directories alone."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from benchmarks.real import rows, sittings
from distill_jax.ablations import markdown, sweep, table
from distill_jax.runtime import results

SCORED = {"test": "Test", "also": "Out of domain (ASDiv)"}
LEGEND = """Accuracy in %: mean over seeds [95% CI] ± standard deviation over seeds. Differences are
to the row `{base}`, on the same questions with the same seeds, in percentage points; intervals are
percentiles of 10,000 bootstrap resamples of seeds and questions (PCG64, seed 0), and p is the exact
two-sided McNemar test. Replies (recorded), steps and seconds are means per run.
"""
COSTS = """| row | seed | rate | steps | loss | validation, % | rationales | minutes | peak GiB |
| --- | ---: | ---: | ---: | ---: | --- | --- | ---: | ---: |"""


def build(block: str, runs: pathlib.Path) -> dict[str, Any]:
  """Returns the results of a block in the format of a sweep's table, with `costs` of each run."""
  found = rows.BLOCKS[block]
  swept = sweep.Sweep(
    config="",
    rows={name: row.overrides for name, row in found.rows.items()},
    base=found.base,
    seeds=found.seeds,
    splits=found.splits,
    claims=tuple(
      sweep.Claim(f"{better} over {worse}", better, worse, split)
      for better, worse in found.claims
      for split in found.splits
    ),
  )
  planned = [_stored(block, name, seed, runs) for name in found.rows for seed in found.seeds]
  done = [run for run in planned if run.finished]
  return {
    "title": found.title,
    "base": found.base,
    "splits": found.splits,
    **table.build(swept, planned),
    "costs": [_costs(run) for run in done],
    "machines": sorted({machine for run in done for machine in _machines(run)}),
  }


def _stored(block: str, row: str, seed: int, runs: pathlib.Path) -> sweep.PlannedRun:
  """A run with the config that its directory stores, or that of another seed."""
  parent = runs / "rows" / rows.name_of(block, row)
  own = parent / f"seed_{seed}"
  files = [file / "config.json" for file in (own, *sorted(parent.glob("seed_?")))]
  config = next((json.loads(file.read_text()) for file in files if file.exists()), {})
  return sweep.PlannedRun(row, seed, own, (), config)


def _costs(run: sweep.PlannedRun) -> dict[str, Any]:
  """What a finished run took, and its validation by round."""
  summary, sat = _summary(run), sittings.read(run.run_dir)
  config = summary["config"]
  rate = config["train" if "train" in (*config["opening"], *config["each_round"]) else "prefer"]
  trained = [row for row in summary["rounds"] if row["steps"]]
  return {
    "row": run.row,
    "seed": run.seed,
    "lr": rate["lr"] if trained else None,
    "steps": sum(row["steps"] for row in trained),
    "loss": trained[-1]["loss"] if trained else None,
    "validation": [row["validation"] for row in summary["base"] + summary["rounds"]],
    "kept": sum(row["kept"] for row in summary["rounds"]),
    "dropped": results.sum_by_key([row["dropped"] for row in summary["rounds"]]),
    "minutes": summary["seconds"] / 60,
    "peak_mib": max((sitting["peak_mib"] for sitting in sat), default=None),
  }


def _summary(run: sweep.PlannedRun) -> dict[str, Any]:
  return json.loads((run.run_dir / "summary.json").read_text())


def _machines(run: sweep.PlannedRun) -> Iterator[str]:
  """CPU, cores and versions of each sitting of a run."""
  versions = _summary(run)["versions"]
  named = ", ".join(f"{name} {versions[name]}" for name in ("python", "jax", "flax", "optax"))
  for sitting in sittings.read(run.run_dir):
    yield f"{sitting['cpu']}, {sitting['cores']} of its cores; {named}"


def render(built: dict[str, Any]) -> str:
  """Returns the Markdown of a block."""
  parts = [f"## {built['title']}\n"]
  if built["splits"]:
    parts.append(LEGEND.format(base=built["base"]))
  for split in built["splits"]:
    text = markdown.split_table(built, split)
    parts.append(text.replace(f"## {split}\n", f"### {SCORED[split]}\n"))
  if built["claims"]:
    parts.append(markdown.claims(built["claims"]).replace("## Claims", "### Comparisons"))
  if built["costs"]:
    parts += ["### Training and costs\n", COSTS, *map(_cost_line, built["costs"]), ""]
  parts += [f"Run on {machine}.\n" for machine in built["machines"]]
  return "\n".join(parts)


def _cost_line(cost: dict[str, Any]) -> str:
  validation = ", ".join(f"{100 * v['accuracy']:.1f}" for v in cost["validation"] if v)
  counts = {v["n"] for v in cost["validation"] if v}
  dropped = ", ".join(f"{n} {reason}" for reason, n in cost["dropped"].items())
  cells = (
    cost["row"],
    str(cost["seed"]),
    "" if cost["lr"] is None else f"{cost['lr']:g}",
    str(cost["steps"]),
    "" if cost["loss"] is None else f"{cost['loss']:.3f}",
    f"{validation} (n={', '.join(map(str, counts))})",
    f"{cost['kept']} kept" + (f"; dropped {dropped}" if dropped else ""),
    f"{cost['minutes']:.1f}",
    "" if cost["peak_mib"] is None else f"{cost['peak_mib'] / 1024:.2f}",
  )
  return f"| {' | '.join(cells)} |"
