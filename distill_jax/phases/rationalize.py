"""The student teaches itself (STaR, Zelikman et al. 2022).

Its correct exam attempts are kept. Questions it got wrong are attempted again with the correct
answer as a hint. With start_from="base", every round then trains the base on what was kept.
"""

from collections.abc import Iterable, Sequence

from distill_jax import records, thinking
from distill_jax.phases import exam
from distill_jax.run_dir import phase_dir
from distill_jax.runtime import conversations, journal
from distill_jax.runtime.context import RunContext

HINTED = "hinted.jsonl"


def run(ctx: RunContext, round_index: int, out: phase_dir.PhaseDir) -> None:
  """Writes rationales.jsonl (by the student) and hinted.jsonl (attempts with a hint).

  Facts: kept, right_alone, right_hinted, dropped (by reason).
  """
  finished_exam = ctx.run_dir.find(round_index, "exam")
  attempts = finished_exam.rows(phase_dir.ATTEMPTS, records.Attempt)
  right = first_per_problem(a for a in attempts if a.correct and a.finish == "stop")
  solved = {a.problem for a in right}
  problems = [ctx.problem(name) for name in dict.fromkeys(a.problem for a in attempts)]
  hinted = attempt_with_hint(ctx, round_index, out, [p for p in problems if p.id not in solved])
  out.write(HINTED, hinted)
  journal.remove(out)
  right_hinted = [a for a in hinted if a.correct and a.finish == "stop"]
  candidates = [rationale_from_attempt(ctx, a, prompt="") for a in right]
  candidates += [rationale_from_attempt(ctx, a, prompt="hint") for a in right_hinted]
  seen = {(r.problem, r.text) for r in ctx.training_rationales(round_index)}
  kept = [r for r in candidates if (r.problem, r.text) not in seen]
  out.write(phase_dir.RATIONALES, kept)
  out.finish(
    {
      "kept": len(kept),
      "right_alone": len(right),
      "right_hinted": len(right_hinted),
      "dropped": {
        "wrong_answer": len(hinted) - len(right_hinted),
        "duplicate": len(candidates) - len(kept),
      },
    }
  )


def first_per_problem(attempts: Iterable[records.Attempt]) -> list[records.Attempt]:
  """Returns the first attempt at each question."""
  first: dict[str, records.Attempt] = {}
  for attempt in attempts:
    first.setdefault(attempt.problem, attempt)
  return list(first.values())


def attempt_with_hint(
  ctx: RunContext, round_index: int, out: phase_dir.PhaseDir, problems: Sequence[records.Problem]
) -> list[records.Attempt]:
  """Makes one greedy attempt at each question with its answer as a hint."""
  label, task = f"round {round_index} rationalize", ctx.round_task(round_index)
  with (
    ctx.console.progress(label, len(problems), "attempts") as bar,
    journal.Journal(out, bar) as following,
  ):
    transcripts = conversations.run_conversations(
      [ctx.conversation(p, hint=p.gold) for p in problems],
      [f"{round_index}/{out.path.name}/{p.id}" for p in problems],
      students=ctx.students(round_index),
      temperature=0.0,
      max_new_tokens=ctx.settings.exam.max_new_tokens,
      stop=ctx.format.stop,
      watcher=following,
    )
  return [
    exam.grade(task, exam.ExamItem(p), 0, round_index, transcript)
    for p, transcript in zip(problems, transcripts, strict=True)
  ]


def rationale_from_attempt(
  ctx: RunContext, attempt: records.Attempt, prompt: str
) -> records.Rationale:
  """Returns an attempt as a rationale of the student; `prompt` is "" or "hint"."""
  problem, written = ctx.problem(attempt.problem), thinking.split(attempt.text)
  return records.Rationale(
    problem=problem.id,
    text=ctx.format.target(written.text, problem.gold),
    answer=attempt.answer,
    writer="student",
    round=attempt.round,
    prompt=prompt,
    sample=attempt.sample,
    temperature=0.0 if prompt else ctx.settings.exam.temperature,
    tokens=attempt.tokens,
    thinking=written.thinking,
  )
