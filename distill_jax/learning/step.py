"""The train step: a pure function of state, batch and frozen weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from distill_jax.learning.objectives import Objective
from distill_jax.students import sharding
from distill_jax.students.types import Params


class TrainState(NamedTuple):
  """What an update changes; or, leaf by leaf, its shapes or shardings."""

  step: jax.Array  # int32 scalar: updates made so far
  params: Params
  opt_state: Any


Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Any, Any], tuple[TrainState, Metrics]]


def _trained_only(frozen: Any, trained: Params) -> Params:
  return trained


def make_train_step(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  *,
  grad_accum_steps: int,
  merge: Callable[[Any, Params], Params] = _trained_only,
) -> TrainStep:
  """Returns the train step, (state, batch, frozen) -> (state, metrics).

  Metrics are float32 scalars: the mean of each term, `loss` (their weighted sum) and `grad_norm`.

  Args:
    objective: The objective.
    optimizer: The optimizer.
    grad_accum_steps: In how many micro-batches a batch is processed, to save memory. The result
      does not depend on it.
    merge: (frozen, trained) -> the parameters that the objective sees. Frozen parameters get no
      gradient and are not part of the state (LoRA); `frozen` is () if there are none.

  Raises:
    ValueError: A coupled objective cannot be split into micro-batches.
  """
  if objective.coupled and grad_accum_steps > 1:
    raise ValueError(
      f"grad_accum_steps is {grad_accum_steps}, but must be 1: rows of this objective depend on "
      "each other"
    )

  def weighted_sum(means: Metrics) -> jax.Array:
    terms = (weight * means[term] for term, weight in objective.coefficients.items())
    return sum(terms, jnp.float32(0))

  def train_step(state: TrainState, batch: Any, frozen: Any) -> tuple[TrainState, Metrics]:
    counts = {term: jnp.maximum(n, 1.0) for term, n in objective.counts(batch).items()}

    def loss(params: Params, part: Any) -> tuple[jax.Array, Metrics]:
      sums = objective.sums(merge(frozen, params), part)
      means = {term: total / counts[term] for term, total in sums.items()}
      return weighted_sum(means), means

    def accumulate(carry: Any, part: Any) -> tuple[Any, None]:
      (_, means), grads = jax.value_and_grad(loss, has_aux=True)(state.params, part)
      return jax.tree.map(jnp.add, carry, (means, grads)), None

    if grad_accum_steps == 1:
      (_, means), grads = jax.value_and_grad(loss, has_aux=True)(state.params, batch)
    else:
      # Part n holds rows n, n + grad_accum_steps, ...: so each part still spans all devices.
      parts = jax.tree.map(
        lambda x: x.reshape(-1, grad_accum_steps, *x.shape[1:]).swapaxes(0, 1), batch
      )
      zeros = (
        {term: jnp.float32(0) for term in counts},
        jax.tree.map(jnp.zeros_like, state.params),
      )
      (means, grads), _ = jax.lax.scan(accumulate, zeros, parts)

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    metrics = {**means, "loss": weighted_sum(means), "grad_norm": optax.tree.norm(grads)}
    params: Any = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, opt_state), metrics

  return train_step


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
  """Returns the state before the first step."""
  return TrainState(jnp.int32(0), params, optimizer.init(params))


def state_shardings(
  mesh: jax.sharding.Mesh,
  param_axes: Params,
  param_shapes: Params,
  optimizer: optax.GradientTransformation,
) -> TrainState:
  """Returns the NamedShardings of the train state."""
  params = sharding.of_params(mesh, param_axes, param_shapes)
  shapes = jax.eval_shape(lambda p: init_state(p, optimizer), param_shapes)
  opt_state = sharding.of_state(mesh, shapes.opt_state, params, param_shapes)
  of_step: Any = sharding.replicated(mesh)
  return TrainState(of_step, params, opt_state)


def jit_train_step(
  train_step: TrainStep, mesh: jax.sharding.Mesh, shardings: TrainState, frozen_shardings: Any = ()
) -> Any:
  """Returns the step jitted for a mesh: the state is donated, the batch split by rows."""
  return jax.jit(
    train_step,
    in_shardings=(shardings, sharding.batch(mesh), frozen_shardings),
    out_shardings=(shardings, sharding.replicated(mesh)),
    donate_argnums=0,
  )
