"""LoRA adapters: without effect at first, on the targets only, and the same attached or merged."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax import students
from distill_jax.students import decoder, lora, trainable
from tests.students import oracle

TARGETS = ("down", "o", "q", "up", "v")


@functools.cache
def trained(rank: int = 3) -> trainable.Trainable:
  return trainable.Trainable(oracle.TINY, rank, 0.5, TARGETS)


def filled(adapters, seed: int = 5):
  """Returns adapters that have an effect."""
  draw = oracle.rng(seed)
  return jax.tree.map(lambda x: np.float32(0.3 * draw.normal(size=x.shape)), adapters)


def states(params):
  rows = oracle.plain_rows([[3, 1, 4, 1, 5, 9, 2, 6]], 8)
  return jax.jit(functools.partial(decoder.hidden, oracle.TINY))(params, rows)


def test_new_adapters_change_nothing():
  weights = oracle.params(oracle.TINY)
  fresh = trained().init(jax.random.key(0))
  np.testing.assert_array_equal(states(trained().merge(weights, fresh)), states(weights))


def test_attached_adapters_compute_what_merged_ones_do():
  weights, updates = oracle.params(oracle.TINY), filled(trained().shapes)
  attached = trained().merge(weights, updates)
  merged = lora.merge(attached)
  assert jax.tree.structure(merged) == jax.tree.structure(weights)
  np.testing.assert_allclose(states(attached), states(merged), rtol=1e-4, atol=1e-5)
  assert np.abs(states(attached) - states(weights)).max() > 0.1


def test_merging_adds_alpha_over_rank_times_the_product_to_the_targets_and_to_nothing_else():
  weights, updates = oracle.params(oracle.TINY), filled(trained().shapes)
  merged = lora.merge(trained().merge(weights, updates))["blocks"]
  for name, before in weights["blocks"].items():
    change = np.float64(merged[name]) - before
    if name not in TARGETS:
      assert (change == 0).all(), name
      continue
    down, up = (np.float64(updates["blocks"][name][side]) for side in ("down", "up"))
    want = np.stack([np.tensordot(d, u, 1) for d, u in zip(down, up, strict=True)])
    np.testing.assert_allclose(change, 0.5 * want, atol=1e-6)


def test_all_the_gradient_goes_to_the_adapters_and_all_adapters_get_some():
  weights, updates = oracle.params(oracle.TINY), filled(trained().shapes)
  rows = oracle.plain_rows([[3, 1, 4, 1, 5, 9, 2, 6]], 8)

  def total(updates):
    out = decoder.hidden(oracle.TINY, trained().merge(weights, updates), rows)
    return jnp.sum(out**3)

  grads = jax.jit(jax.grad(total))(updates)
  assert jax.tree.structure(grads) == jax.tree.structure(updates)
  assert all(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(grads))


def test_adapters_have_the_size_of_their_rank_and_are_stacked_by_layer():
  shapes = trained().shapes["blocks"]
  assert set(shapes) == set(TARGETS)
  tiny = oracle.TINY
  assert shapes["q"]["down"].shape == (tiny.layers, tiny.width, 3)
  assert shapes["q"]["up"].shape == (tiny.layers, 3, tiny.heads, tiny.head_width)
  assert shapes["o"]["down"].shape == (tiny.layers, tiny.heads, tiny.head_width, 3)
  assert shapes["o"]["up"].shape == (tiny.layers, 3, tiny.width)
  axes = trained().axes["blocks"]
  assert axes["o"]["down"] == ("layers", "heads", None, None)
  assert axes["up"]["up"] == ("layers", None, "mlp")


def test_with_rank_0_all_weights_are_trained_and_nothing_is_frozen():
  everything = trainable.Trainable(oracle.TINY)
  assert everything.shapes == decoder.shapes(oracle.TINY)
  assert everything.merge((), {"x": 1}) == {"x": 1}


def test_frozen_weights_have_the_compute_dtype_except_norms():
  small = dataclasses.replace(oracle.TINY, dtype="bfloat16")
  shapes = trainable.Trainable(small, 2, 1.0, ("q",)).frozen_shapes
  assert shapes["blocks"]["q"].dtype == jnp.bfloat16
  assert shapes["blocks"]["mlp_norm"].dtype == shapes["norm"].dtype == jnp.float32


def t5_config():
  return students.t5.Config(
    vocab=40, width=16, layers=2, decoder_layers=2, heads=2, head_width=8, mlp=24, buckets=8,
    distance=16, norm_eps=1e-6, activation="gelu_tanh", gated=True, tied=False,
    start=0, dtype="float32",
  )  # fmt: skip


def test_an_encoder_decoder_has_adapters_in_both_stacks_and_in_cross_attention():
  config = t5_config()
  both = trainable.Trainable(config, 2, 1.0, ("o", "q"))
  shapes = both.shapes
  paths = [path for path, _ in jax.tree.leaves_with_path(shapes)]
  assert {"/".join(str(p.key) for p in path[:-1]) for path in paths} == {
    *("encoder/attention/q", "encoder/attention/o", "decoder/attention/q"),
    *("decoder/attention/o", "decoder/cross/q", "decoder/cross/o"),
  }  # fmt: skip
  params = students.t5.init(config, jax.random.key(0))
  merged = lora.merge(both.merge(params, filled(shapes)))
  assert jax.tree.structure(merged) == jax.tree.structure(params)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_recomputing_in_the_backward_pass_changes_no_gradient(remat):
  weights, rows = oracle.params(oracle.TINY), oracle.plain_rows([[3, 1, 4, 1, 5, 9, 2, 6]], 8)

  def grads(remat):
    total = lambda p: jnp.sum(decoder.hidden(oracle.TINY, p, rows, remat=remat) ** 2)
    return jax.jit(jax.value_and_grad(total))(weights)

  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), grads(remat), grads("none")
  )
