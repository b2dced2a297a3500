"""The train step: a pure function made by a maker. State holds what an update changes, and nothing
else."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from distill_jax.students import sharding


class TrainState(NamedTuple):
  step: jax.Array  # int32 scalar: updates made so far
  params: Any
  opt_state: Any


def make_train_step(objective, optimizer, *, micro: int, whole=lambda frozen, trained: trained):
  """(state, batch, frozen) -> (state, metrics). The batch is taken in `micro` parts to save memory;
  the result does not depend on it. `whole(frozen, trained)` gives the parameters the objective
  sees: what is frozen gets no gradient and no place in the state (LoRA); () where nothing is.

  metrics, float32 scalars: each term's mean, `loss` (their weighted sum) and `grad_norm`.

  Raises ValueError if a coupled objective is to be taken in parts.
  """
  if objective.coupled and micro > 1:
    raise ValueError(f"micro is {micro}: rows of this objective depend on each other, so 1")

  def weighted(means):
    return sum((weight * means[term] for term, weight in objective.share.items()), jnp.float32(0))

  def train_step(state: TrainState, batch, frozen):
    counts = {term: jnp.maximum(n, 1.0) for term, n in objective.counts(batch).items()}

    def loss(params, part):
      sums = objective.sums(whole(frozen, params), part)
      means = {term: total / counts[term] for term, total in sums.items()}
      return weighted(means), means

    def add(carry, part):
      (_, means), grads = jax.value_and_grad(loss, has_aux=True)(state.params, part)
      return jax.tree.map(jnp.add, carry, (means, grads)), None

    if micro == 1:
      (_, means), grads = jax.value_and_grad(loss, has_aux=True)(state.params, batch)
    else:
      # Every micro-th row, not the first rows first: so each part still lies on all devices.
      parts = jax.tree.map(lambda x: x.reshape(-1, micro, *x.shape[1:]).swapaxes(0, 1), batch)
      zeros = (
        {term: jnp.float32(0) for term in counts},
        jax.tree.map(jnp.zeros_like, state.params),
      )
      (means, grads), _ = jax.lax.scan(add, zeros, parts)

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    metrics = {**means, "loss": weighted(means), "grad_norm": optax.tree.norm(grads)}
    return TrainState(
      state.step + 1, optax.apply_updates(state.params, updates), opt_state
    ), metrics

  return train_step


def start(params, optimizer) -> TrainState:
  return TrainState(jnp.int32(0), params, optimizer.init(params))


def places(mesh, param_axes, param_shapes, optimizer):
  """NamedShardings for the whole TrainState."""
  of_params = sharding.of_params(mesh, param_axes, param_shapes)
  shapes = jax.eval_shape(lambda p: start(p, optimizer), param_shapes)
  opt = sharding.of_state(mesh, shapes.opt_state, of_params, param_shapes)
  return TrainState(sharding.everywhere(mesh), of_params, opt)


def compiled(train_step, mesh, state_places, frozen_places=()):
  """The step, jitted for a mesh: the state is donated, the batch split by rows."""
  everywhere = sharding.everywhere(mesh)
  return jax.jit(
    train_step,
    in_shardings=(state_places, sharding.batch(mesh), frozen_places),
    out_shardings=(state_places, everywhere),
    donate_argnums=0,
  )
