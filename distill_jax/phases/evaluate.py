"""Held-out accuracy with its interval: greedy decoding, one answer a question."""

from distill_jax.data import intervals
from distill_jax.phases import exam


def run(run, number, here):
  """Validation of the student this round ends with."""
  score(run, here, "validation", number=number, student=run.student_after(number))


def score(run, here, split, *, number, student):
  """Facts: accuracy, correct, n, low, high (95 % Wilson interval), all shares; and the split."""
  attempts = exam.take(
    run,
    here,
    run.task.problems(split),
    number=number,
    label=f"round {number} {split}",
    samples=1,
    temperature=0.0,
    new_tokens=run.settings.evaluate.new_tokens,
    student=student,
  )
  correct = sum(a.correct for a in attempts)
  low, high = intervals.wilson(correct, len(attempts))
  here.finish(
    {
      "split": split,
      "accuracy": correct / max(len(attempts), 1),
      "correct": correct,
      "n": len(attempts),
      "low": low,
      "high": high,
    }
  )
