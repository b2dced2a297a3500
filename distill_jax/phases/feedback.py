"""The teacher reads mistakes and tailors rationales to them (Wang et al. 2023: student's feedback,
customised feedback).

The paper did not release its prompts; ours are in teacher/prompts/messages.py. `kind="blind"` is
the ablation: as many replies, but the teacher annotates the question afresh, without the mistake.
"""

import types
from collections import Counter

from distill_jax import records
from distill_jax.phases import demonstrate
from distill_jax.run_dir import phase_dir
from distill_jax.runtime import rationales
from distill_jax.teacher import types as asking
from distill_jax.teacher.prompts import messages as prompts
from distill_jax.teacher.prompts import schema

BYTES_A_TOKEN = 4  # of a student, about; what a mistake may come to is estimated by it


def run(run, number, here):
  """Writes rationales.jsonl: answers to this round's mistakes."""
  attempts = run.folder.find(number, "exam").rows(phase_dir.ATTEMPTS, records.Attempt)
  read = demonstrate.annotated if run.settings.feedback.kind == "blind" else corrected
  rationales.collect(run, number, here, wishes(run, number, attempts), read)


def asked(run, number):
  """See phases.asked. Until the exam is over, every attempt may be a mistake, and as long as it
  can be."""
  if "exam" in (done := run.folder.finished(number)):
    return wishes(run, number, done["exam"].rows(phase_dir.ATTEMPTS, records.Attempt)), []
  settings = run.settings.exam
  problems = run.lesson(number).problems("train")
  text = "x" * (BYTES_A_TOKEN * settings.max_new_tokens)
  worst = [
    types.SimpleNamespace(problem=p.id, text=f"{n} {text}", correct=False)
    for p in problems[: settings.questions or len(problems)]
    for n in range(settings.samples * len(settings.styles))
  ]
  return [], wishes(run, number, worst)


def wishes(run, number, attempts) -> list[rationales.Wanted]:
  """What the teacher is asked about the mistakes among the attempts."""
  settings = run.settings.feedback
  mistakes = chosen(attempts, settings.mistakes)
  if settings.kind == "blind":
    return blind(run, number, [run.problem(m.problem) for m in mistakes], settings)
  return [tailored(run, run.problem(m.problem), m, settings) for m in mistakes]


def corrected(text: str, problem) -> rationales.Read | None:
  found = schema.corrected(text) or prompts.split_correction(text)
  return found and rationales.Read(found[1], critique=found[0])


def chosen(attempts, limit: int):
  """Up to `limit` different wrong attempts of each question, in the order of the exam."""
  picked, texts = [], {}
  for attempt in attempts:
    seen = texts.setdefault(attempt.problem, set())
    if not attempt.correct and attempt.text not in seen and len(seen) < limit:
      seen.add(attempt.text)
      picked.append(attempt)
  return picked


def tailored(run, problem, mistake, settings) -> rationales.Wanted:
  question, gold = run.task.render(problem), problem.gold if settings.show_gold else None
  messages = prompts.correct(question, mistake.text, gold)
  return rationales.Wanted(
    problem,
    asking.Request("correct", question, messages, settings.rationales),
    corrects=mistake.text,
  )


def blind(run, number, asked, settings) -> list[rationales.Wanted]:
  """One request for each mistake, for samples of the question that no round before has asked
  for."""
  before = number if "feedback" in run.settings.opening else number - 1  # rounds with feedback
  times = 1 + run.settings.rounds * ("demonstrate" in run.settings.each_round)
  asked_for = run.settings.demonstrate
  demonstrated = times * asked_for.rationales * asked_for.passes
  first = demonstrated + before * settings.mistakes * settings.rationales
  drawn, wanted = Counter(), []
  for problem in asked:
    question = run.task.render(problem)
    messages = prompts.annotate(question, run.task.shots[:1])
    request = asking.Request(
      "annotate", question, messages, settings.rationales, first=first + drawn[problem.id]
    )
    wanted.append(rationales.Wanted(problem, request))
    drawn[problem.id] += settings.rationales
  return wanted
