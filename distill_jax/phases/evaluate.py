"""Held-out accuracy with its confidence interval: one greedy answer per question, or a vote."""

from collections import Counter
from collections.abc import Iterable, Sequence

from distill_jax import records
from distill_jax.data import statistics
from distill_jax.phases import exam
from distill_jax.run_dir.phase_dir import PhaseDir
from distill_jax.runtime.context import RunContext

VERDICTS = "verdicts.jsonl"


def run(ctx: RunContext, round_index: int, out: PhaseDir) -> None:
  """Validates the student that the round ends with."""
  score(ctx, out, ctx.task.problems("validation"), "validation", round_index=round_index)


def score(
  ctx: RunContext,
  out: PhaseDir,
  problems: Sequence[records.Problem],
  split: str,
  *,
  round_index: int,
) -> None:
  """Scores a round's student on `problems`; writes attempts.jsonl and verdicts.jsonl.

  Facts: split, accuracy, correct, n, low and high (95% Wilson interval). Accuracy, low and high are
  fractions.
  """
  settings = ctx.settings.evaluate
  style = "cot" if ctx.settings.format == "instruct" else ""
  # TinyThinker votes over sampled recalls and analyses; its summaries stay greedy.
  sampled = frozenset(ctx.settings.staged.stages) - {"summarize"}
  attempts = exam.sample_attempts(
    ctx,
    out,
    [exam.ExamItem(p, style) for p in problems],
    round_index=round_index,
    label=f"round {round_index} {split}",
    samples=settings.num_votes,
    temperature=settings.temperature if settings.num_votes > 1 else 0.0,
    max_new_tokens=settings.max_new_tokens,
    sampled_stages=sampled if ctx.settings.format == "staged" and sampled else None,
  )
  answers: dict[str, list[str | None]] = {}
  for attempt in attempts:
    answers.setdefault(attempt.problem, []).append(attempt.answer)
  verdicts = []
  for problem in problems:
    answer = vote(answers[problem.id])
    correct = answer is not None and ctx.task.is_correct(answer, problem)
    verdicts.append(records.Verdict(problem.id, answer, correct))
  out.write(VERDICTS, verdicts)
  correct = sum(v.correct for v in verdicts)
  low, high = statistics.wilson(correct, len(verdicts))
  out.finish(
    {
      "split": split,
      "accuracy": correct / max(len(verdicts), 1),
      "correct": correct,
      "n": len(verdicts),
      "low": low,
      "high": high,
    }
  )


def vote(answers: Iterable[str | None]) -> str | None:
  """Returns the most frequent answer; ties go to the first.

  An answer that could not be read (None) has no vote, unless there is no other.
  """
  counts = Counter(a for a in answers if a is not None)
  return counts.most_common(1)[0][0] if counts else None
