"""Examples to batches to steps to a checkpoint: one round's training of each student on what was
written for it."""

import dataclasses
import functools
from typing import Any

from distill_jax import errors, records
from distill_jax.data import batches, collate, encode
from distill_jax.learning import objectives
from distill_jax.runtime import fit

EXAMPLES, CONTRASTS = "examples.jsonl", "contrasts.jsonl"


@dataclasses.dataclass(frozen=True)
class Aim:
  """SFT and self-reflection, as the settings weigh them."""

  losses: Any  # settings.Losses
  triplet: Any  # settings.Triplet

  @property
  def detach(self) -> bool:
    return self.triplet.detach_prompt and self.losses.triplet > 0

  def objective(self, hidden, logprobs):
    share = {"sft": self.losses.sft, "triplet": self.losses.triplet}
    return objectives.tailored(hidden, logprobs, share=share, margin=self.triplet.margin)


def run(run, number, here):
  """Trains from the weights of the round before (or the base) on what the teacher wrote and the
  student got wrong.

  Writes examples, contrasts, metrics.jsonl and the students' weights. Facts: steps, loss (of
  several students: their sum, their mean), examples, contrasts, too_long, lost_contrasts (rows
  without room for theirs). A round without anything to train on leaves the student as it is (steps
  0); in the opening that is refused.
  """
  examples, contrasts = material(run, number)
  here.write(EXAMPLES, examples)
  here.write(CONTRASTS, contrasts)
  corpora = {
    name: corpus_of(run, number, [x for x in examples if x.student == name], contrasts)
    for name in run.format.students
  }
  too_long = sum(c.too_long for c in corpora.values())
  facts = {"examples": len(examples), "contrasts": len(contrasts), "too_long": too_long}
  if empty := [name for name, corpus in corpora.items() if not corpus.examples]:
    if number == 0:
      raise errors.data(
        f"{here.path}: no rationale to train on was kept for {', '.join(empty)} ({len(examples)} "
        f"written, {too_long} too long for train.buckets{_dropped(run, number)})"
      )
    return here.finish({**facts, "steps": 0, "loss": None})
  s = run.settings
  if s.train.losses.triplet and not contrasts:
    run.console.line(
      f"round {number} train: no question has two right texts and a mistake, so that "
      "the triplet loss is 0"
    )
  steps, losses = 0, []
  for name, corpus in corpora.items():
    aim = Aim(s.train.losses, s.triplet)
    made, log = fit.optimise(run, number, here, corpus, name=name, rates=s.train, aim=aim)
    steps, losses = steps + made, [*losses, log[-1].loss]
  facts["lost_contrasts"] = sum(c.lost_triplets for c in corpora.values())
  here.finish({**facts, "steps": steps, "loss": sum(losses) / len(losses)})


def _dropped(run, number) -> str:
  """What the phases before dropped, and why, as the end of a sentence."""
  found = [(name, f.facts) for name, f in run.folder.finished(number).items()]
  return "".join(
    f"; {name} dropped {', '.join(f'{n} {why}' for why, n in facts['dropped'].items())}"
    for name, facts in found
    if "dropped" in facts
  )


def material(run, number):
  """(examples, contrasts) of a round: from its own records, or from all so far
  (accumulate_rationales)."""
  rationales = run.rationales(number)
  positives, negatives = {}, {}
  for rationale in rationales:
    positives.setdefault(rationale.problem, {})[rationale.text] = None
  for attempt in run.attempts(number):
    if not attempt.correct and attempt.text:
      negatives.setdefault(attempt.problem, {})[attempt.text] = None
  limit = run.settings.contrast
  contrasts = [
    records.TripletExample(
      p, tuple(texts)[: limit.positives], tuple(negatives[p])[: limit.negatives]
    )
    for p, texts in positives.items()
    if len(texts) > 1 and p in negatives
  ]
  return run.examples(rationales), [c for c in contrasts if c.positives and c.negatives]


def corpus_of(run, number, examples, contrasts) -> batches.Corpus:
  s, student = run.settings, run.student
  read = functools.cache(lambda text: tuple(student.read(text)))
  ended = functools.cache(lambda text: (*student.tokenizer.encode(text), student.tokenizer.end))
  sides = {
    c.problem: (tuple(map(ended, c.positives)), tuple(map(ended, c.negatives))) for c in contrasts
  }
  encoded = [
    encode.EncodedExample(
      x.problem, read(x.prompt), ended(x.target), *sides.get(x.problem, ((), ())), stage=x.stage
    )
    for x in examples
  ]
  contrast = s.train.losses.triplet > 0
  return batches.Corpus(
    encoded,
    collate.SupervisedCollator(s.sft, s.triplet, with_triplets=contrast, start=student.start),
    batch=s.train.batch,
    buckets=s.train.buckets,
    seed=s.seed * 1000 + number,
    pad=student.tokenizer.pad,
    packed=s.train.packing,
    interval=s.staged.interval if s.format == "staged" else 0,
  )
