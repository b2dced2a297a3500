"""What the teacher wrote, sifted: a rationale is kept if its form is valid, its answer is right,
and it is new."""

import dataclasses
from collections import Counter, defaultdict
from typing import NamedTuple

from distill_jax import records
from distill_jax.data import edit_distance as distances
from distill_jax.run_dir import phase_dir
from distill_jax.teacher import reply_rate, types


class Wanted(NamedTuple):
  """One request to the teacher and what it is about."""

  problem: records.Problem
  request: types.Request
  corrects: str = ""  # the wrong attempt it shows


class Read(NamedTuple):
  """A reply in the form that was asked for."""

  text: str  # ends in its answer
  critique: str = ""
  parts: tuple[tuple[str, str], ...] = ()


class Heard(NamedTuple):
  """A reply and what could be read in it."""

  want: Wanted
  sample: int
  reply: types.Reply | types.Failure
  read: Read | None
  answer: str | None


def collect(
  run, number, here, wanted, read, *, passes: int = 1, relabel: str = "keep", distance: int = 0
) -> None:
  """Asks the teacher, sifts, and writes rationales.jsonl.

  read(text, problem) gives a Read, or None if a reply has not the form asked for; in all but the
  last of `passes` such replies, and missing ones, are asked for again. relabel, distance: see
  config.demonstrate. Facts: teacher (calls, cache_hits, tokens, dollars), kept, dropped by reason,
  relabelled (questions whose gold the teacher overruled).
  """
  heard = []
  for _ in range(passes):
    heard += (new := ask(run, number, here, wanted, read))
    missing = Counter(id(h.want) for h in new if h.answer is None)
    wanted = [again(w, missing[id(w)]) for w in wanted if missing[id(w)]]
    if not wanted:
      break
  reply_rate.check(
    [h.reply for h in heard], run.settings.teacher.min_reply_rate,
    round=number, phase=here.path.name, workdir=run.folder.path,
  )  # fmt: skip
  kept, dropped, overruled = sift(run, number, heard, relabel, distance)
  here.write(phase_dir.RATIONALES, kept)
  cost = run.teacher.ledger.of(number, here.path.name)
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
      "relabelled": overruled,
    }
  )


def ask(run, number, here, wanted, read) -> list[Heard]:
  requests, total = [w.request for w in wanted], sum(w.request.samples for w in wanted)
  with run.console.progress(f"round {number} teacher", total, "replies") as bar:
    replies = run.teacher.ask(
      requests,
      round=number,
      phase=here.path.name,
      temperature=run.settings.teacher.temperature,
      on_progress=lambda p: bar.update(p.done, **p.facts()),
    )
  heard = []
  for want, answers in zip(wanted, replies, strict=True):
    for sample, reply in enumerate(answers, want.request.first):
      found = None if isinstance(reply, types.Failure) else read(reply.text, want.problem)
      answer = found and run.task.read_answer(found.text, want.problem)
      heard.append(Heard(want, sample, reply, found, answer))
  return heard


def again(want: Wanted, missing: int) -> Wanted:
  """The same request for as many fresh samples."""
  first = want.request.first + want.request.samples
  return want._replace(request=dataclasses.replace(want.request, samples=missing, first=first))


def sift(run, number, heard, relabel: str, distance: int):
  """(rationales kept, {reason: how many were dropped}, how many questions got another gold)."""
  gold = labels(run, heard, relabel)
  seen = defaultdict(list)  # problem -> what its rationales say, before and now
  for r in run.rationales(number):
    seen[r.problem].append(said(r.parts, r.text))
  kept, dropped = [], Counter()
  for h in heard:
    reason = refused(run, h, gold[h.want.problem.id])
    if reason is None:
      made = rationale(run, number, h, gold[h.want.problem.id])
      words = said(made.parts, made.text)
      if not made.parts and "\n" not in made.text:
        reason = "no_reasoning"
      elif any(distances.within(words, other, distance) for other in seen[made.problem]):
        reason = "duplicate"
      else:
        kept.append(made)
        seen[made.problem].append(words)
    dropped[reason] += reason is not None
  overruled = sum(gold[p.id] not in (None, p.gold) for p in {h.want.problem for h in heard})
  return kept, +dropped, overruled


def said(parts, text: str) -> str:
  """What must differ between the rationales of a question: of stages, the key information."""
  return parts[0][1] if parts and parts[0][0] == "recall" else text


def labels(run, heard, relabel: str) -> dict[str, str | None]:
  """{problem: the answer its rationales must have}; None: none of them is believed."""
  answers = defaultdict(Counter)
  for h in heard:
    answers[h.want.problem.id][h.answer] += h.answer is not None
  found = {}
  for problem in {h.want.problem for h in heard}:
    counts = +answers[problem.id]
    most = max(counts.values(), default=0)
    top = [a for a, n in counts.items() if n == most and n]
    agree = not top or any(run.task.is_correct(a, problem) for a in top)  # a tie is gold's
    if relabel == "keep" or agree:
      found[problem.id] = problem.gold
    else:
      found[problem.id] = top[0] if relabel == "majority" else None
  return found


def refused(run, h: Heard, gold: str | None) -> str | None:
  """Why a reply is no rationale: a kind of Failure | malformed | no_answer | wrong_answer |
  overruled; None if it may be one."""
  if isinstance(h.reply, types.Failure):
    return h.reply.kind
  if h.read is None:
    return "malformed"
  if h.answer is None:
    return "no_answer"
  if gold is None:
    return "overruled"
  labelled = dataclasses.replace(h.want.problem, gold=gold)
  return None if run.task.is_correct(h.answer, labelled) else "wrong_answer"


def rationale(run, number, h: Heard, gold: str) -> records.Rationale:
  problem, request = h.want.problem, h.want.request
  return records.Rationale(
    problem=problem.id,
    text=h.read.text if h.read.parts else run.format.target(h.read.text, gold),
    answer=h.answer,
    writer=h.reply.model,
    round=number,
    prompt=request.kind,
    sample=h.sample,
    temperature=run.settings.teacher.temperature,
    parts=h.read.parts,
    corrects=h.want.corrects,
    critique=h.read.critique,
    tokens=h.reply.tokens_out,
    dollars=h.reply.dollars,
  )
