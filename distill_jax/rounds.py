"""The loop over rounds. Round 0 runs `opening`; every later round runs `each_round`.

Each round starts from the previous round's student. Each phase writes a manifest when it completes
and is skipped on restart, so re-running the same command resumes the run. All state lives in the
run directory; nothing is kept in memory between phases.
"""

import shutil
import time
from collections.abc import Callable

from distill_jax import phases, summary, together
from distill_jax.phases import evaluate
from distill_jax.run_dir.phase_dir import PhaseDir
from distill_jax.runtime import fit, results
from distill_jax.runtime.base_model import SCRATCH
from distill_jax.runtime.context import RunContext
from distill_jax.settings import Settings, Stop


def run(ctx: RunContext) -> dict:
  """Runs all rounds and the final test.

  Returns:
    The summary, which is also written to summary.json.
  """
  base = score_untrained(ctx)
  rows = []
  for round_index in range(ctx.settings.rounds + 1):
    rows.append(run_round(ctx, round_index))
    ctx.console.round_row(rows[-1])
    ctx.console.rounds_plot(rows)
    ctx.tracking.round(rows[-1])
    if reason := stop_reason(ctx.settings.stop, rows):
      ctx.console.line(f"Stopping after round {round_index}: {reason}")
      break
  best = best_round(rows)
  for split, problems in ctx.final_problems().items():

    def score(out: PhaseDir, split=split, problems=problems) -> None:
      evaluate.score(ctx.of_split(split), out, problems, split, round_index=best)

    out = ctx.run_dir.final(split)
    evaluate.discard_outdated(ctx, out, problems, best)
    run_unfinished(ctx, score, out)
  return summary.write(ctx, rows, best, base)


def score_untrained(ctx: RunContext) -> list[dict]:
  """Validates a pretrained student before training: zero-shot, and with worked examples.

  Returns:
    The rows that the table of rounds begins with; none of a student from scratch, or if the plan
    has no training, so that round 0 is this row.
  """
  settings = ctx.settings
  if settings.student.init == SCRATCH or not settings.opening:
    return []
  wanted = [0] if settings.evaluate.base else []
  if settings.evaluate.base_shots:
    wanted.append(settings.evaluate.base_shots)
  problems, rows = ctx.task.problems("validation"), []
  for shots in wanted:
    out, prompted = ctx.run_dir.untrained(shots), ctx.with_shots(shots)

    def score(out: PhaseDir, prompted=prompted) -> None:
      evaluate.score(prompted, out, problems, "validation", round_index=-1)

    evaluate.discard_outdated(ctx, out, problems, -1)
    run_unfinished(ctx, score, out)
    rows.append(summary.untrained_row(out, shots))
    ctx.console.round_row(rows[-1])
  return rows


def run_round(ctx: RunContext, round_index: int) -> dict:
  """Runs the phases of a round and returns its row of the summary.

  If a round learns from mistakes and its exam has none, it ends after the exam, without an
  evaluation.
  """
  plan = ctx.settings.opening if round_index == 0 else ctx.settings.each_round
  for position, name in enumerate([*plan, "evaluate"]):
    out = ctx.run_dir.phase(round_index, position, name)
    if name == "evaluate":
      evaluate.discard_outdated(ctx, out, ctx.task.problems("validation"), round_index)

    def phase(out: PhaseDir, name=name) -> None:
      phases.run_phase(name, ctx, round_index, out)

    run_unfinished(ctx, phase, out)
    no_mistakes = name == "exam" and results.exam(out)["mistakes"] == 0
    if round_index and no_mistakes and learns_from_mistakes(ctx.settings):
      return summary.row(ctx.run_dir, round_index, no_mistakes=True)
  return summary.row(ctx.run_dir, round_index)


def learns_from_mistakes(settings: Settings) -> bool:
  """Returns whether the rounds after the opening need mistakes to train on.

  Preference pairs by style (`cot_over_plain`) do not: both answers may be correct. Nor do
  demonstrations, and a student that teaches itself (`rationalize`) keeps its correct attempts.
  """
  phases = settings.each_round
  pairs = "pair" in phases and settings.pair.policy != "cot_over_plain"
  return ("feedback" in phases or pairs) and "demonstrate" not in phases


def run_unfinished(ctx: RunContext, phase: Callable[[PhaseDir], None], out: PhaseDir) -> None:
  """Runs a phase unless it is finished, and adds its seconds to the run's total."""
  if not out.finished:
    start = time.monotonic()
    try:
      phase(out)
    finally:
      ctx.run_dir.add_seconds(time.monotonic() - start)
    ctx.run_dir.seal()
  # The optimizer state is needed only within the phase. Removing it outside the `if` also removes
  # what a run killed right after `phase` left behind.
  _remove_checkpoints(out)


@together.on_first
def _remove_checkpoints(out: PhaseDir) -> None:
  shutil.rmtree(out.path / fit.CHECKPOINTS, ignore_errors=True)


def finished_phases(ctx: RunContext) -> set[tuple[int, str]]:
  """Returns (round, name of the phase's directory) of every finished phase."""
  rounds = range(ctx.settings.rounds + 1)
  return {(n, phase.path.name) for n in rounds for phase in ctx.run_dir.finished(n).values()}


def stop_reason(stop: Stop, rows: list[dict]) -> str | None:
  """Returns why no further round is run, or None."""
  if rows[-1]["no_mistakes"]:
    return "the student made no mistake in its exam"
  if not stop.patience or len(rows) <= stop.patience:
    return None
  before = max(r["validation"]["accuracy"] for r in rows[: -stop.patience])
  since = max(r["validation"]["accuracy"] for r in rows[-stop.patience :])
  if since <= before + stop.min_gain:
    return f"no gain on validation in {stop.patience} rounds"
  return None


def best_round(rows: list[dict]) -> int:
  """Returns the round with the best validation accuracy; ties go to the first."""
  return max(rows, key=lambda r: (r["validation"]["accuracy"], -r["round"]))["round"]
