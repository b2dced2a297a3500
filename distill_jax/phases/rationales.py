"""What the teacher wrote, sifted: a rationale is kept if its form is valid, its answer is right,
and it is new."""

from collections import Counter
from typing import NamedTuple

from distill_jax import records
from distill_jax.teacher import asking

RATIONALES = "rationales.jsonl"


class Wanted(NamedTuple):
  """One request to the teacher and what it is about."""

  problem: records.Problem
  request: asking.Request
  corrects: str = ""  # the wrong attempt it shows


def collect(run, number, here, wanted, read) -> None:
  """Asks the teacher, sifts, and writes rationales.jsonl.

  read(text) gives (critique, rationale), or None if a reply has not the form asked for.
  Facts: teacher (calls, cache_hits, tokens, dollars), kept, dropped by reason.
  """
  stage, requests = here.path.name, [w.request for w in wanted]
  with run.console.progress(
    f"round {number} teacher", sum(r.samples for r in requests), "replies"
  ) as bar:
    replies = run.teacher.ask(
      requests,
      round=number,
      stage=stage,
      temperature=run.settings.teacher.temperature,
      on_progress=lambda p: bar.update(
        p.done, failures=p.failures, retries=p.retries, dollars=p.dollars
      ),
    )
  seen = {(r.problem, r.text) for r in run.rationales(number)}
  kept, dropped = [], Counter()
  for want, answers in zip(wanted, replies, strict=True):
    for sample, reply in enumerate(answers, want.request.first):
      if isinstance(reply, asking.Failure):
        dropped[reply.kind] += 1
        continue
      rationale, reason = sift(run, want, reply, read(reply.text), number, sample)
      if reason is None and (rationale.problem, rationale.text) in seen:
        reason = "duplicate"
      if reason:
        dropped[reason] += 1
      else:
        kept.append(rationale)
        seen.add((rationale.problem, rationale.text))
  here.write(RATIONALES, kept)
  cost = run.teacher.ledger.of(number, stage)
  here.finish(
    {
      "teacher": {
        "calls": cost.calls,
        "cache_hits": cost.cache_hits,
        "tokens": cost.tokens_in + cost.tokens_out,
        "dollars": cost.dollars,
      },
      "kept": len(kept),
      "dropped": dict(sorted(dropped.items())),
    }
  )


def sift(run, want, reply, parts, number, sample):
  """(rationale, None), or (None, why it is dropped): malformed | no_answer | wrong_answer |
  no_reasoning."""
  problem = want.problem
  if parts is None:
    return None, "malformed"
  critique, text = parts
  answer = run.task.read_answer(text, problem)
  if answer is None:
    return None, "no_answer"
  if not run.task.is_correct(answer, problem):
    return None, "wrong_answer"
  text = run.format.target(text, problem.gold)
  if "\n" not in text:
    return None, "no_reasoning"
  return records.Rationale(
    problem=problem.id,
    text=text,
    answer=answer,
    writer=reply.model,
    round=number,
    prompt=want.request.kind,
    sample=sample,
    temperature=run.settings.teacher.temperature,
    corrects=want.corrects,
    critique=critique,
    tokens=reply.tokens_out,
    dollars=reply.dollars,
  ), None
