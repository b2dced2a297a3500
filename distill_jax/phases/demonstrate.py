"""The teacher writes for training questions, without knowing the student: rationales, stages or
decompositions, as the format wants them. Or the data set's own are taken (source="gold")."""

from collections import Counter

from distill_jax import records
from distill_jax.formats import cot, decompositions
from distill_jax.run_dir import phase_dir
from distill_jax.runtime import rationales
from distill_jax.teacher import types
from distill_jax.teacher.prompts import messages as prompts
from distill_jax.teacher.prompts import schema


def run(run, number, here):
  """Writes rationales.jsonl: `demonstrate.rationales` asked for each of `demonstrate.questions`
  questions."""
  settings = run.settings.demonstrate
  if not (wanted := wishes(run, number)):
    return gold(run, number, here, questions(run))
  rationales.collect(
    run, number, here, wanted, reader(run),
    passes=settings.passes, relabel=settings.relabel, distance=settings.distance,
  )  # fmt: skip


def asked(run, number):
  """See phases.asked."""
  wanted = wishes(run, number)
  more, last = [], wanted
  for _ in range(run.settings.demonstrate.passes - 1):
    last = [rationales.again(w, w.request.samples) for w in last]
    more += last
  return wanted, more


def questions(run):
  """The problems it is about."""
  problems = run.task.problems("train")
  return problems[: run.settings.demonstrate.questions or len(problems)]


def wishes(run, number) -> list[rationales.Wanted]:
  """What the teacher is asked at first; nothing, where what came with the questions is taken."""
  settings = run.settings.demonstrate
  if settings.source == "gold" or not run.format.request_kind:
    return []
  first = number * settings.rationales * settings.passes
  return [
    rationales.Wanted(
      p,
      types.Request(
        run.format.request_kind,
        run.task.render(p),
        messages(run, p),
        settings.rationales,
        first=first,
      ),
    )
    for p in questions(run)
  ]


def messages(run, problem):
  """What the teacher is told."""
  question, shots = run.task.render(problem), run.task.shots[:1]
  if run.format.request_kind == "annotate":
    return prompts.annotate(question, shots)
  known = problem.gold if run.settings.demonstrate.show_gold else None
  if run.format.request_kind == "stage":
    return prompts.stage(problem.question, problem.choices, known)
  return prompts.decompose(question, gold=known)


def reader(run):
  """What reads a reply to it: see rationales.collect."""
  if run.format.request_kind == "annotate":
    return annotated
  if run.format.request_kind == "decompose":
    return decomposed
  if "analyze" in run.format.stages:
    return staged
  # Without analyses a chain of thought will do, such as a recorded teacher's.
  return lambda text, problem: staged(text, problem) or recalled(text, run.task, problem)


def annotated(text: str, problem) -> rationales.Read:
  return rationales.Read(schema.annotated(text) or text)


def recalled(text: str, task, problem) -> rationales.Read | None:
  """A chain of thought, without its answer, as what one has to know."""
  *body, _ = cot.target(text, "").split("\n")
  sentences = " ".join(body).replace(". ", ".\n").split("\n")
  recall = " ".join(sentences[:-1] if cot.is_closing(sentences[-1]) else sentences)
  answer = task.read_answer(text, problem)
  if answer is None or not recall:
    return None
  return rationales.Read(f"{recall}\nAnswer: {answer}", parts=(("recall", recall),))


def staged(text: str, problem) -> rationales.Read | None:
  # In the teacher's order: a format has its own, and (compat) may take this one.
  labels = tuple(label for label, _ in problem.choices)
  found = schema.staged(text, labels)
  found = found or prompts.split_stages(text, labels, as_written=True)
  if found is None:
    return None
  parts, label = found
  lines = [said for _, said in parts]
  return rationales.Read("\n".join([*lines, f"Answer: {label}"]), parts=parts)


def decomposed(text: str, problem) -> rationales.Read | None:
  parts, text = schema.decomposed(text) or (prompts.split_steps(text), text)
  return None if parts is None else rationales.Read(text, parts=parts)


def told(steps) -> str:
  """Sub-questions and solutions as one text."""
  return "\n".join(line for step in steps for line in step if line)


def gold(run, number, here, problems) -> None:
  """The rationales that came with the questions. Facts: kept, dropped (no_rationale: there is none,
  or it has sub-questions that nothing answers)."""
  kept, dropped = [], Counter()
  for p in problems:
    text, parts = p.rationale, ()
    if run.format.request_kind == "decompose":
      parts = p.decomposition
      text = told(parts) if decompositions.with_solutions(p, parts) else ""
    elif run.format.request_kind == "":
      text = run.format.target("", p.gold)
    elif text:
      text = run.format.target(text, p.gold)
    if not text:
      dropped["no_rationale"] += 1
      continue
    kept.append(
      records.Rationale(
        p.id, text, p.gold, "gold", number, prompt="", sample=0, temperature=0.0, parts=parts
      )
    )
  here.write(phase_dir.RATIONALES, kept)
  here.finish({"kept": len(kept), "dropped": dict(dropped)})
