"""The student teaches itself (STaR, Zelikman et al. 2022): what it got right in the exam is kept,
and what it got wrong it writes again with the right answer as a hint.

Every round then trains from the base (config.start_from) on what this phase kept.
"""

from distill_jax import records
from distill_jax.phases import exam
from distill_jax.run_dir import phase_dir
from distill_jax.runtime import conversations

HINTED = "hinted.jsonl"


def run(run, number, here):
  """Writes rationales.jsonl, by the student itself, and hinted.jsonl, what it wrote with a hint.
  Facts: kept (right_alone + right_hinted), dropped by reason."""
  attempts = run.folder.find(number, "exam").rows(phase_dir.ATTEMPTS, records.Attempt)
  right = first_of_each(a for a in attempts if a.correct and a.finish == "stop")
  known = {a.problem for a in right}
  missed = [run.problem(name) for name in dict.fromkeys(a.problem for a in attempts)]
  hinted = ask(run, number, here, [p for p in missed if p.id not in known])
  here.write(HINTED, hinted)
  helped = [a for a in hinted if a.correct and a.finish == "stop"]
  seen = {(r.problem, r.text) for r in run.rationales(number)}
  kept = [
    rationale
    for prompt, group in (("", right), ("hint", helped))
    for rationale in (of_attempt(run, a, prompt) for a in group)
    if (rationale.problem, rationale.text) not in seen
  ]
  here.write(phase_dir.RATIONALES, kept)
  same = len(right) + len(helped) - len(kept)
  here.finish(
    {
      "kept": len(kept),
      "right_alone": len(right),
      "right_hinted": len(helped),
      "dropped": {"wrong_answer": len(hinted) - len(helped), "duplicate": same},
    }
  )


def first_of_each(attempts) -> list[records.Attempt]:
  """Of each question the first."""
  found = {}
  for attempt in attempts:
    found.setdefault(attempt.problem, attempt)
  return list(found.values())


def ask(run, number, here, problems) -> list[records.Attempt]:
  """One greedy attempt at each problem, with its answer as a hint."""
  spoken = conversations.lead(
    [run.conversation(p, hint=p.gold) for p in problems],
    [f"{number}/{here.path.name}/{p.id}" for p in problems],
    students=run.students(number),
    temperature=0.0,
    max_new_tokens=run.settings.exam.max_new_tokens,
    stop=run.format.stop,
  )
  return [
    exam.grade(run.task, exam.Sitting(p), 0, number, s)
    for p, s in zip(problems, spoken, strict=True)
  ]


def of_attempt(run, attempt: records.Attempt, prompt: str) -> records.Rationale:
  problem = run.problem(attempt.problem)
  return records.Rationale(
    problem=problem.id,
    text=run.format.target(attempt.text, problem.gold),
    answer=attempt.answer,
    writer="student",
    round=attempt.round,
    prompt=prompt,
    sample=attempt.sample,
    temperature=run.settings.exam.temperature if not prompt else 0.0,
    tokens=attempt.tokens,
  )
