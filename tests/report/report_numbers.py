"""Compares the numbers of a report with summary.json."""

import json

from distill_jax.report import load, numbers


def assert_equal(summary: dict, run_dir) -> str:
  """Checks every row and every final score. Returns the page that the run wrote at its end."""
  run = load.read(run_dir.path)
  rows = [numbers.row(run, index) for index in run.rounds]
  for row, expected in zip(rows, json.loads(json.dumps(summary["rounds"])), strict=True):
    assert row == expected
  for split, phase in run.finals.items():
    assert numbers.accuracy(phase.verdicts) == summary[split]
  assert run.best == summary["best_round"]
  page = (run_dir.path / "report.html").read_text("utf-8")
  for split in run.finals:
    assert f"{100 * summary[split]['accuracy']:.1f} %" in page
  return page
