"""Charts as inline SVG. They need no script, no style of their own and no colors but classes.

Colors are classes `s0`, `s1`, ... (series) of page.css, which follow the light or dark scheme.
"""

import dataclasses
import math
from collections.abc import Sequence

from distill_jax.report.nodes import Html, tag

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 12, 30
COLORS = 8  # series classes of page.css
LETTER = 7.0  # room for one character of a label, at the largest size that page.css gives it


@dataclasses.dataclass(frozen=True)
class Series:
  """A line of a chart.

  Attributes:
    name: Its name in the legend.
    points: (x, y) in order; a y that is not finite interrupts the line.
    low: Lower ends of error bars, one per point; () without.
    high: Upper ends.
  """

  name: str
  points: Sequence[tuple[float, float]]
  low: Sequence[float] = ()
  high: Sequence[float] = ()


def lines(
  title: str,
  series: Sequence[Series],
  *,
  x_label: str = "",
  percent: bool = False,
  marks: Sequence[tuple[float, str]] = (),
  points: bool = False,
) -> Html:
  """Returns a line chart with its title and legend.

  Args:
    title: The title, which is also its description for screen readers.
    series: The lines.
    x_label: What is on the x axis.
    percent: y values are shares, shown from 0 to 100 %.
    marks: (x, label) of vertical lines, such as the starts of rounds.
    points: Mark every point; x values are then whole numbers with one tick each.
  """
  series = [s for s in series if any(math.isfinite(y) for _, y in s.points)]
  if not series:
    return Html("")
  xs = [x for s in series for x, _ in s.points]
  ys = [y for s in series for y in (*(y for _, y in s.points), *s.low, *s.high)]
  x_low, x_high = min(xs), max(xs)
  if x_low == x_high:
    x_low, x_high = x_low - 0.5, x_high + 0.5
  y_ticks = [0, 0.25, 0.5, 0.75, 1.0] if percent else ticks([y for y in ys if math.isfinite(y)])
  y_low, y_high = y_ticks[0], y_ticks[-1]

  def x_at(x: float) -> float:
    return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

  def y_at(y: float) -> float:
    share = (y - y_low) / (y_high - y_low)
    return HEIGHT - BOTTOM - min(max(share, 0.0), 1.0) * (HEIGHT - TOP - BOTTOM)

  drawn = [_y_axis(y, y_at(y), f"{100 * y:.0f} %" if percent else short(y)) for y in y_ticks]
  x_ticks = sorted(set(xs)) if points else ticks([x_low, x_high])
  for x in _thinned([x for x in x_ticks if x_low <= x <= x_high], 10):
    drawn.append(tag("text", short(x), x=x_at(x), y=HEIGHT - 16, class_="tick middle"))
  drawn.append(
    tag("text", x_label, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 3, class_="tick middle")
  )
  # a phase starts before its first point
  drawn += _marks([(x_at(min(max(x, x_low), x_high)), label) for x, label in marks])
  for number, line in enumerate(series):
    drawn += _line(line, number % COLORS, x_at, y_at, points=points)
  return figure(title, _svg(title, drawn), [s.name for s in series])


def _y_axis(value: float, y: float, label: str) -> Html:
  grid = tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="axis" if not value else "grid")
  return Html(grid + tag("text", label, x=LEFT - 5, y=y + 3, class_="tick end"))


def _marks(marks: Sequence[tuple[float, str]]) -> list[Html]:
  """Returns vertical lines (x, label); a label for which there is no room is a tooltip only."""
  drawn, free = [], 0.0
  for x, label in marks:
    described = tag("title", label)
    drawn.append(tag("line", described, x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM, class_="mark"))
    if free <= x and x + LETTER * len(label) <= WIDTH:
      drawn.append(tag("text", label, x=x + 2, y=TOP + 8, class_="tick"))
      free = x + LETTER * len(label)
  return drawn


def _line(line: Series, color: int, x_at, y_at, *, points: bool) -> list[Html]:
  drawn: list[Html] = []
  for part in _finite_parts(line.points):
    path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in part)
    if len(part) > 1:
      drawn.append(tag("polyline", points=path, class_=f"line s{color}"))
    if points or len(part) == 1:
      drawn += [tag("circle", cx=x_at(x), cy=y_at(y), r=3, class_=f"dot s{color}") for x, y in part]
  for (x, _), low, high in zip(line.points, line.low, line.high, strict=bool(line.low)):
    drawn.append(
      tag("line", x1=x_at(x), x2=x_at(x), y1=y_at(low), y2=y_at(high), class_=f"bar s{color}")
    )
  return drawn


def _finite_parts(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
  """Splits a line where a value is missing."""
  parts: list[list[tuple[float, float]]] = [[]]
  for x, y in points:
    if math.isfinite(y):
      parts[-1].append((x, y))
    elif parts[-1]:
      parts.append([])
  return [part for part in parts if part]


def _thinned(values: Sequence[float], most: int) -> list[float]:
  step = math.ceil(len(values) / most) or 1
  return list(values[::step])


def ticks(values: Sequence[float], count: int = 4) -> list[float]:
  """Returns round numbers from below the smallest value to above the largest one."""
  low, high = min(values), max(values)
  if high - low <= 1e-9 * max(abs(low), abs(high)):
    pad = abs(high) / 2 or 1.0
    low, high = low - pad, high + pad
  raw = (high - low) / count
  power = 10.0 ** math.floor(math.log10(raw))
  step = next((m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9)), 10 * power)
  first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
  digits = 3 - math.floor(math.log10(step))
  return [round(n * step, digits) for n in range(first, last + 1)]


