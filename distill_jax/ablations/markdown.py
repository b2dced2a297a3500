"""The table of a sweep as Markdown."""

from typing import Any

LEGEND = """Accuracy in %: mean over seeds [95% CI] ± standard deviation over seeds. Intervals are
percentiles of 10,000 bootstrap resamples of seeds and questions (PCG64, seed 0). Differences are to
the row `{base}` on the same questions with the same seeds, in percentage points; p is the exact
two-sided McNemar test over all pairs (seed, question). A dash means that the row has other
questions than the base or no seed in common with it. Replies (of the teacher, paid or cached),
steps and seconds are means per run.
"""


def render(table: dict[str, Any]) -> str:
  """Returns the page for a table in the format of table.json."""
  parts = [f"# {table['sweep']}", *header(table), LEGEND.format(base=table["base"])]
  parts += [split_table(table, split) for split in table["splits"]]
  parts += [failures(table["failed"])] if table["failed"] else []
  parts += [claims(table["claims"])] if table["claims"] else []
  return "\n".join(parts)


def header(table: dict[str, Any]) -> list[str]:
  """Returns the command that reproduces the sweep, and when and where it was run."""
  seeds = ", ".join(map(str, table["seeds"]))
  machine = table["machine"]
  common = "  ".join(f"{key}={value}" for key, value in table["common"].items())
  lines = [
    f"    {table['command']}\n",
    f"{table['config']}; seeds {seeds}; {table['date']}; {machine['cores']} cores, "
    f"{machine['platform']}.\n",
  ]
  return [*lines, f"Every row: `{common}`\n"] if common else lines


def split_table(table: dict[str, Any], split: str) -> str:
  """Returns the table of one split."""
  lines = [
    f"## {split}\n",
    "| row | seeds | accuracy | difference | p | replies | steps | seconds |",
    "| --- | ---: | --- | --- | ---: | ---: | ---: | ---: |",
  ]
  for row in table["rows"]:
    name, result = row["row"], row["splits"][split]
    seeds = str(len(row["seeds"]))
    if row["missing"]:
      seeds += f" ({len(row['missing'])} missing)"
    if not result:
      state = "not evaluated" if row["seeds"] else "not run"
      lines.append(f"| {name} | {seeds} | {state} | | | | | |")
      continue
    spread = "" if result["sd"] is None else f" ± {100 * result['sd']:.1f}"
    accuracy = f"{100 * result['mean']:.1f} {interval(result)}{spread}"
    change = difference_cells(result["difference"], is_base=name == table["base"])
    costs = f"{row['replies']:.0f} | {row['steps']:.0f} | {row['seconds']:.0f}"
    lines.append(f"| {name} | {seeds} | {accuracy} | {change} | {costs} |")
  sizes = {row["splits"][split]["n"] for row in table["rows"] if row["splits"][split]}
  count = " or ".join(map(str, sorted(sizes))) or "no"
  return "\n".join([*lines, f"\n{count} questions.\n"])


def difference_cells(difference: dict[str, Any] | None, *, is_base: bool) -> str:
  """Returns the two cells with the difference and its p."""
  if difference is None:
    return "base | " if is_base else "- | "
  change = f"{100 * difference['mean']:+.1f} {interval(difference, '+')}"
  return f"{change} | {difference['p']:.2g}"


def interval(result: dict[str, Any], sign: str = "") -> str:
  """Formats an interval in percent; with sign "+", both bounds are signed."""
  return f"[{100 * result['low']:{sign}.1f}, {100 * result['high']:{sign}.1f}]"


def failures(failed: list[dict[str, Any]]) -> str:
  """Returns the section on failed runs."""
  lines = ["## Failed (re-run the same command to retry)\n"]
  lines += [f"- {f['row']}, seed {f['seed']}: {f['reason']}: {f['said']}" for f in failed]
  return "\n".join([*lines, ""])


def claims(judged: list[dict[str, Any]]) -> str:
  """Returns the section on claims."""
  lines = [
    "## Claims\n",
    "| claim | rows | split | effect | seeds | verdict |",
    "| --- | --- | --- | --- | ---: | --- |",
  ]
  for claim in judged:
    rows = f"{claim['better']} over {claim['worse']}"
    cells = (claim["text"], rows, claim["split"], effect(claim), seeds(claim), verdict(claim))
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join([*lines, ""])


def effect(claim: dict[str, Any]) -> str:
  """Formats the effect of a claim and its interval."""
  e = claim["effect"]
  return "" if e is None else f"{100 * e['mean']:+.1f} {interval(e, '+')}"


def seeds(claim: dict[str, Any]) -> str:
  """Formats the number of seeds that a verdict rests on."""
  count = claim["effect"]["seeds"] if claim["effect"] else 0
  return f"{count} of {count + claim['missing']}" if claim["missing"] else str(count)


def verdict(claim: dict[str, Any]) -> str:
  """Formats the verdict; it is marked if seeds are missing."""
  partial = claim["missing"] and claim["effect"]
  return f"{claim['verdict']}, so far" if partial else claim["verdict"]
