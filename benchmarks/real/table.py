"""The table of the rows that are finished, made from their stored results alone."""

import pathlib
from typing import Any

from benchmarks.real import rows, stored
from distill_jax.ablations import markdown, sweep, table

SCORED = {"test": "Test", "also": "Out of domain (ASDiv)"}
LEGEND = """Accuracy in %: mean over seeds [95% CI] ± standard deviation over seeds. Differences are
to the row `{base}`, on the same questions with the same seeds, in percentage points; intervals are
percentiles of 10,000 bootstrap resamples of seeds and questions (PCG64, seed 0), and p is the exact
two-sided McNemar test. Replies (recorded), steps and seconds (with pauses) are means per run.
"""
COSTS = (
  "| row | seed | rate | steps | loss | validation, % | test, % | rationales | CPU minutes |"
  " peak GiB |\n| --- | ---: | ---: | ---: | ---: | --- | ---: | --- | ---: | ---: |"
)


def build(block: str, directory: pathlib.Path) -> dict[str, Any]:
  """Returns the table of a block in the format of a sweep's, with the stored results as `runs`.

  Args:
    block: Its name.
    directory: The directory of the stored results.
  """
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
  runs = stored.read(block, directory)
  return {
    "title": found.title,
    "base": found.base,
    "splits": found.splits,
    **table.tabulate(swept, {key: stored.measured(run) for key, run in runs.items()}),
    "runs": [{"row": row, **run} for (row, _), run in runs.items()],
    "machines": sorted({machine for run in runs.values() for machine in run["machines"]}),
  }


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
  if built["runs"]:
    parts += ["### Training and costs\n", COSTS, *map(_cost_line, built["runs"]), ""]
  parts += [f"Run on {machine}.\n" for machine in built["machines"]]
  return "\n".join(parts)


def _cost_line(run: stored.Stored) -> str:
  validation = ", ".join(f"{100 * v['accuracy']:.1f}" for v in run["validation"])
  counts = {v["n"] for v in run["validation"]}
  test = run["verdicts"].get("test")
  dropped = ", ".join(f"{n} {reason}" for reason, n in run["dropped"].items())
  cells = (
    run["row"],
    str(run["seed"]),
    "" if run["lr"] is None else f"{run['lr']:g}",
    str(run["steps"]),
    "" if run["loss"] is None else f"{run['loss']:.3f}",
    f"{validation} (n={', '.join(map(str, counts))})",
    f"{100 * sum(test.values()) / len(test):.1f}" if test else "",
    f"{run['kept']} kept" + (f"; dropped {dropped}" if dropped else ""),
    f"{run['cpu_minutes']:.1f}",
    "" if run["peak_mib"] is None else f"{run['peak_mib'] / 1024:.2f}",
  )
  return f"| {' | '.join(cells)} |"
