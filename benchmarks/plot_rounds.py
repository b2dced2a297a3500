"""Draws accuracy by round as an SVG, from the summary of a finished run.

  python -m benchmarks.plot_rounds --workdir=runs/quickstart --out=docs/img/quickstart.svg

Lines: accuracy on validation questions with its 95 % Wilson interval, and on the training questions
of the exam. An exam is taken by the student that begins a round, so the exam of round k belongs to
the student of round k - 1 and is drawn there. A cross marks the test score of the best round. The
numbers are embedded in the file (`<metadata>`), so a drawing can be checked and redrawn. Colors
follow the reader's light or dark setting.
"""

import argparse
import json
import pathlib

WIDTH, HEIGHT = 640, 330
LEFT, RIGHT, TOP, BOTTOM = 56, 620, 56, 278  # the plotting area, pixels

STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #24292f }
    .small { font-size: 12px } .title { font-size: 15px; font-weight: 600 }
    .grid { stroke: #d0d7de; stroke-width: 1 }
    .validation { stroke: #0969da; fill: none; stroke-width: 2.5 }
    .exam { stroke: #8250df; fill: none; stroke-width: 2; stroke-dasharray: 5 4 }
    .test { stroke: #bc4c00; fill: none; stroke-width: 2.5 }
    circle.validation { fill: #0969da }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 } .grid { stroke: #484f58 }
      .validation { stroke: #58a6ff } .exam { stroke: #bc8cff } .test { stroke: #f0883e }
      circle.validation { fill: #58a6ff }
    }
"""


def numbers(summary: dict) -> dict:
  """Returns the part of a summary.json that is drawn."""
  fields = ("accuracy", "low", "high", "n")
  return {
    "recipe": summary["recipe"],
    "best_round": summary["best_round"],
    "rounds": [
      {
        "round": row["round"],
        "exam": row["exam"] and row["exam"]["accuracy"],
        "validation": row["validation"] and {name: row["validation"][name] for name in fields},
      }
      for row in summary["rounds"]
    ],
    "test": summary["test"] and {name: summary["test"][name] for name in fields},
  }


def embedded(svg: str) -> dict:
  """Returns the numbers of a drawing."""
  return json.loads(svg.partition("<metadata>")[2].partition("</metadata>")[0])


def draw(data: dict) -> str:
  """Returns the SVG of `numbers(summary)`."""
  rounds = data["rounds"]
  last = max(len(rounds) - 1, 1)

  def x(k: float) -> float:
    return round(LEFT + 40 + k * (RIGHT - LEFT - 80) / last, 1)

  def y(share: float) -> float:
    return round(BOTTOM - share * (BOTTOM - TOP), 1)

  validation = [(x(r["round"]), r["validation"]) for r in rounds if r["validation"]]
  exam = [
    (x(r["round"] - 1), y(r["exam"]))
    for r in rounds
    if r["exam"] is not None and r["round"] > 0  # round 0: the student that knows nothing
  ]
  parts = [*_axes(x, y, rounds)]
  parts.append(_line("exam", exam))
  parts.append(_line("validation", [(at, y(v["accuracy"])) for at, v in validation]))
  for at, v in validation:
    parts += _interval("validation", at, y(v["low"]), y(v["high"]))
    middle = y(v["accuracy"])
    parts.append(f'<circle class="validation" cx="{at}" cy="{middle}" r="4"/>')
    label = f"{100 * v['accuracy']:.1f} %"
    parts.append(_text(at, y(v["high"]) - 8, label, anchor="middle"))
  if data["test"]:
    parts += _test(x(data["best_round"]) + 18, y, data["test"])
  parts += _legend(data, bool(exam))
  title = f"{data['recipe']}: accuracy by round"
  return "\n".join(
    [
      f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
      f' aria-label="{title}">',
      f"  <title>{title}</title>",
      f"  <metadata>{json.dumps(data)}</metadata>",
      f"  <style>{STYLE}  </style>",
      _text(LEFT, 22, title, kind="title"),
      *(f"  {part}" for part in parts if part),
      "</svg>",
      "",
    ]
  )


def _axes(x, y, rounds):
  for percent in range(0, 101, 20):
    at = y(percent / 100)
    yield f'<line class="grid" x1="{LEFT}" y1="{at}" x2="{RIGHT}" y2="{at}"/>'
    yield _text(LEFT - 8, at + 4, f"{percent} %", kind="small", anchor="end")
  for row in rounds:
    yield _text(x(row["round"]), BOTTOM + 20, f"round {row['round']}", anchor="middle")


def _line(kind: str, points) -> str:
  if len(points) < 2:
    return ""
  return f'<polyline class="{kind}" points="{" ".join(f"{a},{b}" for a, b in points)}"/>'


def _interval(kind: str, at: float, low: float, high: float):
  yield f'<line class="{kind}" x1="{at}" y1="{low}" x2="{at}" y2="{high}"/>'
  for end in (low, high):
    yield f'<line class="{kind}" x1="{at - 4}" y1="{end}" x2="{at + 4}" y2="{end}"/>'


def _test(at: float, y, test: dict):
  middle = y(test["accuracy"])
  yield f'<line class="test" x1="{at}" y1="{y(test["low"])}" x2="{at}" y2="{y(test["high"])}"/>'
  yield f'<path class="test" d="M{at - 5},{middle - 5}l10,10m0,-10l-10,10"/>'


def _legend(data: dict, exam: bool):
  first = data["rounds"][0]["validation"]
  entries = [("validation", f"validation, 95 % interval (n={first['n']})" if first else "")]
  if exam:
    entries.append(("exam", "training questions"))
  if data["test"]:
    entries.append(("test", f"test: {100 * data['test']['accuracy']:.1f} %"))
  at = LEFT
  for kind, label in entries:
    yield f'<line class="{kind}" x1="{at}" y1="316" x2="{at + 24}" y2="316"/>'
    yield _text(at + 30, 320, label, kind="small")
    at += 56 + 6 * len(label)


def _text(x: float, y: float, text: str, *, kind: str = "", anchor: str = "start") -> str:
  name = f' class="{kind}"' if kind else ""
  return f'<text{name} x="{round(x, 1)}" y="{round(y, 1)}" text-anchor="{anchor}">{text}</text>'


def main() -> None:
  parser = argparse.ArgumentParser(description="Draws accuracy by round from a run's summary.json.")
  parser.add_argument("--workdir", required=True, help="directory of a finished run")
  parser.add_argument("--out", required=True, help="the SVG to write")
  options = parser.parse_args()
  file = pathlib.Path(options.workdir) / "summary.json"
  if not file.is_file():
    raise SystemExit(f"{options.workdir} is not the directory of a finished run (no summary.json)")
  out = pathlib.Path(options.out)
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text(draw(numbers(json.loads(file.read_text()))))


if __name__ == "__main__":
  main()
