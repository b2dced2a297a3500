"""The report of a sweep: forest plots, tables, claims and links to the reports of its runs."""

import os
import pathlib
import urllib.parse
from collections.abc import Mapping
from typing import Any

from distill_jax import errors
from distill_jax.report import layout, page
from distill_jax.report.nodes import Child, Html, join, tag
from distill_jax.run_dir import phase_dir
from distill_jax.run_dir.run_dir import SUMMARY

TABLE = "table.json"


def is_sweep(path: pathlib.Path) -> bool:
  """Whether a directory is a sweep's."""
  return (path / TABLE).is_file()


def of_directory(path: pathlib.Path, report: str, folder: pathlib.Path) -> str:
  """Returns the report of a sweep as HTML.

  Args:
    path: The sweep's directory; its table.json is written whenever a run ends.
    report: File name of the reports of its runs.
    folder: The directory that the page is written to, which links start from.

  Raises:
    UserError: table.json is damaged.
  """
  table = phase_dir.read_json(path / TABLE)
  try:
    finished = sum(len(row["seeds"]) for row in table["rows"])
    missing = sum(len(row["missing"]) for row in table["rows"])
    seeds = ", ".join(map(str, table["seeds"]))
    lead = (
      f"{table['config']}; seeds {seeds}; {table['date']}; {finished} runs finished, "
      f"{missing} missing"
    )
    parts = [_split(table, split) for split in table["splits"]]
    parts += [_claims(table), _failed(table), _runs(path, table, report, folder), _overrides(table)]
  except (KeyError, TypeError, IndexError, AttributeError):
    raise errors.data(f"{path / TABLE} is damaged; re-run the sweep, which rewrites it") from None
  return page.assemble(f"Sweep {table['sweep']}", lead, parts, with_script=False)


def _split(table: Mapping[str, Any], split: str) -> Html:
  """Returns the forest plot and the table of a split."""
  base, forest = table["base"], []
  body: list[list[Child]] = []
  for row in table["rows"]:
    score = row["splits"][split]
    name = f"{row['row']} (base)" if row["row"] == base else row["row"]
    if not score:
      body.append([name, len(row["seeds"]), "not evaluated", "–", "–"])
      continue
    low, high, mean = (100 * score[key] for key in ("low", "high", "mean"))
    by_seed = ", ".join(f"{100 * value:.1f}" for value in score["by_seed"].values())
    change = score["difference"]
    shown = "–"
    if change:
      points = [100 * change[key] for key in ("mean", "low", "high")]
      forest.append((row["row"], *points))
      shown = f"{points[0]:+.1f} ({points[1]:+.1f} to {points[2]:+.1f}; p={change['p']:.2g})"
    body.append([name, len(row["seeds"]), f"{mean:.1f} % ({low:.1f}–{high:.1f})", by_seed, shown])
  drawn = [layout.differences(f"difference to {base}, points", forest)]
  head = ("row", "seeds", "accuracy (95% CI)", "by seed, %", f"difference to {base}")
  note = (
    "Intervals are percentiles of bootstrap resamples of seeds and questions; differences are on "
    "the same questions with the same seeds; p is McNemar's exact test over all pairs."
  )
  return layout.section(
    split.replace("_", " "), layout.grid(*drawn), layout.table(head, body),
    tag("p", note, class_="note"),
  )  # fmt: skip


def _claims(table: Mapping[str, Any]) -> Html:
  body, forest = [], []
  for claim in table["claims"]:
    effect, rows = claim["effect"], f"{claim['better']} over {claim['worse']}"
    points = [100 * effect[key] for key in ("mean", "low", "high")] if effect else []
    shown = f"{points[0]:+.1f} ({points[1]:+.1f} to {points[2]:+.1f})" if points else "–"
    if points:
      forest.append((rows, *points))
    verdict = f"{claim['verdict']}, so far" if claim["missing"] and effect else claim["verdict"]
    body.append([claim["text"], rows, claim["split"], verdict, shown])
  head = ("claim", "rows", "split", "verdict", "effect, points")
  chart = layout.grid(layout.differences("effects of the claims, points", forest))
  return layout.section("Claims", chart, layout.table(head, body, left=4)) if body else Html("")


def _failed(table: Mapping[str, Any]) -> Html:
  body = [[f["row"], f["seed"], f["reason"], f["said"]] for f in table["failed"]]
  head = ("row", "seed", "reason", "message")
  return layout.section("Failed", layout.table(head, body, left=4)) if body else Html("")


def _runs(path: pathlib.Path, table: Mapping[str, Any], report: str, folder: pathlib.Path) -> Html:
  """Returns costs by row, with links to the reports of the runs."""
  body = []
  for row in table["rows"]:
    links = []
    for seed in [*row["seeds"], *row["missing"]]:
      place = pathlib.PurePosixPath("rows") / row["row"] / f"seed_{seed}"
      shown: Child = f"seed {seed}"
      if (path / place / report).is_file():
        link = os.path.relpath(path / place / report, folder)
        shown = tag("a", shown, href=urllib.parse.quote(pathlib.Path(link).as_posix()))
      elif not (path / place / SUMMARY).is_file():
        shown = f"seed {seed} (unfinished)" if (path / place).is_dir() else f"seed {seed} (not run)"
      links.append(shown)
    costs = [f"{row[key]:,.0f}" if key in row else "–" for key in ("replies", "steps", "seconds")]
    body.append([row["row"], *costs, join(links, ", ")])
  head = ("row", "replies a run", "steps a run", "seconds a run", "runs")
  return layout.section("Runs", layout.table(head, body, last="left"))


def _overrides(table: Mapping[str, Any]) -> Html:
  body = [
    [row["row"], ", ".join(f"{key}={value}" for key, value in row["overrides"].items()) or "–"]
    for row in table["rows"]
  ]
  common = ", ".join(f"{key}={value}" for key, value in table["common"].items())
  note = tag("p", f"Every row: {common}", class_="note") if common else None
  return layout.section("Settings", layout.table(("row", "overrides"), body, left=2), note)
