"""Supervised training: each of the format's students trains on the examples written for it."""

import dataclasses
import functools
from collections.abc import Callable, Iterable

from distill_jax import errors, records, settings
from distill_jax.data import batches, collate, encode
from distill_jax.learning import objectives
from distill_jax.run_dir.phase_dir import PhaseDir
from distill_jax.runtime import fit, results
from distill_jax.runtime.context import RunContext
from distill_jax.runtime.student import batch_size

EXAMPLES, CONTRASTS = "examples.jsonl", results.CONTRASTS


@dataclasses.dataclass(frozen=True)
class TailoredObjective:
  """SFT and self-reflection (triplet), weighted by config.train.losses; see fit.ObjectiveConfig."""

  losses: settings.Losses
  triplet: settings.Triplet

  @property
  def detach(self) -> bool:
    """See fit.ObjectiveConfig."""
    return self.triplet.detach_prompt and self.losses.triplet > 0

  def build(self, hidden: Callable, logprobs: Callable) -> objectives.Objective:
    """See fit.ObjectiveConfig."""
    coefficients = {"sft": self.losses.sft, "triplet": self.losses.triplet}
    return objectives.tailored(
      hidden, logprobs, coefficients=coefficients, margin=self.triplet.margin
    )


def run(ctx: RunContext, round_index: int, out: PhaseDir) -> None:
  """Trains on the teacher's rationales and the student's mistakes, from the weights so far.

  Writes examples.jsonl, contrasts.jsonl, metrics.jsonl and the students' weights.

  Facts: steps and loss (of several students: their sum, their mean), weights (their digests),
  examples, contrasts, too_long, lost_contrasts (rows without room for theirs). A round that has
  nothing to train one of its students on leaves all of them unchanged (steps 0).

  Raises:
    UserError: There is nothing to train on in the opening.
  """
  examples, contrasts = build_examples(ctx, round_index)
  out.write(EXAMPLES, examples)
  out.write(CONTRASTS, contrasts)
  corpora = {
    name: build_corpus(ctx, round_index, [x for x in examples if x.student == name], contrasts)
    for name in ctx.format.students
  }
  too_long = sum(corpus.too_long for corpus in corpora.values())
  facts = {"examples": len(examples), "contrasts": len(contrasts), "too_long": too_long}
  if empty := [name for name, corpus in corpora.items() if not corpus.examples]:
    if round_index == 0:
      raise errors.data(
        f"{out.path}: no rationale is left to train {', '.join(empty)} on ({len(examples)} "
        f"written, {too_long} too long for train.buckets{_dropped(ctx, round_index)})"
      )
    ctx.console.warn(
      f"round {round_index} train: there is nothing to train {', '.join(empty)} on, so no student"
      " is trained"
    )
    return out.finish({**facts, "steps": 0, "loss": None})
  train = ctx.settings.train
  if train.losses.triplet and not contrasts:
    ctx.console.line(
      f"round {round_index} train: no question has two correct texts and a mistake, so the triplet "
      "loss is 0"
    )
  objective = TailoredObjective(train.losses, ctx.settings.triplet)
  total_steps, losses, weights = 0, [], {}
  for name, corpus in corpora.items():
    fitted = fit.fit(ctx, round_index, out, corpus, name=name, train=train, objective=objective)
    total_steps += fitted.steps
    losses.append(fitted.log[-1].loss)
    weights[name] = fitted.weights
  facts["lost_contrasts"] = sum(corpus.lost_triplets for corpus in corpora.values())
  loss = sum(losses) / len(losses)
  out.finish({**facts, "steps": total_steps, "loss": loss, "weights": weights})


def _dropped(ctx: RunContext, round_index: int) -> str:
  """Returns what the round's earlier phases dropped, and why, as the end of a sentence."""
  parts = []
  for name, phase in ctx.run_dir.finished(round_index).items():
    if "dropped" in phase.facts:
      counts = ", ".join(f"{n} {reason}" for reason, n in phase.facts["dropped"].items())
      parts.append(f"; {name} dropped {counts}")
  return "".join(parts)


def build_examples(
  ctx: RunContext, round_index: int
) -> tuple[list[records.Example], list[records.TripletExample]]:
  """Returns the examples and triplet examples that a round trains on.

  A question has a triplet example if it has two rationales and a wrong attempt.
  """
  rationales = ctx.training_rationales(round_index)
  positives: dict[str, dict[str, None]] = {}  # problem -> distinct texts, in order
  negatives: dict[str, dict[str, None]] = {}
  for rationale in rationales:
    positives.setdefault(rationale.problem, {})[ctx.format.written(rationale)] = None
  for attempt in ctx.contrast_attempts(round_index):
    if not attempt.correct and attempt.text:
      negatives.setdefault(attempt.problem, {})[attempt.text] = None
  limit = ctx.settings.contrast
  contrasts = [
    records.TripletExample(
      problem, tuple(texts)[: limit.positives], tuple(negatives[problem])[: limit.negatives]
    )
    for problem, texts in positives.items()
    if len(texts) > 1 and problem in negatives
  ]
  return ctx.examples(rationales), [c for c in contrasts if c.positives and c.negatives]


def build_corpus(
  ctx: RunContext,
  round_index: int,
  examples: Iterable[records.Example],
  contrasts: Iterable[records.TripletExample],
) -> batches.Corpus:
  """Encodes examples, with the triplet examples of their questions, as training batches."""
  s, student = ctx.settings, ctx.student
  encode_prompt = functools.cache(lambda text: tuple(student.encode_prompt(text)))
  encode_target = functools.cache(student.encode_target)
  triplets = {
    c.problem: (tuple(map(encode_target, c.positives)), tuple(map(encode_target, c.negatives)))
    for c in contrasts
  }
  encoded = []
  for x in examples:
    positives, negatives = triplets.get(x.problem, ((), ()))
    prompt, target = encode_prompt(x.prompt), encode_target(x.target)
    encoded.append(
      encode.EncodedExample(x.problem, prompt, target, positives, negatives, stage=x.stage)
    )
  with_triplets = s.train.losses.triplet > 0
  return batches.Corpus(
    encoded,
    collate.SupervisedCollator(
      s.sft, s.triplet, with_triplets=with_triplets, start=student.decoder_start
    ),
    size=batch_size(s, student.mesh, s.train.batch, s.train.batch_tokens),
    buckets=s.train.buckets,
    seed=s.seed * 1000 + round_index,
    pad=student.tokenizer.pad,
    packed=s.train.packing,
    interval=s.staged.interval if s.format == "staged" else 0,
  )
