"""The teacher writes demonstrations for training questions, without seeing the student.

They are rationales, stages or decompositions, as the format asks for. With source="gold" the data
set's own rationales are used instead.
"""

from collections import Counter
from collections.abc import Iterable

from distill_jax import records, tasks
from distill_jax.formats import cot, decompositions
from distill_jax.run_dir import phase_dir
from distill_jax.runtime import rationales
from distill_jax.runtime.context import RunContext
from distill_jax.teacher import types
from distill_jax.teacher.prompts import messages, parsing, schema


def run(ctx: RunContext, round_index: int, out: phase_dir.PhaseDir) -> None:
  """Writes rationales.jsonl: `demonstrate.rationales` for each of `demonstrate.questions`."""
  settings = ctx.settings.demonstrate
  requests = build_requests(ctx, round_index)
  if not requests:
    return write_gold(ctx, round_index, out, select_problems(ctx))
  rationales.collect(
    ctx,
    round_index,
    out,
    requests,
    parser(ctx),
    passes=settings.passes,
    relabel=settings.relabel,
    distance=settings.distance,
  )


def planned_requests(
  ctx: RunContext, round_index: int
) -> tuple[list[rationales.TeacherRequest], list[rationales.TeacherRequest]]:
  """See phases.planned_requests. Later passes are not certain: they replace unusable replies."""
  requests = build_requests(ctx, round_index)
  more, last = [], requests
  for _ in range(ctx.settings.demonstrate.passes - 1):
    last = [rationales.request_more(r, r.request.samples) for r in last]
    more += last
  return requests, more


def select_problems(ctx: RunContext) -> list[records.Problem]:
  """Returns the training questions that get demonstrations."""
  problems = ctx.task.problems("train")
  return problems[: ctx.settings.demonstrate.questions or len(problems)]


def build_requests(ctx: RunContext, round_index: int) -> list[rationales.TeacherRequest]:
  """Returns the requests of the first pass; none if the data set's own rationales are used."""
  settings = ctx.settings.demonstrate
  if settings.source == "gold" or not ctx.format.request_kind:
    return []
  first = first_sample(ctx, round_index)
  return [
    rationales.TeacherRequest(
      problem,
      types.Request(
        ctx.format.request_kind,
        ctx.task.render(problem),
        build_messages(ctx, problem),
        settings.rationales,
        first=first,
      ),
    )
    for problem in select_problems(ctx)
  ]


def first_sample(ctx: RunContext, round_index: int) -> int:
  """Returns the number of a round's first sample of a question.

  Each round has numbers of its own, which do not depend on how many rounds there are. If blind
  feedback asks the same request, its samples follow those of the round's demonstrations.
  """
  demonstrated, feedback = ctx.settings.demonstrate, ctx.settings.feedback
  each = demonstrated.rationales * demonstrated.passes
  if shares_samples(ctx):
    each += feedback.mistakes * feedback.rationales
  return round_index * each


def shares_samples(ctx: RunContext) -> bool:
  """Whether later rounds ask for demonstrations and for blind feedback: samples of one request."""
  s = ctx.settings
  blind = "feedback" in s.opening + s.each_round and s.feedback.kind == "blind"
  return blind and "demonstrate" in s.each_round


def build_messages(ctx: RunContext, problem: records.Problem) -> tuple[tuple[str, str], ...]:
  """Returns the teacher's prompt as (role, content) pairs."""
  question, shots = ctx.task.render(problem), ctx.task.shots[:1]
  if ctx.format.request_kind == "annotate":
    return messages.annotate(question, shots)
  gold = problem.gold if ctx.settings.demonstrate.show_gold else None
  if ctx.format.request_kind == "stage":
    return messages.stage(problem.question, problem.choices, gold)
  return messages.decompose(question, gold=gold)


def parser(ctx: RunContext) -> rationales.Parser:
  """Returns the parser of replies to these requests; see rationales.collect."""
  if ctx.format.request_kind == "annotate":
    return parse_annotation
  if ctx.format.request_kind == "decompose":
    return parse_decomposition
  if "analyze" in ctx.format.stages:
    return parse_stages

  def parse_stages_or_recall(text: str, problem: records.Problem) -> rationales.ParsedReply | None:
    return parse_stages(text, problem) or parse_recall(text, ctx.task, problem)

  # Without analyses a chain of thought is enough, such as a recorded teacher's.
  return parse_stages_or_recall


def parse_annotation(text: str, problem: records.Problem) -> rationales.ParsedReply | None:
  """Parses a rationale: any text is one, except JSON that cannot be read."""
  if schema.broken("annotate", text):
    return None
  return rationales.ParsedReply(schema.parse_annotation(text) or text)


def parse_recall(
  text: str, task: tasks.Task, problem: records.Problem
) -> rationales.ParsedReply | None:
  """Parses a chain of thought as the recall stage: its text without the answer."""
  *body, _ = cot.target(text, "").split("\n")
  sentences = " ".join(body).replace(". ", ".\n").split("\n")
  recall = " ".join(sentences[:-1] if cot.is_closing(sentences[-1]) else sentences)
  answer = task.read_answer(text, problem)
  if answer is None or not recall:
    return None
  return rationales.ParsedReply(f"{recall}\nAnswer: {answer}", parts=(("recall", recall),))


def parse_stages(text: str, problem: records.Problem) -> rationales.ParsedReply | None:
  """Parses recall, analyses and answer.

  The analyses stay in the teacher's order: a format has its own order, and with
  compat.tinythinker.teachers_order it uses this one.
  """
  labels = tuple(label for label, _ in problem.choices)
  stages = schema.parse_stages(text, labels) or parsing.split_stages(text, labels, as_written=True)
  if stages is None:
    return None
  parts, label = stages
  lines = [part for _, part in parts]
  return rationales.ParsedReply("\n".join([*lines, f"Answer: {label}"]), parts=parts)


def parse_decomposition(text: str, problem: records.Problem) -> rationales.ParsedReply | None:
  """Parses sub-questions and their solutions."""
  parts, text = schema.parse_decomposition(text) or (parsing.split_steps(text), text)
  return None if parts is None else rationales.ParsedReply(text, parts=parts)


def join_steps(steps: Iterable[tuple[str, str]]) -> str:
  """Joins sub-questions and solutions into one text, without the empty ones."""
  return "\n".join(line for step in steps for line in step if line)


def write_gold(
  ctx: RunContext, round_index: int, out: phase_dir.PhaseDir, problems: Iterable[records.Problem]
) -> None:
  """Writes the rationales of the data set.

  Facts: kept and dropped (no_rationale: a question has none, or sub-questions without solutions).
  """
  kept, dropped = [], Counter()
  for p in problems:
    text, parts = p.rationale, ()
    if ctx.format.request_kind == "decompose":
      parts = p.decomposition
      text = join_steps(parts) if decompositions.with_solutions(p, parts) else ""
    elif ctx.format.request_kind == "":
      text = ctx.format.target("", p.gold)
    elif text:
      text = ctx.format.target(text, p.gold)
    if not text:
      dropped["no_rationale"] += 1
      continue
    kept.append(
      records.Rationale(
        p.id, text, p.gold, "gold", round_index, prompt="", sample=0, temperature=0.0, parts=parts
      )
    )
  out.write(phase_dir.RATIONALES, kept)
  out.finish({"kept": len(kept), "dropped": dict(dropped)})
