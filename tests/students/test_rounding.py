"""The bounds of tests/rounding.py hold for every order of summation, and are not idly wide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import rounding
from tests.students import oracle

WIDTH, DEPTH = 48, 5


def chain(weights, dtype):
  """A deep network whose sums are as long as it is wide."""
  x = weights[0].astype(dtype)
  for w in weights[1:]:
    x = np.tanh(np.matmul(x, w.astype(dtype), dtype=dtype)).astype(dtype)
  return x


def weights(scale: float):
  return [np.float32(scale * oracle.rng(n).normal(size=(WIDTH, WIDTH))) for n in range(DEPTH + 1)]


def bound(scale: float) -> float:
  return rounding.bounds(lambda w: chain(w, np.float64), weights(scale), length=WIDTH)


@pytest.mark.parametrize("scale", [0.05, 0.2, 0.5])
def test_any_order_of_summation_stays_within_the_bound_and_uses_a_hundredth_of_it(scale):
  """From well to badly conditioned: larger weights amplify errors from layer to layer."""
  want, largest = chain(weights(scale), np.float64), 0.0
  for seed in range(20):
    order = oracle.rng(seed).permutation(WIDTH)
    mixed = [w[order][:, order] for w in weights(scale)]
    got = chain(mixed, np.float32)
    largest = max(largest, np.abs(got - want[order][:, order]).max())
  assert bound(scale) / 100 < largest < bound(scale)


@pytest.mark.parametrize("scale", [0.05, 0.2, 0.5])
def test_computing_in_sixteen_bits_is_beyond_the_bound(scale):
  want = chain(weights(scale), np.float64)
  got = jax.tree.map(lambda w: np.float64(jnp.asarray(w, jnp.bfloat16)), weights(scale))
  assert np.abs(chain(got, np.float64) - want).max() > 50 * bound(scale)


def test_the_bound_of_a_function_that_is_its_weights_is_their_own_rounding():
  got = rounding.bounds(lambda w: w, np.float32([1.0]), length=1)
  np.testing.assert_allclose(got, 4 * rounding.LAMBDA * rounding.unit(), rtol=1e-9)


def test_integers_must_be_equal():
  assert rounding.bounds(lambda w: np.int32(3), np.float32([1.0]), length=9) == 0.0


def test_a_difference_beyond_its_bound_fails():
  one = {"x": np.float64([1.0])}
  rounding.assert_within({"x": np.float64([1.09])}, one, {"x": 0.1})
  with pytest.raises(AssertionError):
    rounding.assert_within({"x": np.float64([1.11])}, one, {"x": 0.1})
