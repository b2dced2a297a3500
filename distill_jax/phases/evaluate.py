"""Held-out accuracy with its confidence interval: one greedy answer per question, or a vote."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from distill_jax import disk, records, together
from distill_jax.phases import exam
from distill_jax.run_dir.phase_dir import PhaseDir, write_json
from distill_jax.runtime import journal, results, resume
from distill_jax.runtime.context import RunContext

VERDICTS = results.VERDICTS
MEASURED = f"{results.MEASURED}.json"  # of an evaluation that may not be finished yet


def run(ctx: RunContext, round_index: int, out: PhaseDir) -> None:
  """Validates the student that the round ends with."""
  score(ctx, out, ctx.task.problems("validation"), "validation", round_index=round_index)


def measured(
  ctx: RunContext, problems: Sequence[records.Problem], round_index: int
) -> dict[str, Any]:
  """Returns what decides the result of an evaluation: round, weights, data, evaluate settings."""
  return {
    "round": round_index,
    "weights": results.weights(ctx.run_dir, round_index),
    "data": resume.digest(problems),
    "evaluate": {
      name: value
      for name, value in dataclasses.asdict(ctx.settings.evaluate).items()
      if name not in ("base", "base_shots", "also")  # they say what else is scored
    },
  }


@together.on_first
def discard_outdated(
  ctx: RunContext, out: PhaseDir, problems: Sequence[records.Problem], round_index: int
) -> None:
  """Removes an evaluation, finished or not, of other weights, data or settings."""
  if not out.path.exists():
    return
  if out.finished:
    stored = out.facts[results.MEASURED]
  else:
    try:
      stored = json.loads(disk.read_bytes(out.path / MEASURED))
    except (OSError, ValueError, RecursionError):
      stored = None
  if stored != measured(ctx, problems, round_index):
    name = out.path.relative_to(ctx.run_dir.path)
    ctx.console.line(f"{name} was measured with another student or other settings: measuring again")
    out.discard()


def score(
  ctx: RunContext,
  out: PhaseDir,
  problems: Sequence[records.Problem],
  split: str,
  *,
  round_index: int,
) -> None:
  """Scores a round's student on `problems`; writes attempts.jsonl and verdicts.jsonl.

  Facts: split, accuracy, correct, n, low and high (95% Wilson interval), and `measured`. Accuracy,
  low and high are fractions.
  """
  about = measured(ctx, problems, round_index)
  together.once("measured", lambda: write_json(out.path / MEASURED, about))
  settings = ctx.settings.evaluate
  style = "cot" if ctx.settings.format == "instruct" else ""
  # TinyThinker votes over sampled recalls and analyses; its summaries stay greedy.
  sampled = frozenset(ctx.settings.staged.stages) - {"summarize"}
  attempts = exam.sample_attempts(
    ctx,
    out,
    [exam.ExamItem(p, style) for p in problems],
    task=ctx.task,
    round_index=round_index,
    label=f"base {split}" if round_index < 0 else f"round {round_index} {split}",
    samples=settings.num_votes,
    temperature=settings.temperature if settings.num_votes > 1 else 0.0,
    max_new_tokens=settings.max_new_tokens,
    sampled_stages=sampled if ctx.settings.format == "staged" and sampled else None,
  )
  journal.remove(out)
  answers: dict[str, list[str | None]] = {}
  for attempt in attempts:
    answers.setdefault(attempt.problem, []).append(attempt.answer)
  verdicts = []
  for problem in problems:
    answer = vote(answers[problem.id])
    correct = answer is not None and ctx.task.is_correct(answer, problem)
    verdicts.append(records.Verdict(problem.id, answer, correct))
  out.write(VERDICTS, verdicts)
  scores = results.scores([v.correct for v in verdicts])
  out.finish({"split": split, **scores, results.MEASURED: about})


def vote(answers: Iterable[str | None]) -> str | None:
  """Returns the most frequent answer; ties go to the first.

  An answer that could not be read (None) has no vote, unless there is no other.
  """
  counts = Counter(a for a in answers if a is not None)
  return counts.most_common(1)[0][0] if counts else None
