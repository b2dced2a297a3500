"""What the sections of a report are made of: tables, numbers as text, frames."""

from collections.abc import Sequence
from typing import Any

from distill_jax import records
from distill_jax.report import charts, numbers
from distill_jax.report.nodes import Child, Html, tag

EXCERPT = 2000  # characters of a text on the first page


def percent(value: float | None) -> str:
  """Formats a share with one decimal; a dash without a value."""
  return "–" if value is None else f"{100 * value:.1f} %"


def dollars(value: float) -> str:
  """Formats a cost: to a hundredth of a cent below 10 dollars, to a cent from there on."""
  return f"${value:,.4f}" if value < 10 else f"${value:,.2f}"


def span(score: dict[str, Any]) -> str:
  """Formats the interval and n of an accuracy."""
  return f"95% CI {100 * score['low']:.1f}–{100 * score['high']:.1f}, n={score['n']}"


def scored(score: dict[str, Any] | None) -> str:
  """Formats an accuracy with its interval and n."""
  if score is None:
    return "–"
  low, high = 100 * score["low"], 100 * score["high"]
  return f"{percent(score['accuracy'])} ({low:.1f}–{high:.1f}, n={score['n']})"


def signed(change: numbers.Difference | None) -> str:
  """Formats a paired difference in points with its interval and p."""
  if change is None:
    return "–"
  return (
    f"{100 * change.mean:+.1f} ({100 * change.low:+.1f} to {100 * change.high:+.1f}; "
    f"{change.gained} gained, {change.lost} lost, p={change.p:.2g})"
  )


def points(change: numbers.Difference | None) -> str:
  """Formats a paired difference in points with its interval."""
  if change is None:
    return "–"
  return f"{100 * change.mean:+.1f} ({100 * change.low:+.1f} to {100 * change.high:+.1f})"


def rendered(question: records.Question | None) -> str:
  """Returns a question with its choices; "?" for one that is not known."""
  return "?" if question is None else records.rendered(question)


def excerpt(text: str) -> str:
  """Returns the beginning of a text that is long, and how much is left out."""
  return text if len(text) <= EXCERPT else f"{text[:EXCERPT]} … ({len(text):,} characters)"


def table(
  head: Sequence[str], rows: Sequence[Sequence[Child]], *, left: int = 1, last: str = "right"
) -> Html:
  """Returns a table; the first `left` columns are aligned left, the last as `last` says."""
  align = ["left"] * left + ["right"] * (len(head) - left)
  align[-1] = "left" if left == len(head) else last
  header = tag("tr", *(tag("th", h, class_=a) for h, a in zip(head, align, strict=True)))
  body = [
    tag("tr", *(tag("td", cell, class_=a) for cell, a in zip(row, align, strict=True)))
    for row in rows
  ]
  return tag("div", tag("table", tag("thead", header), tag("tbody", *body)), class_="scroll")


def note(text: str) -> Html:
  """Returns a remark below a table."""
  return tag("p", text, class_="note")


def section(title: str, *content: Child, name: str = "") -> Html:
  """Returns a section, or nothing if it has no content."""
  if not any(content):
    return Html("")
  return tag("section", tag("h2", title), *content, id=name or title.split()[0].lower())


def grid(*content: Html) -> Html:
  """Returns charts side by side where there is room."""
  shown = [part for part in content if part]
  return tag("div", *shown, class_="charts") if shown else Html("")


def differences(title: str, rows: Sequence[tuple[str, float, float, float]]) -> Html:
  """Returns differences (label, mean, low, high) as a forest plot; nothing without any."""
  if not rows:
    return Html("")
  low, high = min(r[2] for r in rows), max(r[3] for r in rows)
  return charts.forest(title, rows, low=low, high=high)
