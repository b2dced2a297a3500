"""The optimizer: AdamW (Loshchilov & Hutter 2019) with warm-up, schedule and gradient clipping."""

from collections.abc import Callable
from typing import Any

import jax
import optax

# From the peak on: (peak, number of steps) -> learning rate by step.
SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
  "constant": lambda peak, steps: optax.constant_schedule(peak),
  "cosine": lambda peak, steps: optax.cosine_decay_schedule(peak, steps),
  "linear": lambda peak, steps: optax.linear_schedule(peak, 0.0, steps),
}


def schedule(kind: str, *, peak: float, warmup: int, steps: int) -> optax.Schedule:
  """Returns the learning rate by step.

  Args:
    kind: What follows the warm-up, a key of SCHEDULES: a constant, or a decay to 0 at `steps`.
    peak: The highest rate.
    warmup: Steps of linear warm-up.
    steps: Steps in all.
  """
  decay = SCHEDULES[kind](peak, max(steps - warmup, 1))
  if not warmup:
    return decay
  # From peak / warmup: a first step at a rate of 0 would be lost.
  rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
  return optax.join_schedules([rise, decay], [warmup])


def adamw(
  rate: optax.Schedule,
  *,
  beta1: float,
  beta2: float,
  eps: float,
  weight_decay: float,
  grad_clip_norm: float,
) -> optax.GradientTransformation:
  """Returns AdamW; weight decay applies to matrices, never to norms or biases.

  Args:
    rate: The learning rate by step.
    beta1: Decay of the first moment.
    beta2: Decay of the second moment.
    eps: Added to the root of the second moment.
    weight_decay: Decoupled decay, times the learning rate.
    grad_clip_norm: The global norm that gradients are clipped to; 0 is no clipping.
  """

  def is_matrix(path: Any, x: jax.Array) -> bool:
    return x.ndim > 1 and not str(path[-1].key).endswith(("norm", "bias"))

  def matrices(params: Any) -> Any:
    return jax.tree.map_with_path(is_matrix, params)

  adam = optax.adamw(rate, b1=beta1, b2=beta2, eps=eps, weight_decay=weight_decay, mask=matrices)
  if grad_clip_norm:
    return optax.chain(optax.clip_by_global_norm(grad_clip_norm), adam)
  return optax.chain(adam)
