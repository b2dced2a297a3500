"""The teacher reads the student's mistakes and writes rationales tailored to them.

Source: student's feedback and customized feedback of Wang et al. 2023. The paper did not release
its prompts; ours are in teacher/prompts/messages.py. `kind="blind"` is the ablation: the same
number of replies, but the teacher sees only the question and not the mistake.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from distill_jax import records, thinking
from distill_jax.phases import demonstrate
from distill_jax.run_dir import phase_dir
from distill_jax.runtime import rationales
from distill_jax.runtime.context import RunContext
from distill_jax.teacher import types
from distill_jax.teacher.prompts import messages, parsing, schema

BYTES_PER_TOKEN = 4  # of a student's text, about; bounds the length of a mistake


class GradedText(Protocol):
  """The fields of an attempt that feedback uses."""

  @property
  def problem(self) -> str:
    """The id of the question."""
    ...

  @property
  def text(self) -> str:
    """What the student wrote."""
    ...

  @property
  def correct(self) -> bool:
    """The verdict."""
    ...

  @property
  def finish(self) -> str:
    """How it ended: stop or length."""
    ...


class Mistake(NamedTuple):
  """A hypothetical wrong attempt, for the cost bound before the exam is finished."""

  problem: str
  text: str
  correct: bool = False
  finish: str = "stop"


def run(ctx: RunContext, round_index: int, out: phase_dir.PhaseDir) -> None:
  """Writes rationales.jsonl: the teacher's answers to this round's mistakes."""
  exam = ctx.run_dir.find(round_index, "exam")
  attempts = exam.rows(phase_dir.ATTEMPTS, records.Attempt)
  requests = build_requests(ctx, round_index, attempts)
  rationales.collect(ctx, round_index, out, requests, parser(ctx))


def planned_requests(
  ctx: RunContext, round_index: int
) -> tuple[list[rationales.TeacherRequest], list[rationales.TeacherRequest]]:
  """See phases.planned_requests.

  Until the exam is finished, the bound assumes that every attempt is wrong and as long as allowed.
  """
  finished = ctx.run_dir.finished(round_index)
  if "exam" in finished:
    attempts = finished["exam"].rows(phase_dir.ATTEMPTS, records.Attempt)
    return build_requests(ctx, round_index, attempts), []
  exam = ctx.settings.exam
  problems = ctx.round_task(round_index).problems("train")
  text = "x" * (BYTES_PER_TOKEN * exam.max_new_tokens)
  worst = [
    Mistake(p.id, f"{n} {text}")
    for p in problems[: exam.questions or len(problems)]
    for n in range(exam.samples * len(exam.styles))
  ]
  return [], build_requests(ctx, round_index, worst)


def build_requests(
  ctx: RunContext, round_index: int, attempts: Iterable[GradedText]
) -> list[rationales.TeacherRequest]:
  """Returns the requests about the mistakes among the attempts."""
  feedback = ctx.settings.feedback
  mistakes = select_mistakes(attempts, feedback.mistakes, cut=feedback.cut)
  if feedback.kind == "blind":
    return blind_requests(ctx, round_index, [ctx.problem(m.problem) for m in mistakes])
  return [
    correction_request(ctx, ctx.problem(m.problem), thinking.split(m.text).text) for m in mistakes
  ]


def parser(ctx: RunContext) -> rationales.Parser:
  """Returns what parses the replies."""
  blind = ctx.settings.feedback.kind == "blind"
  return demonstrate.parse_annotation if blind else parse_correction


def parse_correction(text: str, problem: records.Problem) -> rationales.ParsedReply | None:
  """Parses the critique of a mistake and the rationale that follows it."""
  correction = schema.parse_correction(text) or parsing.split_correction(text)
  if correction is None:
    return None
  critique, rationale = correction
  return rationales.ParsedReply(rationale, critique=critique)


def select_mistakes(
  attempts: Iterable[GradedText], limit: int, *, cut: bool = False
) -> list[GradedText]:
  """Returns up to `limit` distinct wrong attempts per question, in the order of the exam.

  Attempts that were cut off before their end are no mistakes, unless `cut` is set.
  """
  selected = []
  texts: dict[str, set[str]] = {}
  for attempt in attempts:
    seen = texts.setdefault(attempt.problem, set())
    is_mistake = not attempt.correct and (cut or attempt.finish == "stop")
    if is_mistake and attempt.text not in seen and len(seen) < limit:
      seen.add(attempt.text)
      selected.append(attempt)
  return selected


def correction_request(
  ctx: RunContext, problem: records.Problem, mistake: str
) -> rationales.TeacherRequest:
  """Returns the request to correct a mistake."""
  feedback = ctx.settings.feedback
  question, gold = ctx.task.render(problem), problem.gold if feedback.show_gold else None
  prompt = messages.correct(question, mistake, gold)
  request = types.Request("correct", question, prompt, feedback.rationales)
  return rationales.TeacherRequest(problem, request, corrects=mistake)


def blind_requests(
  ctx: RunContext, round_index: int, problems: Iterable[records.Problem]
) -> list[rationales.TeacherRequest]:
  """Returns one request per mistake, for samples that no earlier phase has asked for."""
  feedback, demonstrated = ctx.settings.feedback, ctx.settings.demonstrate
  first = demonstrated.rationales * demonstrated.passes
  if demonstrate.shares_samples(ctx):
    first += demonstrate.first_sample(ctx, round_index)
  else:  # only round 0 demonstrates
    earlier = round_index if "feedback" in ctx.settings.opening else round_index - 1
    first += earlier * feedback.mistakes * feedback.rationales
  drawn, requests = Counter(), []
  for problem in problems:
    question = ctx.task.render(problem)
    request = types.Request(
      "annotate",
      question,
      messages.annotate(question, ctx.task.shots[:1]),
      feedback.rationales,
      first=first + drawn[problem.id],
    )
    requests.append(rationales.TeacherRequest(problem, request))
    drawn[problem.id] += feedback.rationales
  return requests
