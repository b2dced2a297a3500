"""The optimizer: AdamW (Loshchilov & Hutter 2019) with warm-up, a schedule, and clipping by global
norm."""

import jax
import optax

SCHEDULES = ("constant", "cosine", "linear")


def schedule(kind: str, *, peak: float, warmup: int, steps: int):
  """Learning rate by step: linear warm-up over `warmup` steps, then constant, or down to 0
  at `steps`."""
  rest = max(steps - warmup, 1)
  after = {
    "constant": lambda: optax.constant_schedule(peak),
    "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
    "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
  }[kind]()
  if not warmup:
    return after
  # From peak / warmup: a first step at a rate of 0 would be lost.
  rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
  return optax.join_schedules([rise, after], [warmup])


def adamw(rate, *, beta1: float, beta2: float, eps: float, weight_decay: float, clip: float):
  """`rate` is a schedule. Decay touches matrices only, never norms or biases. clip 0 means no
  clipping."""
  matrices = lambda params: jax.tree.map_with_path(
    lambda path, x: x.ndim > 1 and not str(path[-1].key).endswith(("norm", "bias")), params
  )
  parts = [optax.clip_by_global_norm(clip)] if clip else []
  parts.append(
    optax.adamw(rate, b1=beta1, b2=beta2, eps=eps, weight_decay=weight_decay, mask=matrices)
  )
  return optax.chain(*parts)
