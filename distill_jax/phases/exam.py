"""The student answers training questions; every attempt is kept with its verdict (Wang et al. 2023:
the exam)."""

from collections import Counter

from distill_jax import records
from distill_jax.phases import conversations

ATTEMPTS = "attempts.jsonl"


def run(run, number, here):
  """Writes attempts.jsonl; facts: accuracy over all attempts, their number, mistakes, questions."""
  exam = run.settings.exam
  problems = run.task.problems("train")
  problems = problems[: exam.questions or len(problems)]
  attempts = take(
    run,
    here,
    problems,
    number=number,
    label=f"round {number} exam",
    samples=exam.samples,
    temperature=exam.temperature,
    top_p=exam.top_p,
    top_k=exam.top_k,
    new_tokens=exam.new_tokens,
    student=run.student_before(number),
  )
  right = sum(a.correct for a in attempts)
  here.finish(
    {
      "accuracy": right / max(len(attempts), 1),
      "n": len(attempts),
      "mistakes": len(attempts) - right,
      "questions": len(problems),
    }
  )


def take(
  run,
  here,
  problems,
  *,
  number,
  label,
  samples,
  temperature,
  top_p=1.0,
  top_k=0,
  new_tokens,
  student,
):
  """All attempts at `problems`, from where a killed run left off. A part of them is on disk as soon
  as it is read."""
  done = whole(here, samples)
  seen = {a.problem for a in done}
  lengths = {p.id: len(student[0].read(run.prompt(p))) for p in problems}
  if cut := sum(n > max(run.settings.rollout.buckets) for n in lengths.values()):
    run.console.warn(
      f"{label}: {cut} prompts are longer than rollout.buckets: their beginnings are lost"
    )
  left = sorted((p for p in problems if p.id not in seen), key=lambda p: lengths[p.id])
  size = max(4 * run.settings.rollout.batch // samples, 1)
  with run.console.progress(label, len(problems) * samples, "attempts") as bar:
    bar.update(len(done))
    for start in range(0, len(left), size):
      part = [(p, k) for p in left[start : start + size] for k in range(samples)]
      spoken = conversations.lead(
        [run.conversation(p) for p, _ in part],
        [f"{number}/{here.path.name}/{p.id}/{k}" for p, k in part],
        students={"student": student},
        samples=samples,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        new_tokens=new_tokens,
        stop=run.format.stop,
      )
      new = [grade(run.task, p, k, number, s) for (p, k), s in zip(part, spoken, strict=True)]
      here.append(ATTEMPTS, new)
      done += new
      bar.update(len(done), right=sum(a.correct for a in done))
  return done


def whole(here, samples: int) -> list[records.Attempt]:
  """What a killed run left of questions that have all their samples; the rest is taken out of the
  file."""
  rows = here.rows(ATTEMPTS, records.Attempt)
  counts = Counter(a.problem for a in rows)
  kept = [a for a in rows if counts[a.problem] == samples]
  if len(kept) < len(rows):
    here.write(ATTEMPTS, kept)
  return kept


def grade(task, problem, sample, number, spoken) -> records.Attempt:
  answer = task.read_answer(spoken.text, problem)
  return records.Attempt(
    problem=problem.id,
    text=spoken.text,
    answer=answer,
    correct=task.is_correct(answer, problem),
    round=number,
    sample=sample,
    finish=spoken.finish,
    tokens=spoken.tokens,
    logprob=spoken.logprob,
  )
