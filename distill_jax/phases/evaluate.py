"""Held-out accuracy with its interval: one greedy answer a question, or the vote of several."""

from collections import Counter

from distill_jax import records
from distill_jax.data import statistics
from distill_jax.phases import exam

VERDICTS = "verdicts.jsonl"


def run(run, number, here):
  """Validation of the student this round ends with."""
  score(run, here, run.task.problems("validation"), "validation", number=number)


def score(run, here, problems, split: str, *, number):
  """Writes attempts.jsonl and verdicts.jsonl. Facts: accuracy, correct, n, low, high (95 % Wilson
  interval), all shares; and the split."""
  e = run.settings.evaluate
  style = "cot" if run.settings.format == "instruct" else ""
  # TinyThinker votes over sampled recalls and analyses; its summaries stay greedy.
  thought = set(run.settings.staged.stages) - {"summarize"}
  staged = run.settings.format == "staged" and thought
  attempts = exam.take(
    run,
    here,
    [exam.Sitting(p, style) for p in problems],
    number=number,
    label=f"round {number} {split}",
    samples=e.num_votes,
    temperature=e.temperature if e.num_votes > 1 else 0.0,
    max_new_tokens=e.max_new_tokens,
    sampled=frozenset(thought) if staged else None,
  )
  answers = {}
  for attempt in attempts:
    answers.setdefault(attempt.problem, []).append(attempt.answer)
  verdicts = []
  for p in problems:
    answer = vote(answers[p.id])
    right = answer is not None and run.task.is_correct(answer, p)
    verdicts.append(records.Verdict(p.id, answer, right))
  here.write(VERDICTS, verdicts)
  correct = sum(v.correct for v in verdicts)
  low, high = statistics.wilson(correct, len(verdicts))
  here.finish(
    {
      "split": split,
      "accuracy": correct / max(len(verdicts), 1),
      "correct": correct,
      "n": len(verdicts),
      "low": low,
      "high": high,
    }
  )


def vote(answers) -> str | None:
  """The most frequent answer; of equally frequent ones, that which was given first. An answer that
  could not be read (None) has no vote, unless there is no other."""
  counts = Counter(a for a in answers if a is not None)
  return counts.most_common(1)[0][0] if counts else None