def short(value: float) -> str:
  """Returns a number in at most seven characters: 0.25, 250k, 2.5e-4."""
  size = abs(value)
  if size and not 1e-3 <= size < 1e12:
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{float(digits):g}e{int(power)}"
  unit, suffix = next(
    ((u, s) for u, s in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if size >= max(u, 1e4)), (1.0, "")
  )
  return f"{value / unit:.4g}{suffix}"


def stacked(
  title: str, rows: Sequence[tuple[str, Sequence[int]]], parts: Sequence[tuple[str, int]]
) -> Html:
  """Returns horizontal bars, one per row, each split into parts.

  Args:
    title: The title.
    rows: (label, sizes of the parts) of each bar; sizes are counts.
    parts: (name, number of the color) of each part, for the legend.
  """
  rows = [(label, sizes) for label, sizes in rows if sum(sizes) > 0]
  if not rows:
    return Html("")
  step, left = 26, 96
  height, most = TOP + step * len(rows) + 8, max(sum(sizes) for _, sizes in rows)
  drawn: list[Html] = []
  for n, (label, sizes) in enumerate(rows):
    y, x = TOP + step * n, float(left)
    drawn.append(tag("text", label, x=left - 6, y=y + 13, class_="tick end"))
    for (name, color), size in zip(parts, sizes, strict=True):
      width = size / most * (WIDTH - left - 64)
      if size:
        described = tag("title", f"{label}: {name} {size:,}")
        drawn.append(
          tag("rect", described, x=x, y=y, width=width, height=18, class_=f"area s{color % COLORS}")
        )
      x += width
    drawn.append(tag("text", f"{sum(sizes):,}", x=x + 4, y=y + 13, class_="tick"))
  used = [part for n, part in enumerate(parts) if any(sizes[n] for _, sizes in rows)]
  svg = _svg(title, drawn, height)
  return figure(title, svg, [name for name, _ in used], [color for _, color in used])


def forest(
  title: str, rows: Sequence[tuple[str, float, float, float]], *, low: float, high: float
) -> Html:
  """Returns estimates with intervals, one below the other, and a line at 0.

  Args:
    title: The title.
    rows: (label, estimate, low, high) of each.
    low: Left end of the axis.
    high: Right end of the axis.
  """
  beside = (166 - 6) // LETTER  # characters that fit beside the plot; longer labels stand above
  above = max(len(label) for label, *_ in rows) > beside
  step, left, right = (38, 12, 60) if above else (24, 166, 60)
  height = TOP + step * len(rows) + BOTTOM
  places = ticks([min(low, 0.0), max(high, 0.0)])
  low, high = places[0], places[-1]

  def x_at(value: float) -> float:
    return left + (value - low) / (high - low) * (WIDTH - left - right)

  drawn: list[Html] = []
  for value in places:
    style = "axis" if value == 0 else "grid"
    drawn.append(
      tag("line", x1=x_at(value), x2=x_at(value), y1=TOP, y2=height - BOTTOM, class_=style)
    )
    drawn.append(
      tag(
        "text", f"{value:+g}" if value else "0", x=x_at(value), y=height - 14, class_="tick middle"
      )
    )
  for n, (label, mean, lower, upper) in enumerate(rows):
    y = TOP + step * (n + 1) - 12
    style = "s2" if lower > 0 else "s1" if upper < 0 else "s0"
    if above:
      most = int((WIDTH - left) / LETTER)
      shown = label if len(label) <= most else f"{label[: most - 1]}…"
      drawn.append(tag("text", tag("title", label), shown, x=left, y=y - 12, class_="tick"))
    else:
      drawn.append(tag("text", label, x=left - 6, y=y + 3, class_="tick end"))
    drawn.append(tag("line", x1=x_at(lower), x2=x_at(upper), y1=y, y2=y, class_=f"bar {style}"))
    drawn.append(tag("circle", cx=x_at(mean), cy=y, r=4, class_=f"dot {style}"))
    drawn.append(tag("text", f"{mean:+.1f}", x=WIDTH - right + 8, y=y + 3, class_="tick"))
  return figure(title, _svg(title, drawn, height), [])


def _svg(title: str, drawn: Sequence[Html], height: int = HEIGHT) -> Html:
  box = f"0 0 {WIDTH} {height}"
  return tag("svg", tag("title", title), *drawn, viewBox=box, role="img", class_="chart")


def figure(
  title: str, chart: Html, names: Sequence[str], colors: Sequence[int] | None = None
) -> Html:
  """Returns a chart with its title above and its legend below."""
  keys = [
    tag("li", tag("span", class_=f"key s{color % COLORS}"), name)
    for name, color in zip(names, colors if colors is not None else range(len(names)), strict=True)
  ]
  legend = tag("ul", *keys, class_="legend") if len(keys) > 1 else None
  return tag("figure", tag("figcaption", title), chart, legend)
