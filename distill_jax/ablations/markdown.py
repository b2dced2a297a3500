"""A sweep's table as Markdown."""

LEGEND = """Shares of right answers in %: mean over seeds [95 % interval] ± standard deviation over
seeds. Intervals are percentiles of 10,000 draws of seeds and questions, each with replacement
(PCG64, seed 0). Differences are to the row `{base}` on the same questions with the same seeds, in
percentage points; p is McNemar's, exact, two-sided, over all pairs (seed, question); a dash stands
where a row was asked other questions or shares no seed with the base. Replies (of the teacher, paid
or cached), steps and seconds are means a run.
"""


def write(table: dict) -> str:
  """The whole page. `table`: as in table.json."""
  parts = [f"# {table['sweep']}", *about(table), LEGEND.format(base=table["base"])]
  parts += [block(table, split) for split in table["splits"]]
  parts += [failures(table["failed"])] if table["failed"] else []
  parts += [claims(table["claims"])] if table["claims"] else []
  return "\n".join(parts)


def about(table: dict) -> list[str]:
  """What repeats it, and where and when it was run."""
  seeds = ", ".join(map(str, table["seeds"]))
  machine = table["machine"]
  common = "  ".join(f"{key}={value}" for key, value in table["common"].items())
  lines = [
    f"    {table['command']}\n",
    f"{table['config']}; seeds {seeds}; {table['date']}; {machine['cores']} cores, "
    f"{machine['platform']}.\n",
  ]
  return [*lines, f"Every row: `{common}`\n"] if common else lines


def block(table: dict, split: str) -> str:
  """The table of a split."""
  lines = [
    f"## {split}\n",
    "| row | seeds | right | difference | p | replies | steps | s |",
    "| --- | ---: | --- | --- | ---: | ---: | ---: | ---: |",
  ]
  for row in table["rows"]:
    name = row["row"]
    lacks = f" ({len(row['missing'])} missing)" if row["missing"] else ""
    found = row["splits"][split]
    if not found:
      state = "not run" if not row["seeds"] else "not asked"
      lines.append(f"| {name} | {len(row['seeds'])}{lacks} | {state} | | | | | |")
      continue
    spread = "" if found["sd"] is None else f" ± {100 * found['sd']:.1f}"
    right = f"{100 * found['mean']:.1f} {interval(found)}{spread}"
    costs = f"{row['replies']:.0f} | {row['steps']:.0f} | {row['seconds']:.0f}"
    lines.append(
      f"| {name} | {len(row['seeds'])}{lacks} | {right} | "
      f"{against(found['difference'], name == table['base'])} | {costs} |"
    )
  sizes = {row["splits"][split]["n"] for row in table["rows"] if row["splits"][split]}
  asked = " or ".join(map(str, sorted(sizes))) or "no"
  return "\n".join([*lines, f"\n{asked} questions.\n"])


def against(found: dict | None, base: bool) -> str:
  """The cells of a difference."""
  if found is None:
    return "base | " if base else "- | "
  return f"{100 * found['mean']:+.1f} {interval(found, '+')} | {found['p']:.2g}"


def interval(found: dict, sign: str = "") -> str:
  return f"[{100 * found['low']:{sign}.1f}, {100 * found['high']:{sign}.1f}]"


def failures(failed: list[dict]) -> str:
  lines = ["## Failed, to be retried by the same command\n"]
  lines += [f"- {f['row']}, seed {f['seed']}: {f['reason']}: {f['said']}" for f in failed]
  return "\n".join([*lines, ""])


def claims(judged: list[dict]) -> str:
  lines = [
    "## Claims\n",
    "| claim | rows | split | effect | seeds | verdict |",
    "| --- | --- | --- | --- | ---: | --- |",
  ]
  for c in judged:
    rows = f"{c['better']} over {c['worse']}"
    lines.append(f"| {c['text']} | {rows} | {c['split']} | {effect(c)} | {count(c)} | {said(c)} |")
  return "\n".join([*lines, ""])


def effect(claim: dict) -> str:
  e = claim["effect"]
  return "" if e is None else f"{100 * e['mean']:+.1f} {interval(e, '+')}"


def count(claim: dict) -> str:
  have = claim["effect"]["seeds"] if claim["effect"] else 0
  return f"{have} of {have + claim['missing']}" if claim["missing"] else str(have)


def said(claim: dict) -> str:
  """The verdict; one that rests on fewer seeds than planned says so."""
  unfinished = claim["missing"] and claim["effect"]
  return claim["verdict"] + (", so far" if unfinished else "")
