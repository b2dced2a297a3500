"""The head: correct in value and gradient, without an array [batch, length, vocabulary]."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.students import logprobs
from tests import compilations
from tests.students import oracle

B, T, D, V = 2, 13, 6, 37

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)


@functools.cache
def summed(chunk: int):
  """Returns a function for the weighted sum of log-probabilities, all of them, and gradients."""

  def total(hidden, head, targets, weights):
    logp = logprobs.token_logprobs(hidden, head, targets, chunk=chunk)
    return jnp.sum(weights * logp), logp

  return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))


@pytest.fixture(scope="module")
def inputs():
  draw = oracle.rng()
  return (
    draw.normal(size=(B, T, D)),
    draw.normal(size=(D, V)),
    draw.integers(0, V, (B, T)),
    (draw.random((B, T))),
  )


def by_hand(hidden, head, targets, weights):
  """Returns (log-probabilities, gradients by hidden and by head) in float64."""
  logits = hidden @ head
  shares = oracle.softmax(logits)
  hit = np.eye(V)[targets]
  slope = weights[..., None] * (hit - shares)
  logp = np.log((shares * hit).sum(-1))
  return logp, slope @ head.T, np.einsum("btd,btv->dv", hidden, slope)


@pytest.mark.parametrize("chunk", [1, 4, 12, 13, 50])
def test_every_chunk_size_gives_the_same_values_and_gradients(inputs, chunk):
  hidden, head, targets, weights = inputs
  (_, logp), grads = summed(chunk)(
    np.float32(hidden), np.float32(head), np.int32(targets), np.float32(weights)
  )
  for got, want in zip((logp, *grads), by_hand(*inputs), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert got.dtype == jnp.float32


def test_logits_of_a_thousand_do_not_overflow(inputs):
  hidden, head, targets, weights = inputs
  (_, logp), grads = summed(4)(
    np.float32(1000 * hidden), np.float32(head), np.int32(targets), np.float32(weights)
  )
  assert np.isfinite(logp).all() and all(np.isfinite(g).all() for g in grads)
  assert (np.asarray(logp) <= 0).all()


def test_positions_of_weight_zero_change_nothing(inputs):
  hidden, head, targets, weights = (np.array(x) for x in inputs)
  weights[:, 5:] = 0
  spoiled, wrong = hidden.copy(), targets.copy()
  spoiled[:, 5:] = 1e4
  wrong[:, 5:] = 0
  run = lambda h, t: summed(4)(np.float32(h), np.float32(head), np.int32(t), np.float32(weights))
  ((a, _), (ha, da)), ((b, _), (hb, db)) = run(hidden, targets), run(spoiled, wrong)
  assert a == b
  np.testing.assert_array_equal(ha[:, :5], hb[:, :5])
  np.testing.assert_array_equal(da, db)
  assert (np.asarray(hb)[:, 5:] == 0).all()


def compiled(chunk: int):
  """Compiles value and gradient for rows of 128 targets and a vocabulary of 509."""
  shape = lambda s, kind: jax.ShapeDtypeStruct(s, kind)
  args = (
    shape((2, 128, 16), jnp.float32),
    shape((16, 509), jnp.float32),
    shape((2, 128), jnp.int32),
    shape((2, 128), jnp.float32),
  )
  return summed(chunk).lower(*args).compile()


def rows_of_vocabulary(program) -> int:
  """Returns the rows of the largest array with a dimension of 509, the vocabulary."""
  shapes = (
    [int(n) for n in dims.split(",")]
    for dims in re.findall(r"\w\d+\[([\d,]+)\]", program.as_text())
  )
  return max(int(np.prod(dims)) // 509 for dims in shapes if 509 in dims)


def test_an_array_of_batch_by_length_by_vocabulary_never_exists():
  whole, chunked = compiled(128), compiled(8)
  assert rows_of_vocabulary(whole) >= 2 * 128, "otherwise this test could not see it"
  assert rows_of_vocabulary(chunked) <= 2 * 8
  memory = [p.memory_analysis().temp_size_in_bytes for p in (chunked, whole)]
  assert memory[0] < 2 * 128 * 509 * 4 <= memory[1]
