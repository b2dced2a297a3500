"""Run summary: one row per round, and summary.json, whose format other tools rely on."""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Iterable

from distill_jax import plan, records
from distill_jax.phases import evaluate
from distill_jax.run_dir import phase_dir
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

FINALS = ("test", "out_of_domain", "cross")  # splits of the final test
NO_COST = {"calls": 0, "cache_hits": 0, "tokens": 0, "dollars": 0.0}


def row(ctx: RunContext, round_index: int, *, no_mistakes: bool = False) -> dict:
  """Returns the summary row of a round, from the manifests of its phases.

  Keys: round, exam, teacher, kept, dropped, contrasts, pairs, steps, loss, validation, no_mistakes.
  `exam`, `loss` and `validation` are None and the counts are zero (or empty) if their phase is not
  in the round's plan. With two training phases, `steps` is the sum and `loss` that of the last one.

  Args:
    ctx: The run context.
    round_index: The round.
    no_mistakes: Whether the round ended after an exam without mistakes. Its validation is then that
      of the previous round, since the student is the same.
  """
  facts = {name: phase.facts for name, phase in ctx.run_dir.finished(round_index).items()}
  writers = [facts[name] for name in plan.WRITERS if name in facts]
  trainers = [facts[name] for name in plan.TRAINERS if name in facts]
  if no_mistakes:
    facts["evaluate"] = ctx.run_dir.find(round_index - 1, "evaluate").facts

  def select(phase: str, *names: str) -> dict | None:
    return {n: facts[phase][n] for n in names} if phase in facts else None

  return {
    "round": round_index,
    "exam": select("exam", "accuracy", "n", "mistakes"),
    "teacher": sum_by_key([NO_COST, *(w["teacher"] for w in writers if "teacher" in w)]),
    "kept": sum(w["kept"] for w in writers),
    "dropped": sum_by_key([w["dropped"] for w in writers]),
    "contrasts": facts["train"]["contrasts"] if "train" in facts else 0,
    "pairs": facts["pair"]["pairs"] if "pair" in facts else 0,
    "steps": sum(t["steps"] for t in trainers),
    "loss": trainers[-1]["loss"] if trainers else None,
    "validation": select("evaluate", "accuracy", "low", "high", "n"),
    "no_mistakes": no_mistakes,
  }


def sum_by_key(parts: Iterable[dict]) -> dict:
  """Adds up dictionaries key by key."""
  total = {}
  for part in parts:
    for name, value in part.items():
      total[name] = total.get(name, 0) + value
  return total


def write(ctx: RunContext, rows: list[dict], best: int) -> dict:
  """Writes summary.json and returns its content. `best` is the round that was tested."""
  finals = {}
  for split in FINALS:
    phase = ctx.run_dir.final(split)
    facts = phase.facts if phase.finished else None
    finals[split] = facts and {n: facts[n] for n in ("accuracy", "correct", "low", "high", "n")}
  summary = {
    "recipe": ctx.settings.recipe,
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
  ctx.run_dir.write_json("summary.json", summary)
  return summary


def before_and_after(ctx: RunContext, best: int, count: int = 3) -> list[tuple[str, str, str, str]]:
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


def _voted_attempts(ctx: RunContext, round_index: int) -> dict[str, records.Attempt]:
  """Returns, for each validation question, the first attempt that has the voted answer."""
  out = ctx.run_dir.find(round_index, "evaluate")
  voted = {v.problem: v.answer for v in out.rows(evaluate.VERDICTS, records.Verdict)}
  attempts: dict[str, records.Attempt] = {}
  for attempt in out.rows(phase_dir.ATTEMPTS, records.Attempt):
    if attempt.answer == voted[attempt.problem]:
      attempts.setdefault(attempt.problem, attempt)
  return attempts
