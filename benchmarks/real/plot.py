"""Draws the accuracies of finished rows with their 95 % intervals as an SVG.

Each block and split has a group of lines, one per row. The numbers are embedded in the file
(`<metadata>`; see `plot_rounds.embedded`), so a drawing can be checked and redrawn.
"""

import html
import json
from collections.abc import Sequence
from typing import Any

from benchmarks import plot_rounds
from benchmarks.real.table import SCORED

WIDTH, LEFT, RIGHT, LINE = 720, 190, 690, 22  # pixels


def numbers(built: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns what is drawn of the tables of blocks: groups of rows with their intervals."""
  groups = []
  for block in built:
    for split in block["splits"]:
      scored = [(row["row"], row["splits"][split]) for row in block["rows"]]
      drawn = [
        {"row": name, **{key: score[key] for key in ("mean", "low", "high", "n")}}
        for name, score in scored
        if score
      ]
      if drawn:
        groups.append({"title": f"{block['title']}: {SCORED[split]}", "rows": drawn})
  return groups


def draw(groups: Sequence[dict[str, Any]]) -> str:
  """Returns the SVG of `numbers(...)`."""
  top = max((row["high"] for group in groups for row in group["rows"]), default=1.0)
  limit = min(1.0, (int(10 * top) + 1) / 10)  # the axis ends at a multiple of 10 %

  def x(share: float) -> float:
    return round(LEFT + share / limit * (RIGHT - LEFT), 1)

  parts, y = [], 20
  for group in groups:
    bottom = y + LINE * (len(group["rows"]) + 1)
    parts.append(_text(10, y + 4, group["title"], kind="title"))
    for tenth in range(round(10 * limit) + 1):
      at = x(tenth / 10)
      parts.append(f'<line class="grid" x1="{at}" y1="{y + 12}" x2="{at}" y2="{bottom - 6}"/>')
      parts.append(_text(at, bottom + 8, f"{10 * tenth} %", kind="small", anchor="middle"))
    for n, row in enumerate(group["rows"], 1):
      parts += _row(row, x, y + n * LINE)
    y = bottom + 46
  return "\n".join(
    [
      f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y - 20}" role="img"'
      ' aria-label="Accuracy by recipe">',
      "  <title>Accuracy by recipe, with 95 % intervals</title>",
      f"  <metadata>{html.escape(json.dumps(list(groups)), quote=False)}</metadata>",
      f"  <style>{plot_rounds.STYLE}  </style>",
      *(f"  {part}" for part in parts),
      "</svg>",
      "",
    ]
  )


def _row(row: dict[str, Any], x, y: int) -> list[str]:
  low, high, middle = x(row["low"]), x(row["high"]), x(row["mean"])
  return [
    _text(LEFT - 10, y + 4, row["row"].replace("_", " "), kind="small", anchor="end"),
    f'<line class="validation" x1="{low}" y1="{y}" x2="{high}" y2="{y}"/>',
    f'<circle class="validation" cx="{middle}" cy="{y}" r="4"/>',
    _text(high + 8, y + 4, f"{100 * row['mean']:.1f} %", kind="small"),
  ]


def _text(x: float, y: float, text: str, *, kind: str, anchor: str = "start") -> str:
  return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{html.escape(text)}</text>'
