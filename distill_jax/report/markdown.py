"""The report of a run as Markdown, for model cards and pull requests."""

from collections.abc import Sequence

from distill_jax import console
from distill_jax.report import alarms, layout, numbers, sections
from distill_jax.report.load import Run
from distill_jax.report.nodes import visible


def of_run(run: Run, others: Sequence[Run] = ()) -> str:
  """Returns the main tables of a run's report."""
  rows = [numbers.row(run, index) for index in run.rounds]
  total = numbers.teacher_use([p for phases in run.rounds.values() for p in phases])
  parts = [
    f"## Run {_cell(run.name)}",
    f"Recipe `{_code(run.setting('recipe'))}`, task `{_code(run.setting('task.name'))}`, teacher "
    f"`{_code(run.teacher)}`, seed {_code(run.setting('seed'))}; "
    f"{sections.state(run)}, {console.duration(run.seconds)}; {total['calls']:,} teacher calls, "
    f"{total['tokens']:,} tokens, {layout.dollars(total['dollars'])}.",
  ]
  if rows:
    parts.append(_rounds(run, rows))
  if finals := _finals(run, others):
    parts.append(finals)
  if dropped := numbers.dropped([p for phases in run.rounds.values() for p in phases]):
    listed = ", ".join(f"{_cell(name)} {n:,}" for name, n in sorted(dropped.items()) if n)
    parts.append(f"Dropped replies: {listed}.")
  if found := alarms.of_run(run):
    parts.append("\n".join(f"- {_cell(text)}" for text in found))
  return "\n\n".join(parts) + "\n"


def _rounds(run: Run, rows: Sequence[dict]) -> str:
  body = []
  for r in rows:
    now, before = run.phase(r["round"], "evaluate"), run.phase(r["round"] - 1, "evaluate")
    change = numbers.difference(now.verdicts, before.verdicts) if now and before else None
    exam = layout.percent(r["exam"]["accuracy"]) if r["exam"] else "–"
    name = f"{r['round']} (best)" if r["round"] == run.best else str(r["round"])
    score, use = layout.scored(r["validation"]), r["teacher"]
    cost = layout.dollars(use["dollars"])
    body.append(
      (name, exam, score, layout.signed(change), f"{use['calls']:,}", cost, f"{r['kept']:,}",
       f"{r['steps']:,}")
    )  # fmt: skip
  head = ("round", "exam", "validation (95% CI)", "change, points", "calls", "dollars", "kept",
          "steps")  # fmt: skip
  return _table(head, body)


def _finals(run: Run, others: Sequence[Run]) -> str:
  body = []
  for split, phase in run.finals.items():
    if phase.finished:
      row = [split.replace("_", " "), layout.scored(numbers.accuracy(phase.verdicts))]
      body.append([*row, *(_compared(run, other, split) for other in others)])
  head = ["split", "accuracy (95% CI)", *(f"difference to {other.name}" for other in others)]
  return _table(head, body) if body else ""


def _compared(run: Run, other: Run, split: str) -> str:
  return layout.signed(sections.paired(run, other, split))


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
  lines = [head, [":--", *["--:"] * (len(head) - 1)], *body]
  return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in lines)


def _cell(text: object) -> str:
  """Returns a text that stays in its cell and is not read as HTML or as a link."""
  shown = " ".join(visible(str(text)).split())
  for mark in ("\\", "|", "<", "[", "`", "*"):
    shown = shown.replace(mark, f"\\{mark}")
  return shown


def _code(text: object) -> str:
  return " ".join(visible(str(text)).split()).replace("`", "'")
