"""In 16 bits too, the gradient of a frequent token, position or bias is summed in float32.

Upstream gradients have one sign, as those of a frequent token do: a sum in bfloat16 stops growing.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from distill_jax import students
from distill_jax.students import decoder, gather, layers, logprobs, sharding, t5, t5_layers
from tests import compilations
from tests.golden import cases
from tests.students import oracle

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)

ROWS, LENGTH, TOKEN = 64, 256, 7  # 16,384 occurrences
# One of each way to embed; the others: bash launch/test.sh -m heavy tests/students
QUICK = ("gpt2", "opt", "opt_350m", "llama", "qwen3", "gemma2", "t5", "t5_v1_1")
CASES = {**cases.CASES, **cases.ENCODER_DECODERS}


def config_of(case: str):
  return dataclasses.replace(cases.read(CASES[case]), dtype="bfloat16")


def upstream(*shape: int, seed: int = 0) -> np.ndarray:
  """Returns gradients of one sign that bfloat16 holds exactly."""
  draw = oracle.rng(seed).uniform(0.5, 1.5, shape)
  return np.float32(jnp.asarray(draw, jnp.bfloat16))


def states_of_tokens(config, params, tokens):
  """Returns what the first layer reads."""
  if students.of(config) is t5:
    return t5._embed(config, params, tokens)
  return decoder._embed(config, params, tokens, jnp.zeros_like(tokens))


def embedding_gradients(config, params, names, slope):
  tokens = jnp.full((ROWS, LENGTH), TOKEN, jnp.int32)

  def total(trained):
    return jnp.sum(states_of_tokens(config, params | trained, tokens).astype(jnp.float32) * slope)

  return jax.jit(jax.grad(total))({name: params[name] for name in names})


@pytest.mark.parametrize(
  "case", [x if x in QUICK else pytest.param(x, marks=pytest.mark.heavy) for x in CASES]
)
def test_a_token_that_occurs_16384_times_gets_all_of_its_gradient(case):
  config = config_of(case)
  params = cases.ours(CASES[case]["model_type"], config, cases.weight)
  params = jax.tree.map(jnp.asarray, {k: v for k, v in params.items() if not isinstance(v, dict)})
  names = [name for name in ("embed", "positions") if name in params]
  slope = upstream(ROWS, LENGTH, config.width)
  got = embedding_gradients(config, params, names, slope)
  wanted = np.float64(slope).sum((0, 1))
  if "positions" in names:
    row = np.asarray(got["positions"])[config.learned_offset]
    np.testing.assert_allclose(row, wanted, rtol=1e-3)
  if getattr(config, "embed_width", 0):  # the projection that widens rounds each upstream gradient
    widen = np.float64(jnp.asarray(params["widen"], jnp.bfloat16))
    each = np.float64(slope).reshape(-1, config.width) @ widen.T
    np.testing.assert_allclose(got["embed"][TOKEN], each.sum(0), rtol=4e-3, atol=1e-3)
    return
  scale = np.float64(jnp.asarray(getattr(config, "embed_scale", 1.0), jnp.bfloat16))
  np.testing.assert_allclose(got["embed"][TOKEN], wanted * scale, rtol=1e-3)
  assert got["embed"].dtype == jnp.float32
  assert not np.delete(np.asarray(got["embed"]), TOKEN, axis=0).any()


@pytest.mark.parametrize("sizes", [(4, 1, 1), (2, 2, 2), (1, 4, 1), (1, 1, 4), (1, 2, 4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_mesh_looks_up_the_same_entries_and_sums_the_same_gradient(sizes, dtype):
  draw = oracle.rng(3)
  table = np.float32(draw.normal(size=(24, 16)))
  tokens = np.int32(draw.integers(0, 24, (8, 5)))
  slope = upstream(8, 5, 16)

  def total(table):
    found = gather.entries(table, tokens, dtype)
    return jnp.sum(found.astype(jnp.float32) * slope), found

  count = int(np.prod(sizes))
  mesh = sharding.make_mesh(*sizes, devices=jax.devices()[:count])
  with jax.set_mesh(mesh):
    placed = jax.NamedSharding(mesh, sharding.partition(mesh, table.shape, ("vocab", "embed")))
    program = jax.jit(jax.value_and_grad(total, has_aux=True), in_shardings=placed)
    (_, found), got = program(jax.device_put(table, placed))
  wanted = np.zeros(table.shape)
  np.add.at(wanted, tokens, np.float64(slope))
  np.testing.assert_array_equal(found, jnp.asarray(table[tokens], dtype))
  np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_a_batch_that_the_devices_cannot_share_looks_up_the_same_entries():
  table, tokens = np.float32(oracle.rng().normal(size=(24, 16))), np.int32([[1, 5, 1]])
  with jax.set_mesh(sharding.make_mesh(2, 2, 2)):
    got = jax.jit(functools.partial(gather.entries, dtype="bfloat16"))(table, tokens)
  np.testing.assert_array_equal(got, jnp.asarray(table[tokens], jnp.bfloat16))


def test_the_gradient_of_a_bias_is_summed_in_float32():
  config = config_of("qwen2")
  graph, params = nnx.split(layers.Block(config, rngs=nnx.Rngs(0)))
  slope = upstream(ROWS, LENGTH, 2, 6)

  def total(bias):
    block = nnx.merge(graph, params | {"k_bias": params["k_bias"].replace(bias)})
    y = block._add_bias(jnp.zeros((ROWS, LENGTH, 2, 6), jnp.bfloat16), "k")
    return jnp.sum(y.astype(jnp.float32) * slope)

  text = str(jax.make_jaxpr(jax.grad(total))(jnp.zeros((2, 6))))
  assert "bf16[2,6]" not in text, text
  np.testing.assert_allclose(
    jax.grad(total)(jnp.zeros((2, 6))), np.float64(slope).sum((0, 1)), rtol=1e-5
  )


@pytest.mark.parametrize("both_ways", [True, False])
def test_an_offset_that_occurs_a_million_times_gets_all_of_its_gradient(both_ways):
  length, slope = 1024, np.float32(0.1)
  offsets = jnp.full((1, length, length), -99, jnp.int32)

  def total(table):
    bias = t5_layers.relative_bias(table, offsets, distance=8, both_ways=both_ways)
    return jnp.sum(bias * slope)

  got = np.asarray(jax.jit(jax.grad(total))(jnp.ones((8, 1))))
  np.testing.assert_allclose(got.sum(), length**2 * np.float64(slope), rtol=1e-4)


def test_a_position_that_many_targets_read_gets_all_of_its_gradient():
  slope = upstream(1, 16384, 4)
  states, where = jnp.zeros((1, 3, 4), jnp.bfloat16), jnp.ones((1, 16384), jnp.int32)

  def total(states):
    return jnp.sum(gather.positions(states, where).astype(jnp.float32) * slope)

  got = np.float64(jax.jit(jax.grad(total))(states))
  np.testing.assert_allclose(got[0, 1], np.float64(slope).sum((0, 1)), rtol=4e-3)


@pytest.mark.parametrize("chunk", [16, LENGTH])
def test_a_target_that_occurs_16384_times_gets_all_of_its_gradient(chunk):
  draw = oracle.rng(1)
  head = np.float32(jnp.asarray(0.1 * draw.normal(size=(8, 12)), jnp.bfloat16))
  states = upstream(ROWS, LENGTH, 8)
  targets = np.full((ROWS, LENGTH), TOKEN)

  def total(head):
    return jnp.sum(
      logprobs.token_logprobs(jnp.asarray(states, jnp.bfloat16), head, targets, chunk=chunk)
    )

  got = jax.jit(jax.grad(total))(head)
  shares = oracle.softmax(np.float64(states) @ np.float64(head))
  wanted = np.einsum("btd,btv->dv", np.float64(states), np.eye(12)[targets] - shares)
  np.testing.assert_allclose(got, wanted, rtol=4e-3)
