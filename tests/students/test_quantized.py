"""Weights in few bits: the nearest values that there are, and products of just these values."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.decoding import decode_loop, rollout, sampling
from distill_jax.runtime import memory
from distill_jax.students import decoder, few_rows, layers, lora, quantized, trainable
from tests import compilations
from tests.students import oracle

qwix = pytest.importorskip("qwix", reason="qwix is not installed (requirements-dev.txt)")
quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)

CONFIG = dataclasses.replace(
  oracle.TINY, layers=1, width=64, head_width=16, mlp=96, rotary=decoder.Rotary(100.0, width=16)
)
ADAPTED = trainable.Trainable(CONFIG, 2, 0.5, ("o", "q", "up"), base="nf4")


@functools.cache
def weights():
  return oracle.params(CONFIG)


@functools.cache
def frozen():
  """Returns the base below the adapters."""
  return jax.jit(lambda params: jax.tree.map(quantized.store, params, ADAPTED.frozen_shapes))(
    weights()
  )


def test_int8_is_within_half_a_step_of_each_output():
  weight = jnp.float32(oracle.rng(1).normal(size=(6, 10, 5)))
  for axes in (1, 2):
    found = quantized.int8(weight, axes)
    assert found.values.dtype == jnp.int8 and found.scale.shape == weight.shape[axes:]
    error = np.abs(np.float64(found.values) * np.float64(found.scale) - weight)
    assert (error <= 0.5001 * np.float64(found.scale)).all()
    largest = np.abs(weight).max(axis=tuple(range(axes)))
    np.testing.assert_allclose(found.scale, largest / 127.5, rtol=1e-6)


def test_a_product_with_int8_is_that_of_its_values():
  draw = oracle.rng(2)
  x, weight = (jnp.float32(draw.normal(size=size)) for size in ((2, 3, 6, 10), (6, 10, 5)))
  found = quantized.int8(weight, 2)
  want = np.tensordot(np.float64(x), np.float64(found.values) * np.float64(found.scale), 2)
  np.testing.assert_allclose(quantized.int8_product(x, found, 2), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  "size, axes, at, blocks",
  [
    ((2, 128, 3, 2), ("layers", "embed", "heads", None), 1, 2),
    ((2, 3, 16, 5), ("layers", "heads", None, "embed"), 2, 1),
    ((2, 96, 5), ("layers", "mlp", "embed"), 1, 3),
  ],
)
def test_nf4_is_the_nearest_level_times_the_largest_of_its_block(size, axes, at, blocks):
  weight, shape = oracle.rng(3).normal(size=size), quantized.nf4_shape(size, axes)
  found = jax.jit(lambda x: quantized.nf4(x, shape))(jnp.float32(weight))
  assert jax.tree.map(lambda x: (x.shape, x.dtype), found) == jax.tree.map(
    lambda x: (x.shape, x.dtype), shape
  )
  assert found.scale.shape == (*size[:at], blocks, *size[at + 1 :])
  parts = np.stack(np.split(weight, blocks, at))
  largest = np.abs(parts).max(axis=1 + at, keepdims=True)
  levels = np.array(quantized.LEVELS)
  level = np.abs(parts[..., None] / largest[..., None] - levels).argmin(axis=-1)
  want = np.concatenate(levels[level] * largest, at)
  ours = jax.jit(quantized.dequantize)(found)
  np.testing.assert_allclose(ours, want, rtol=1e-6, atol=1e-7)
  others = [axis for axis in range(len(size)) if axis != at]
  tiles = {at: size[at] // blocks}
  theirs = qwix.quantize(jnp.float32(weight), "nf4", channelwise_axes=others, tiled_axes=tiles)
  theirs = qwix.dequantize(theirs)
  np.testing.assert_array_equal(ours, theirs)


def test_embeddings_norms_and_heads_keep_their_dtype_and_nothing_else_does():
  kept = jax.tree.leaves(frozen(), is_leaf=lambda x: isinstance(x, quantized.Nf4))
  names = {name for name, x in frozen()["blocks"].items() if isinstance(x, quantized.Nf4)}
  assert names == set(quantized.NAMES) & set(weights()["blocks"])
  assert sum(isinstance(x, quantized.Nf4) for x in kept) == len(names)


def states(params):
  return decoder.hidden(CONFIG, params, oracle.plain_rows([[3, 1, 4, 1, 5, 9, 2, 6]], 8))


def updates():
  draw = oracle.rng(5)
  return jax.tree.map(lambda x: np.float32(0.3 * draw.normal(size=x.shape)), ADAPTED.shapes)


def test_a_student_over_nf4_is_the_one_over_the_same_weights_in_float32():
  forward, plain = jax.jit(states), jax.jit(lora.merge)(frozen())
  found, want = (forward(ADAPTED.merge(base, updates())) for base in (frozen(), plain))
  np.testing.assert_allclose(found, want, rtol=2e-4, atol=2e-4)


def test_adapters_over_nf4_get_the_gradients_of_those_over_the_same_weights_in_float32():
  trained = updates()["blocks"]["up"]
  down, up = (jnp.asarray(trained[side][0]) for side in ("down", "up"))
  weight = jax.tree.map(lambda x: x[0], frozen()["blocks"]["up"])
  x = jnp.float32(oracle.rng(6).normal(size=(3, CONFIG.width)))

  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1, 2))
  def grads(x, down, up, base):
    return jnp.sum(layers.project(x, lora.Adapted(base, down, up, 0.5)) ** 2)

  found, want = (grads(x, down, up, w) for w in (weight, jax.jit(quantized.dequantize)(weight)))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-4), found, want)


def test_adapters_are_merged_into_what_nf4_stands_for():
  plain, trained = jax.jit(lora.merge)(frozen()), updates()
  merged = jax.jit(lora.merge)(ADAPTED.merge(frozen(), trained))
  assert jax.tree.structure(merged) == jax.tree.structure(weights())
  for name in ADAPTED.targets:
    down, up = (np.float64(trained["blocks"][name][side][0]) for side in ("down", "up"))
    want = np.float64(plain["blocks"][name][0]) + 0.5 * np.tensordot(down, up, 1)
    np.testing.assert_allclose(merged["blocks"][name][0], want, rtol=1e-5, atol=1e-5)


def test_the_backward_pass_keeps_4_bits_of_a_weight():
  weight = frozen()["blocks"]["up"]
  one = quantized.Nf4(weight.values[0], weight.scale[0])
  _, backward = jax.vjp(lambda x: quantized.nf4_product(x, one), jnp.ones((3, CONFIG.width)))
  kept = [x for x in jax.tree.leaves(backward) if x.size >= one.values.size]
  assert kept and all(x.dtype == jnp.uint8 for x in kept)


@functools.cache
def sampled(order: tuple[int, ...], weights_of_decoding: str = "int8"):
  """Returns the tokens of prompts 0 to 5, which are sampled in an order."""
  prompts = [[1 + n, 3, 5][: 1 + n % 3] for n in range(6)]
  keys = [np.array([[n, 7]], np.uint32) for n in range(6)]
  held = decode_loop.prepare(CONFIG, weights(), weights_of_decoding)
  rows = rollout.Rollout(
    CONFIG, held, sampling.sampling(1.0), sizes=rollout.sizes(2, 0.5, 1, 1), bucket=4,
    max_new_tokens=6, eos=(2,), pad=0,
  )  # fmt: skip
  out = rollout.sample(rows, [prompts[n] for n in order], [keys[n] for n in order])
  place = [order.index(n) for n in range(6)]
  return out.tokens[place], held


def test_rows_in_int8_depend_on_prompt_and_key_alone():
  tokens, held = sampled((0, 1, 2, 3, 4, 5))
  np.testing.assert_array_equal(sampled((5, 2, 0, 4, 1, 3))[0], tokens)
  assert len({tuple(row) for row in tokens}) > 4
  bits = {x.dtype for x in jax.tree.leaves(held.unstacked) if x.ndim > 1}
  assert jnp.dtype(jnp.int8) in bits and "blocks" not in held.params
  modules, head = held.unstacked
  assert isinstance(head, quantized.Int8)
  assert all(isinstance(module.down.get_value(), quantized.Int8) for module in modules)


def test_int8_computes_the_logits_of_the_weights_that_it_stands_for(monkeypatch):
  prompts, lengths = jnp.array([[3, 1, 4, 1, 5, 9, 2, 6]]), jnp.array([8])

  @functools.partial(jax.jit, static_argnums=0)
  def logits(case: str):
    apart = decoder.unstack_layers(CONFIG, weights(), "int8")
    return decoder.prefill(CONFIG, weights(), prompts, lengths, apart)[0]

  def apart_again(weight, axes=1, weights=""):
    found = quantized.int8(weight, axes)
    return found.values * found.scale[(None,) * axes]

  found = logits("int8")
  monkeypatch.setattr(few_rows, "arrange", apart_again)
  np.testing.assert_allclose(found, logits("float32"), rtol=1e-4, atol=1e-4)


def test_memory_counts_the_bits():
  whole = memory.size(decoder.shapes(CONFIG))
  nf4 = memory.of_training(ADAPTED) - 4 * memory.size(ADAPTED.shapes)
  exact = trainable.Trainable(CONFIG, 2, 0.5, ("q",))
  products = sum(x.size for name, x in weights()["blocks"].items() if name in quantized.NAMES)
  scales = memory.size(
    [x.scale for x in frozen()["blocks"].values() if isinstance(x, quantized.Nf4)]
  )
  assert nf4 == memory.size(exact.frozen_shapes) - 4 * products + products // 2 + scales
  columns = (memory.of_decoding(ADAPTED, 2, 8, weights) for weights in ("", "int8"))
  assert next(columns) - next(columns) == whole - whole // 4
