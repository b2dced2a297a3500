"""The claims board: what the papers say, and what became of it here.

  python -m benchmarks.claims.board runs/claims_tailored runs/claims_self_refine

Reads table.json in each sweep folder, keeps it as benchmarks/claims/NAME.json with its page
NAME.md, and writes BOARD.md from all that are kept. Nothing on the board is written by hand: a
claim whose rows have not been run says so.
"""

import json
import pathlib
import sys

from distill_jax.ablations import markdown

HERE = pathlib.Path(__file__).parent

HEAD = """# The claims board

What the papers claim, each as a sweep on the built-in worlds, small enough for two cores. An effect
is the share of questions the better row gets right minus the other's, in percentage points, on the
same questions with the same seeds, with its 95 % interval (draws of seeds and questions).

- **holds**: the interval lies above 0
- **does not hold**: it lies at or below 0, or ends below the smallest effect of interest
- **undecided**: neither
- **not run**: a row is missing; *so far*: seeds are

A claim that does not hold here may hold at the paper's scale; what stands here is what was seen.
Each sweep's page has all its rows. Written by `python -m benchmarks.claims.board`.

| claim | paper | split | effect | smallest | seeds | verdict | sweep |
| --- | --- | --- | --- | ---: | ---: | --- | --- |
"""


def keep(folder, here=HERE) -> str:
  """Takes a sweep's table over, without what only its own machine can use; returns its name."""
  path = pathlib.Path(folder) / "table.json"
  if not path.is_file():
    raise SystemExit(
      f"{path} is not there: `python -m distill_jax ablate --workdir={folder}` makes it"
    )
  table = json.loads(path.read_text())
  for failed in table["failed"]:
    failed["said"] = "see the log"  # it may name paths
  name = table["name"]
  (here / f"{name}.json").write_text(json.dumps(table, indent=1) + "\n")
  (here / f"{name}.md").write_text(markdown.write(table))
  return name


def write(tables: list[dict]) -> str:
  """The board as Markdown."""
  lines = [line(claim, table) for table in tables for claim in table["claims"]]
  runs = [
    f"- {t['name']}: `{t['command']}`; seeds {', '.join(map(str, t['seeds']))}; {t['date']}; "
    f"{t['machine']['cores']} cores, {t['machine']['platform']}"
    for t in tables
  ]
  return HEAD + "\n".join([*lines, "", "## How they were run", "", *runs, ""])


def line(claim: dict, table: dict) -> str:
  cells = (
    f"{claim['text']} ({claim['better']} over {claim['worse']})",
    claim["paper"],
    claim["split"],
    markdown.effect(claim),
    f"{100 * claim['smallest']:.1f}",
    markdown.count(claim),
    f"**{markdown.said(claim)}**",
    f"[{table['name']}]({table['name']}.md)",
  )
  return f"| {' | '.join(cells)} |"


def main(folders, here=HERE) -> None:
  for folder in folders:
    keep(folder, here)
  tables = [json.loads(file.read_text()) for file in sorted(here.glob("*.json"))]
  (here / "BOARD.md").write_text(write(tables))


if __name__ == "__main__":
  main(sys.argv[1:])
