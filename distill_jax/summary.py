"""Run summary: one row per round, and summary.json, whose format other tools rely on."""

import dataclasses
import importlib.metadata
import platform
from typing import TYPE_CHECKING

from distill_jax import plan, records, together
from distill_jax.run_dir import phase_dir
from distill_jax.run_dir.phase_dir import PhaseDir
from distill_jax.run_dir.run_dir import SUMMARY, RunDir
from distill_jax.runtime import results

if TYPE_CHECKING:  # it imports jax, which reports do without
  from distill_jax.runtime.context import RunContext

PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "transformers",
  "tokenizers",
  "openai",
  "numpy",
)

FINALS = ("test", "out_of_domain", "cross", "also")  # splits of the final test


@together.on_first
def row(run_dir: RunDir, round_index: int, *, no_mistakes: bool = False) -> dict:
  """Returns the summary row of a round, counted from the records of its phases (see `results`).

  Keys: round, exam, teacher, kept, dropped, contrasts, pairs, steps, loss, validation, no_mistakes.
  `exam`, `loss` and `validation` are None and the counts are zero (or empty) if their phase is not
  in the round's plan. With two training phases, `steps` is the sum and `loss` that of the last one.

  Args:
    run_dir: The run directory.
    round_index: The round.
    no_mistakes: Whether the round ended after an exam without mistakes. Its validation is then that
      of the previous round, since the student is the same.
  """
  phases = run_dir.finished(round_index)
  writers = [phase for name, phase in phases.items() if name in plan.WRITERS]
  trained = [results.training(phase) for name, phase in phases.items() if name in plan.TRAINERS]
  evaluated = phases.get("evaluate")
  if no_mistakes:
    evaluated = run_dir.find(round_index - 1, "evaluate")
  validation = results.evaluation(evaluated) if evaluated else None
  return {
    "round": round_index,
    "exam": results.exam(phases["exam"]) if "exam" in phases else None,
    "teacher": results.teacher_use(phases),
    "kept": sum(results.count(phase, phase_dir.RATIONALES) for phase in writers),
    "dropped": results.sum_by_key([phase.facts["dropped"] for phase in writers]),
    "contrasts": results.count(phases["train"], results.CONTRASTS) if "train" in phases else 0,
    "pairs": results.count(phases["pair"], results.PAIRS) if "pair" in phases else 0,
    "steps": sum(t["steps"] for t in trained),
    "loss": trained[-1]["loss"] if trained else None,
    "validation": validation and {n: validation[n] for n in ("accuracy", "low", "high", "n")},
    "no_mistakes": no_mistakes,
  }


@together.on_first
def untrained_row(phase: PhaseDir, shots: int) -> dict:
  """Returns the row of a student before training. Keys: round ("base"), shots, validation."""
  scores = results.evaluation(phase)
  validation = {n: scores[n] for n in ("accuracy", "low", "high", "n")}
  return {"round": "base", "shots": shots, "validation": validation}


@together.on_first
def write(ctx: "RunContext", rows: list[dict], best: int, base: list[dict]) -> dict:
  """Writes summary.json and returns its content.

  Args:
    ctx: The run context.
    rows: The rows of the rounds.
    best: The round that was tested.
    base: The rows of the student before training.
  """
  tested = ctx.final_problems()
  finals = {
    split: results.final(ctx.run_dir, split, best) if split in tested else None for split in FINALS
  }
  summary = {
    "recipe": ctx.settings.recipe,
    "base": base,
    "rounds": rows,
    "best_round": best,
    **finals,
    "seconds": round(ctx.run_dir.seconds, 1),
    "config": dataclasses.asdict(ctx.settings),
    "versions": {
      "python": platform.python_version(),
      **{p: importlib.metadata.version(p) for p in PACKAGES},
    },
  }
  ctx.run_dir.write_json(SUMMARY, summary)
  return summary


@together.on_first
def before_and_after(
  ctx: "RunContext", best: int, count: int = 3
) -> list[tuple[str, str, str, str]]:
  """Returns validation questions that round 0's student got wrong and the best one right.

  With several attempts at a question, one that has the voted answer is shown.

  Returns:
    Up to `count` tuples (question, first text, last text, gold).
  """
  first, last = _voted_attempts(ctx, 0), _voted_attempts(ctx, best)
  problems = [
    p for p in ctx.task.problems("validation") if not first[p.id].correct and last[p.id].correct
  ]
  return [(p.question, first[p.id].text, last[p.id].text, p.gold or "") for p in problems[:count]]


def _voted_attempts(ctx: "RunContext", round_index: int) -> dict[str, records.Attempt]:
  """Returns, for each validation question, the first attempt that has the voted answer."""
  out = ctx.run_dir.find(round_index, "evaluate")
  voted = {v.problem: v.answer for v in out.rows(results.VERDICTS, records.Verdict)}
  attempts: dict[str, records.Attempt] = {}
  for attempt in out.rows(phase_dir.ATTEMPTS, records.Attempt):
    if attempt.answer == voted[attempt.problem]:
      attempts.setdefault(attempt.problem, attempt)
  return attempts
