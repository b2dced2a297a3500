"""The student trains on preference pairs, against the reference policy that is written in them."""

import dataclasses
import itertools
from typing import Any

from distill_jax import records
from distill_jax.data import batches, collate
from distill_jax.learning import objectives
from distill_jax.phases import pair
from distill_jax.runtime import fit

FALLING = 5  # rows of metrics in a row with a lower chosen log-probability than the row before


@dataclasses.dataclass(frozen=True)
class Aim:
  """A loss on pairs, and what holds the chosen side up."""

  prefer: Any  # settings.Prefer
  detach = False

  def objective(self, hidden, logprobs):
    p = self.prefer
    return objectives.preference(
      hidden,
      logprobs,
      loss=p.loss,
      share={"preference": 1.0, "nll": p.nll_weight},
      beta=p.beta,
      label_smoothing=p.label_smoothing,
      gamma=p.gamma,
      length_normalized=p.length_normalized,
    )


def run(run, number, here):
  """Trains from the newest weights on the round's pairs. Facts: pairs, too_long, steps, loss (at
  the end), first_loss; a round without pairs leaves the student as it is (steps 0)."""
  pairs = run.folder.find(number, "pair").rows(pair.PAIRS, records.PreferencePair)
  s, student = run.settings, run.student
  if not pairs:
    run.console.line(f"round {number} prefer: there is no pair; the student stays as it is")
    return here.finish({"pairs": 0, "too_long": 0, "steps": 0, "loss": None, "first_loss": None})
  encoded = [
    pair.encoded_pair(student, p, (p.reference_chosen, p.reference_rejected)) for p in pairs
  ]
  pads = s.compat.tinythinker.nll_on_pads
  padded = max(len(x.chosen) for x in encoded) if pads else 0
  corpus = batches.Corpus(
    encoded,
    collate.PreferenceCollator(start=student.start, padded=padded, pad=student.tokenizer.pad),
    batch=s.prefer.batch,
    buckets=s.train.buckets,
    seed=s.seed * 1000 + number,
    pad=student.tokenizer.pad,
    packed=s.train.packing,
  )
  own = ("steps", "epochs", "batch", "lr", "schedule", "warmup")
  rates = dataclasses.replace(s.train, **{name: getattr(s.prefer, name) for name in own})
  name = run.format.students[0]
  steps, log = fit.optimise(run, number, here, corpus, name=name, rates=rates, aim=Aim(s.prefer))
  if is_falling(log):
    run.console.warn(
      f"round {number} prefer: the chosen answers keep getting less likely ({log[0].chosen:.1f} to "
      f"{log[-1].chosen:.1f} nats): prefer.nll_weight holds them up, a lower prefer.lr or a higher "
      "prefer.beta slows this down"
    )
  facts = {"pairs": len(pairs), "too_long": corpus.too_long, "steps": steps}
  here.finish({**facts, "loss": log[-1].loss, "first_loss": log[0].loss})


def is_falling(log) -> bool:
  """Did the chosen log-probability fall all along the last rows, to below where it began?"""
  last = [m.chosen for m in log[-FALLING - 1 :]]
  down = all(b < a for a, b in itertools.pairwise(last))
  return len(last) > FALLING and down and last[-1] < log[0].chosen
