"""The student trains on preference pairs against the reference policy recorded in them."""

import dataclasses
from collections.abc import Callable, Sequence

from distill_jax import records, settings
from distill_jax.data import batches, collate
from distill_jax.learning import objectives
from distill_jax.phases import pair
from distill_jax.run_dir.phase_dir import PhaseDir
from distill_jax.runtime import fit, results
from distill_jax.runtime.context import RunContext
from distill_jax.runtime.student import batch_size


@dataclasses.dataclass(frozen=True)
class PreferenceObjective:
  """A preference loss, plus the likelihood of the chosen sides; see fit.ObjectiveConfig."""

  prefer: settings.Prefer
  detach: bool = False

  def build(self, hidden: Callable, logprobs: Callable) -> objectives.Objective:
    """See fit.ObjectiveConfig."""
    return objectives.preference(
      hidden,
      logprobs,
      loss=self.prefer.loss,
      coefficients={"preference": 1.0, "nll": self.prefer.nll_weight},
      beta=self.prefer.beta,
      label_smoothing=self.prefer.label_smoothing,
      gamma=self.prefer.gamma,
      length_normalized=self.prefer.length_normalized,
    )


def run(ctx: RunContext, round_index: int, out: PhaseDir) -> None:
  """Trains from the newest weights on the round's pairs; writes metrics.jsonl and the weights.

  Facts: pairs, too_long, steps, loss (at the end), first_loss, weights (digests). A round without
  pairs leaves the student unchanged (steps 0).
  """
  pairs = ctx.run_dir.find(round_index, "pair").rows(pair.PAIRS, records.PreferencePair)
  if not pairs:
    ctx.console.line(f"round {round_index} prefer: there are no pairs; the student is unchanged")
    return out.finish({"pairs": 0, "too_long": 0, "steps": 0, "loss": None, "first_loss": None})
  corpus = build_corpus(ctx, round_index, pairs)
  prefer = ctx.settings.prefer
  train = dataclasses.replace(
    ctx.settings.train,
    steps=prefer.steps,
    epochs=prefer.epochs,
    batch=prefer.batch,
    batch_tokens=0,
    lr=prefer.lr,
    schedule=prefer.schedule,
    warmup=prefer.warmup,
  )
  name = ctx.format.students[0]
  objective = PreferenceObjective(prefer)
  fitted = fit.fit(ctx, round_index, out, corpus, name=name, train=train, objective=objective)
  log = fitted.log
  chosen = [row.chosen for row in log if row.chosen is not None]
  if results.is_falling(chosen):
    ctx.console.warn(
      f"round {round_index} prefer: the chosen answers keep getting less likely ({chosen[0]:.1f} "
      f"to {chosen[-1]:.1f} nats). A higher prefer.nll_weight or prefer.beta or a lower prefer.lr "
      "counters this"
    )
  facts = {"pairs": len(pairs), "too_long": corpus.too_long, "steps": fitted.steps}
  facts |= {"loss": log[-1].loss, "first_loss": log[0].loss, "weights": {name: fitted.weights}}
  out.finish(facts)


def build_corpus(
  ctx: RunContext, round_index: int, pairs: Sequence[records.PreferencePair]
) -> batches.Corpus:
  """Encodes pairs as training batches."""
  s, student = ctx.settings, ctx.student
  encoded = [
    pair.encode_pair(student, p, (p.reference_chosen, p.reference_rejected)) for p in pairs
  ]
  pads = s.compat.tinythinker.nll_on_pads
  padded = max(len(x.chosen) for x in encoded) if pads else 0
  return batches.Corpus(
    encoded,
    collate.PreferenceCollator(
      start=student.decoder_start, padded=padded, pad=student.tokenizer.pad
    ),
    size=batch_size(s, student.mesh, s.prefer.batch),
    buckets=s.train.buckets,
    seed=s.seed * 1000 + round_index,
    pad=student.tokenizer.pad,
    packed=s.train.packing,
  )
