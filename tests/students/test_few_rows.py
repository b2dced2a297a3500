"""Products of few rows on a CPU: the values of the plain ones, with the weight as first factor."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.students import attention, few_rows, sharding
from tests import rounding
from tests.students import oracle

X = np.float32(oracle.rng(0).normal(size=(3, 2, 4, 5)))
WEIGHT = np.float32(oracle.rng(1).normal(size=(4, 5, 7, 6)))


@pytest.mark.parametrize(("axes", "x"), [(2, X), (1, X[:, :, :, 0])])
def test_a_product_is_that_of_the_weight(axes, x):
  def plain(weight):
    return np.tensordot(np.float64(x), np.float64(weight), axes)

  got = few_rows.product(jnp.asarray(x), few_rows.arrange(jnp.asarray(WEIGHT), axes), axes)
  want, allowed = plain(WEIGHT), rounding.bounds(plain, WEIGHT, length=20)
  assert got.shape == want.shape
  np.testing.assert_allclose(got, want, rtol=0, atol=allowed)


@pytest.mark.parametrize("heads", [1, 3, 8])
def test_scores_are_those_of_the_plain_product(heads):
  q = np.float32(oracle.rng(2).normal(size=(2, 3, heads, 4)))
  keys = np.float32(oracle.rng(3).normal(size=(2, 3, 9, 4)))

  def plain(keys):
    return np.einsum("bgrk,bgsk->bgrs", np.float64(q), np.float64(keys))

  got, want = attention._scores_keys_first(jnp.asarray(q), jnp.asarray(keys)), plain(keys)
  allowed = rounding.bounds(plain, keys, length=4)
  np.testing.assert_allclose(got, want, rtol=0, atol=allowed)


def first_factors(function, *operands) -> list[str]:
  """Returns the shapes of the products in a compiled program; the first factor's rows lead them."""
  text = jax.jit(function).lower(*operands).compile().as_text()
  return [line.split("= ")[1].split("{")[0] for line in text.splitlines() if " dot(" in line]


def test_xla_does_not_swap_the_factors():
  weight = few_rows.arrange(jnp.ones((32, 48)))
  assert first_factors(few_rows.product, jnp.ones((4, 32)), weight) == ["f32[48,4]"]
  q, keys, mask = jnp.ones((2, 1, 6, 16)), jnp.ones((2, 2, 64, 16)), jnp.ones((2, 1, 64), bool)
  attend = functools.partial(attention.attend, scale=0.5)
  results = first_factors(attend, q, keys, keys, mask)
  assert "f32[2,2,64,8]" in results, results


def test_only_float32_weights_of_one_cpu_are_arranged(monkeypatch):
  weight = jnp.ones((4, 6))
  assert isinstance(few_rows.arrange(weight), few_rows.OutputsFirst)
  half = weight.astype(jnp.bfloat16)
  assert few_rows.arrange(half) is half
  with jax.set_mesh(sharding.make_mesh(2, 2, 2)):
    assert few_rows.arrange(weight) is weight
  monkeypatch.setattr(sharding, "platform", lambda: "gpu")
  assert few_rows.arrange(weight) is weight
