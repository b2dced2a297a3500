"""Collects rationales from the teacher and filters them.

A rationale is kept if its reply has the requested form, its answer is correct, and it is new.
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from distill_jax import records
from distill_jax.data import edit_distance
from distill_jax.run_dir import phase_dir
from distill_jax.runtime.context import RunContext
from distill_jax.teacher import reply_rate, types

EXAMPLES = 20  # dropped replies that are kept to be read, of each reason


class TeacherRequest(NamedTuple):
  """One request to the teacher and what it is about."""

  problem: records.Problem
  request: types.Request
  corrects: str = ""  # the wrong attempt it shows


class ParsedReply(NamedTuple):
  """A reply in the requested form."""

  text: str  # ends in its answer
  critique: str = ""
  parts: tuple[tuple[str, str], ...] = ()


Parser = Callable[[str, records.Problem], ParsedReply | None]  # None: not the form asked for


class ReceivedReply(NamedTuple):
  """A reply of the teacher and what could be parsed from it."""

  source: TeacherRequest
  sample: int
  reply: types.Reply | types.Failure
  parsed: ParsedReply | None
  answer: str | None


def collect(
  ctx: RunContext,
  round_index: int,
  out: phase_dir.PhaseDir,
  requests: Sequence[TeacherRequest],
  parse: Parser,
  *,
  passes: int = 1,
  relabel: str = "keep",
  distance: int = 0,
) -> None:
  """Asks the teacher, filters the replies, and writes rationales.jsonl and dropped.jsonl.

  Finishes the phase with the facts teacher (calls, cache_hits, tokens, dollars), kept, dropped (by
  reason) and relabelled (questions whose gold the teacher overruled).

  Args:
    ctx: The run context.
    round_index: The round.
    out: The phase's directory.
    requests: What to ask.
    parse: Parses a reply.
    passes: How often to ask at most. Missing replies and replies without an answer are requested
      again in all but the last pass.
    relabel: See config.demonstrate.relabel.
    distance: See config.demonstrate.distance.

  Raises:
    UserError: Too few replies arrived (config.teacher.min_reply_rate), or the teacher stopped.
  """
  received: list[ReceivedReply] = []
  for _ in range(passes):
    new = ask_teacher(ctx, round_index, out, requests, parse)
    received += new
    missing = Counter(id(r.source) for r in new if r.answer is None)
    requests = [request_more(r, missing[id(r)]) for r in requests if missing[id(r)]]
    if not requests:
      break
  reply_rate.check(
    [r.reply for r in received],
    ctx.settings.teacher.min_reply_rate,
    round=round_index,
    phase=out.path.name,
    workdir=ctx.run_dir.path,
  )
  filtered = filter_replies(ctx, round_index, received, relabel, distance)
  if received and not filtered.kept:
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(filtered.dropped.items()))
    phase = out.path.name.partition("_")[2]
    ctx.console.warn(
      f"round {round_index} {phase}: none of {len(received)} rationales was kept: {reasons}"
    )
  out.write(phase_dir.RATIONALES, filtered.kept)
  out.write(phase_dir.DROPPED, filtered.examples)
  cost = ctx.teacher.ledger.of(round_index, out.path.name)
  unanswered = ctx.teacher.ledger.unanswered(round_index, out.path.name).dollars
  out.finish(
    {
      "teacher": {
        "calls": cost.calls,
        "cache_hits": cost.cache_hits,
        "tokens": cost.tokens_in + cost.tokens_out,
        "dollars": cost.dollars,
      }
      | ({"dollars_estimated": unanswered} if unanswered else {}),
      "kept": len(filtered.kept),
      "dropped": dict(sorted(filtered.dropped.items())),
      "relabelled": filtered.relabelled,
    }
  )


def ask_teacher(
  ctx: RunContext,
  round_index: int,
  out: phase_dir.PhaseDir,
  requests: Sequence[TeacherRequest],
  parse: Parser,
) -> list[ReceivedReply]:
  """Sends requests and parses the replies; returns one entry per sample, in order."""
  total = sum(r.request.samples for r in requests)
  with ctx.console.progress(f"round {round_index} teacher", total, "replies") as bar:
    replies = ctx.teacher.ask(
      [r.request for r in requests],
      round=round_index,
      phase=out.path.name,
      temperature=ctx.settings.teacher.temperature,
      on_progress=lambda p: bar.update(p.done, **p.facts()),
    )
  received = []
  for source, samples in zip(requests, replies, strict=True):
    for sample, reply in enumerate(samples, source.request.first):
      parsed = None if isinstance(reply, types.Failure) else parse(reply.text, source.problem)
      answer = ctx.task.read_answer(parsed.text, source.problem) if parsed else None
      received.append(ReceivedReply(source, sample, reply, parsed, answer))
  return received


def request_more(source: TeacherRequest, count: int) -> TeacherRequest:
  """Returns the same request for `count` new samples."""
  first = source.request.first + source.request.samples
  return source._replace(request=dataclasses.replace(source.request, samples=count, first=first))


class Filtered(NamedTuple):
  """The filtered replies of a phase."""

  kept: list[records.Rationale]
  dropped: Counter[str]  # by reason
  examples: list[records.Dropped]  # the first EXAMPLES of each reason
  relabelled: int  # questions whose gold the teacher overruled


def filter_replies(
  ctx: RunContext, round_index: int, received: Sequence[ReceivedReply], relabel: str, distance: int
) -> Filtered:
  """Turns replies into rationales and drops those that cannot be used."""
  gold = accepted_answers(ctx, received, relabel)
  seen = defaultdict(list)  # problem -> distinguishing texts of its rationales, old and new
  for r in ctx.training_rationales(round_index):
    seen[r.problem].append(distinguishing_text(r.parts, r.text))
  kept, examples, dropped = [], [], Counter()

  def drop(reply: ReceivedReply, reason: str) -> None:
    dropped[reason] += 1
    if dropped[reason] <= EXAMPLES:
      examples.append(dropped_example(reply, reason))

  for r in received:
    rationale = build_rationale(ctx, round_index, r, gold[r.source.problem.id])
    if isinstance(rationale, str):
      drop(r, rationale)
      continue
    text = distinguishing_text(rationale.parts, rationale.text)
    if not rationale.parts and "\n" not in rationale.text:
      drop(r, "no_reasoning")
    elif any(edit_distance.within(text, other, distance) for other in seen[rationale.problem]):
      drop(r, "duplicate")
    else:
      kept.append(rationale)
      seen[rationale.problem].append(text)
  problems = {r.source.problem for r in received}
  relabelled = sum(gold[p.id] not in (None, p.gold) for p in problems)
  return Filtered(kept, dropped, examples, relabelled)


def dropped_example(received: ReceivedReply, reason: str) -> records.Dropped:
  """Returns a dropped reply as an example of its reason."""
  reply, source = received.reply, received.source
  text = reply.message if isinstance(reply, types.Failure) else reply.text
  return records.Dropped(source.problem.id, reason, text, received.sample, source.corrects)


def distinguishing_text(parts: Sequence[tuple[str, str]], text: str) -> str:
  """Returns the text that must differ between rationales of a question: with stages, the recall."""
  return parts[0][1] if parts and parts[0][0] == "recall" else text


def accepted_answers(
  ctx: RunContext, received: Sequence[ReceivedReply], relabel: str
) -> dict[str, str | None]:
  """Returns {problem: the answer its rationales must have}; None: none is accepted.

  That is gold, unless the replies' most frequent answer is another one: then `relabel` decides
  ("keep": gold, "majority": the first of the most frequent, "drop": None). Ties with gold go to
  gold.
  """
  counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
  for r in received:
    if r.answer is not None:
      counts[r.source.problem.id][r.answer] += 1
  accepted: dict[str, str | None] = {}
  for problem in {r.source.problem for r in received}:
    answers = counts[problem.id]
    most = max(answers.values(), default=0)
    top = [answer for answer, n in answers.items() if n == most]
    agree = not top or any(ctx.task.is_correct(answer, problem) for answer in top)
    if relabel == "keep" or agree:
      accepted[problem.id] = problem.gold
    else:
      accepted[problem.id] = top[0] if relabel == "majority" else None
  return accepted


def build_rationale(
  ctx: RunContext, round_index: int, received: ReceivedReply, gold: str | None
) -> records.Rationale | str:
  """Returns the rationale of a reply, or why there is none.

  Reasons: the kind of the Failure, malformed, no_answer, overruled (`gold` is None), wrong_answer.
  """
  source, reply, parsed, answer = (
    received.source,
    received.reply,
    received.parsed,
    received.answer,
  )
  if isinstance(reply, types.Failure):
    return reply.kind
  if parsed is None:
    return "malformed"
  if answer is None:
    return "no_answer"
  if gold is None:
    return "overruled"
  if not ctx.task.is_correct(answer, dataclasses.replace(source.problem, gold=gold)):
    return "wrong_answer"
  return records.Rationale(
    problem=source.problem.id,
    text=parsed.text if parsed.parts else ctx.format.target(parsed.text, gold),
    answer=answer,
    writer=reply.model,
    round=round_index,
    prompt=source.request.kind,
    sample=received.sample,
    temperature=ctx.settings.teacher.temperature,
    parts=parsed.parts,
    corrects=source.corrects,
    critique=parsed.critique,
    tokens=reply.tokens_out,
    dollars=reply.dollars,
    thinking=reply.thinking,
  )
