"""A round of summary.json as text: a few lines, and the cells of a table."""

from typing import Any

WIDTH = 80  # columns of a round's lines

# Columns of the table of rounds: key and header.
COLUMNS = {
  "round": "round",
  "exam": "train\nacc",
  "mistakes": "mistakes",
  "calls": "calls",
  "cached": "cached",
  "tokens": "tokens",
  "dollars": "dollars",
  "kept": "rationales\nkept",
  "dropped": "rationales\ndropped",
  "steps": "steps",
  "loss": "loss",
  "validation": "validation",
  "interval": "95% CI",
}
# The order in which a narrow terminal loses columns.
OPTIONAL = ("dollars", "cached", "tokens", "dropped", "calls", "steps", "loss", "mistakes")


def _percent(value: float | None) -> str:
  return "-" if value is None else f"{100 * value:.1f} %"


def lines(row: dict[str, Any]) -> list[str]:
  """Returns a round as lines of at most `WIDTH` columns: its accuracies, then what they cost.

  Args:
    row: A round as in summary.json. Its missing parts (None) are not shown.
  """
  return _filled([f"round {_name(row)}", *_scores(row)], _costs(row))


def _name(row: dict[str, Any]) -> str:
  """The number of a round, or `base`, with the number of worked examples in its prompts."""
  return f"{row['round']}, {shots} shots" if (shots := row.get("shots")) else str(row["round"])


def plot(rows: list[dict[str, Any]]) -> list[str]:
  """Returns validation accuracy by round as bars of at most `WIDTH` columns.

  A bar of "#" reaches to the lower end of the 95 % interval, "=" covers the interval, "o" marks the
  exam. Rounds without a validation are left out; fewer than two rounds have no plot.
  """
  scored = [row for row in rows if row.get("validation")]
  if len(scored) < 2:
    return []
  names = [f"round {_name(row)}" for row in scored]
  label = max(map(len, names))
  width = WIDTH - label - len("  ||  100.0 %")
  drawn = [
    f"{name:<{label}}  |{_bar(row, width)}|  {_percent(row['validation']['accuracy']):>7}"
    for name, row in zip(names, scored, strict=True)
  ]
  return ["validation accuracy by round (=: 95% CI, o: accuracy in the exam)", *drawn]


def _bar(row: dict[str, Any], width: int) -> str:
  low, high = (round(row["validation"][end] * width) for end in ("low", "high"))
  bar = list("#" * low + "=" * (high - low) + " " * (width - high))
  if exam := row.get("exam"):
    bar[min(int(exam["accuracy"] * width), width - 1)] = "o"
  return "".join(bar)


def _filled(first: list[str], more: list[str]) -> list[str]:
  """Lines of at most `WIDTH` columns: `first`, then `more`, indented. Long parts are cut."""
  filled = ["  ".join(first)]
  for part in more:
    if len(filled) > 1 and len(filled[-1]) + 2 + len(part) <= WIDTH:
      filled[-1] += f"  {part}"
    else:
      filled.append(f"  {part}")
  return [line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..." for line in filled]


def _scores(row: dict[str, Any]) -> list[str]:
  """The accuracies of a round, for what the round contains."""
  parts: list[str] = []
  if exam := row.get("exam"):
    parts.append(f"exam {_percent(exam['accuracy'])} ({exam['mistakes']} of {exam['n']} wrong)")
  if validation := row.get("validation"):
    interval = f"[{100 * validation['low']:.1f}, {100 * validation['high']:.1f}]"
    parts.append(f"validation {_percent(validation['accuracy'])} {interval}")
  return parts


def _costs(row: dict[str, Any]) -> list[str]:
  """What was requested, kept and trained on in a round, for what the round contains."""
  parts: list[str] = []
  if teacher := row.get("teacher"):
    parts.append(
      f"teacher {teacher['calls']} calls, {teacher['cache_hits']} cached, "
      f"{teacher['tokens']} tokens, ${teacher['dollars']:.4f}{_estimated(teacher)}"
    )
    parts.append(f"kept {row.get('kept') or 0}{_dropped(row.get('dropped'))}")
  if row.get("steps"):
    loss = row.get("loss")
    parts.append(
      f"{row['steps']} steps"
      + (f", {row['contrasts']} triplets" if row.get("contrasts") else "")
      + (f", {row['pairs']} pairs" if row.get("pairs") else "")
      + ("" if loss is None else f", loss {loss:.4f}")
    )
  return parts


def _estimated(teacher: dict[str, Any]) -> str:
  """The highest possible cost of requests that were not answered, if there is any."""
  dollars = teacher.get("dollars_estimated")
  return f" + at most ${dollars:.4f} unanswered" if dollars else ""


def _dropped(reasons: dict[str, int] | None) -> str:
  if not reasons:
    return ""
  listed = ", ".join(
    f"{name} {n}" for name, n in sorted(reasons.items(), key=lambda r: (-r[1], r[0]))
  )
  return f", dropped {sum(reasons.values())} ({listed})"


def cells(row: dict[str, Any], best: int | None) -> dict[str, str]:
  """Returns {column: text} of a round; the best round is marked."""
  exam, teacher, validation = (row.get(name) or {} for name in ("exam", "teacher", "validation"))
  interval = "-"
  if validation:
    interval = f"{100 * validation['low']:.1f} - {100 * validation['high']:.1f}"
  return {
    "round": f"{row['round']} *" if row["round"] == best else _name(row),
    "exam": _percent(exam["accuracy"]) if exam else "-",
    "mistakes": str(exam.get("mistakes", "-")),
    "calls": str(teacher.get("calls", "-")),
    "cached": str(teacher.get("cache_hits", "-")),
    "tokens": str(teacher.get("tokens", "-")),
    "dollars": f"{teacher['dollars']:.4f}" if teacher else "-",
    "kept": str(row.get("kept") or 0),
    "dropped": str(sum((row.get("dropped") or {}).values())),
    "steps": str(row.get("steps") or 0),
    "loss": "-" if row.get("loss") is None else f"{row['loss']:.4f}",
    "validation": _percent(validation["accuracy"]) if validation else "-",
    "interval": interval,
  }
