"""The student answers training questions; every attempt is kept with its verdict (Wang et al. 2023:
the exam)."""

from typing import NamedTuple

from distill_jax import records
from distill_jax.run_dir import phase_dir
from distill_jax.runtime import conversations


class Sitting(NamedTuple):
  """What is asked of the student: a problem in a style; `stage`: the one stage that is sampled, ""
  for all; `given`: (stage, text) of stages that stand."""

  problem: records.Problem
  style: str = ""
  stage: str = ""
  given: tuple[tuple[str, str], ...] = ()


def run(run, number, here):
  """Writes attempts.jsonl; facts: accuracy over all attempts, their number, mistakes, questions.

  In format staged each stage of config.staged.reflect is sampled in turn: first all that follows
  one sampled recall; then, from every right recall, sampled analyses (TinyThinker).
  """
  exam = run.settings.exam
  problems = run.lesson(number).problems("train")
  problems = problems[: exam.questions or len(problems)]
  stages = run.settings.staged.reflect if run.settings.format == "staged" else ("",)
  attempts = []
  for stage in stages:
    recalled = [a for a in attempts if a.stage == "recall"]
    if stage == "analyze" and recalled:
      sittings = from_right_recalls(problems, recalled, run.settings.staged.starts)
    else:
      sittings = [Sitting(p, style, stage) for style in exam.styles for p in problems]
    attempts += take(
      run,
      here,
      sittings,
      number=number,
      label=f"round {number} exam{' ' * bool(stage)}{stage}",
      samples=exam.samples,
      temperature=exam.temperature,
      top_p=exam.top_p,
      top_k=exam.top_k,
      max_new_tokens=exam.max_new_tokens,
      first=len(attempts),
      sampled=frozenset([stage]) if stage else None,
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


def from_right_recalls(problems, attempts, limit: int) -> list[Sitting]:
  """A sitting for each different recall that led to the right answer and never to a wrong one, in
  an attempt that was not cut off; at most `limit` of a question, 0 for all."""
  right, wrong = {}, set()
  for a in attempts:
    recall = a.turns[0][2]
    if not a.correct:
      wrong.add((a.problem, recall))
    elif a.finish == "stop":
      right.setdefault(a.problem, {})[recall] = None
  sittings = []
  for p in problems:
    kept = [text for text in right.get(p.id, ()) if (p.id, text) not in wrong]
    sittings += [
      Sitting(p, "", "analyze", (("recall", text),)) for text in kept[: limit or len(kept)]
    ]
  return sittings


def take(
  run,
  here,
  sittings,
  *,
  number,
  label,
  samples,
  temperature,
  top_p=1.0,
  top_k=0,
  max_new_tokens,
  first=0,
  sampled=None,
):
  """`samples` attempts at each sitting by the newest students, as rows of attempts.jsonl from row
  `first` on. A part of them is on disk as soon as it is read, and a killed run goes on after it.
  `sampled`: the stages that are, None for all; the others are greedy."""
  students = run.students(number)
  readers = [student for student, _ in students.values()]
  prompts = [run.prompt(s.problem, s.style) for s in sittings]
  lengths = [len(readers[0].read(prompt)) for prompt in prompts]
  if cut := sum(n > max(run.settings.rollout.buckets) for n in lengths):
    run.console.warn(
      f"{label}: {cut} prompts are longer than rollout.buckets: their beginnings are lost"
    )
  order = sorted(range(len(sittings)), key=lambda n: lengths[n])
  work = [(sittings[n], k) for n in order for k in range(samples)]
  done = whole(here, first, len(work), samples)
  size = max(4 * run.settings.rollout.batch // samples, 1) * samples
  later = set()  # prompts with what was said before in them
  with run.console.progress(label, len(work), "attempts") as bar:
    bar.update(len(done))
    for start in range(len(done), len(work), size):
      part = work[start : start + size]
      spoken = conversations.lead(
        [run.conversation(s.problem, s.style, s.given) for s, _ in part],
        [name_of(number, here, s, k) for s, k in part],
        students=students,
        samples=samples,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        max_new_tokens=max_new_tokens,
        stop=run.format.stop,
        sampled=sampled,
      )
      new = [
        grade(run.task, sitting, k, number, s) for (sitting, k), s in zip(part, spoken, strict=True)
      ]
      later.update(p for s in spoken for _, p, _ in s.turns if len(s.turns) > 1)
      here.append(phase_dir.ATTEMPTS, new)
      done += new
      bar.update(len(done), right=sum(a.correct for a in done))
  later -= set(prompts)
  if cut := sum(
    len(readers[0].read(prompt)) > max(run.settings.rollout.buckets) for prompt in later
  ):
    run.console.warn(
      f"{label}: {cut} prompts of later turns are longer than rollout.buckets: their beginnings "
      "were lost"
    )
  return done


def name_of(number, here, sitting: Sitting, sample: int) -> str:
  """What tells this attempt's random numbers from all others'."""
  more = [sitting.style, sitting.stage, *(text for _, text in sitting.given)]
  return "/".join([f"{number}/{here.path.name}/{sitting.problem.id}/{sample}", *filter(None, more)])


def whole(here, first: int, most: int, samples: int) -> list[records.Attempt]:
  """What a killed run left from row `first` on, of sittings that have all their samples; the rest
  is taken out of the file."""
  rows = here.rows(phase_dir.ATTEMPTS, records.Attempt)
  found = rows[first : first + most]
  kept = found[: len(found) - len(found) % samples]
  if len(kept) < len(found):
    here.write(phase_dir.ATTEMPTS, rows[:first] + kept)
  return kept


def grade(task, sitting: Sitting, sample, number, spoken) -> records.Attempt:
  problem = sitting.problem
  answer = task.read_answer(spoken.text, problem)
  return records.Attempt(
    problem=problem.id,
    text=spoken.text,
    answer=answer,
    correct=answer is not None and task.is_correct(answer, problem),
    round=number,
    sample=sample,
    finish=spoken.finish,
    tokens=spoken.tokens,
    logprob=spoken.logprob,
    style=sitting.style,
    stage=sitting.stage,
    turns=spoken.turns if sitting.stage or len(spoken.turns) > 1 else (),
  )
