"""The head on a mesh: the same values and gradients, however vocabulary and rows are divided."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.students import logprobs, sharding, split_head
from tests import compilations, meshes
from tests.students import oracle

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)

B, T, D = 8, 7, 8


def inputs(vocab: int, dtype: str):
  draw = oracle.rng()
  return (
    jnp.asarray(draw.normal(size=(B, T, D)), dtype),
    np.float32(draw.normal(size=(D, vocab))),
    np.float32(draw.normal(size=vocab)),
    np.int32(draw.integers(0, vocab, (B, T))),
    np.float32(draw.random((B, T))),
  )


def program(chunk: int, softcap: float):
  def total(states, head, bias, targets, weights):
    logp = logprobs.token_logprobs(states, head, targets, chunk=chunk, bias=bias, softcap=softcap)
    return jnp.sum(weights * logp), logp

  return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))


def by_hand(states, head, bias, targets, weights, softcap):
  """Returns (log-probabilities, gradients) in float64."""
  states, head = np.float64(states), np.float64(head)
  logits = states @ head + bias
  slope_of_cap = 1.0
  if softcap:
    logits = softcap * np.tanh(logits / softcap)
    slope_of_cap = 1 - (logits / softcap) ** 2
  shares, hit = oracle.softmax(logits), np.eye(head.shape[1])[targets]
  slope = weights[..., None] * (hit - shares) * slope_of_cap
  logp = np.log((shares * hit).sum(-1))
  return logp, slope @ head.T, np.einsum("btd,btv->dv", states, slope), slope.sum((0, 1))


# 37 entries and 34 are divided with padding; 37 cannot be stored split over tensor.
@pytest.mark.parametrize(
  "sizes, vocab, softcap",
  [
    ((4, 1, 1), 37, 0.0),
    ((1, 4, 1), 37, 0.0),
    ((2, 2, 2), 34, 3.0),
    ((1, 2, 4), 40, 0.0),
    ((1, 1, 4), 37, 0.0),
  ],
)
@pytest.mark.parametrize("chunk", [2, 100])
def test_every_mesh_and_chunk_gives_the_same_values_and_gradients(sizes, vocab, softcap, chunk):
  data = inputs(vocab, "float32")
  wanted = by_hand(*data, softcap)
  mesh = sharding.make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
  with jax.set_mesh(mesh):
    (_, logp), grads = program(chunk, softcap)(*data)
  for got, want in zip((logp, *grads), wanted, strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert got.dtype == jnp.float32


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 4, 1), (2, 2, 2)])
def test_sixteen_bits_give_the_exact_gradient_up_to_the_rounding_of_one_product(sizes):
  states, head, bias, targets, weights = inputs(40, "bfloat16")
  head = np.float32(jnp.asarray(head, jnp.bfloat16))
  wanted = by_hand(states, head, bias, targets, weights, 0.0)
  with jax.set_mesh(sharding.make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])):
    (_, logp), (state_slope, *grads) = program(3, 0.0)(states, head, bias, targets, weights)
  np.testing.assert_allclose(logp, wanted[0], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(np.float64(state_slope), wanted[1], rtol=2e-2, atol=1e-2)
  for got, want in zip(grads, wanted[2:], strict=True):
    np.testing.assert_allclose(got, want, rtol=2e-2, atol=1e-2)
    assert got.dtype == jnp.float32
  assert state_slope.dtype == jnp.bfloat16


def test_a_batch_that_the_devices_cannot_share_gives_the_same_values():
  states, head, bias, targets, weights = (x for x in inputs(40, "float32"))
  data = (states[:3], head, bias, targets[:3], weights[:3])
  with meshes.one_device():
    (_, want), _ = program(100, 0.0)(*data)
  with jax.set_mesh(sharding.make_mesh(2, 2, 2)):
    (_, got), _ = program(100, 0.0)(*data)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_chunks_are_bounded_by_bytes_and_by_positions():
  with meshes.one_device():
    divide = lambda vocab, chunk: (
      split_head.divide(
        jnp.zeros((16, 512, 8), jnp.bfloat16), jnp.zeros((8, vocab)), chunk=chunk, softcap=0.0
      ).chunk
    )
    assert divide(512, 256) == 16 * 256
    assert 4 * 151936 * divide(151936, 256) <= split_head.CHUNK_BYTES < 4 * 151936 * 16 * 256
