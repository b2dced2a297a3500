"""Losses against float64, and their edge cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.learning import losses
from tests.students import oracle

triplet = jax.jit(losses.triplet, static_argnames="margin")
grads_of = jax.jit(jax.grad(losses.triplet, argnums=(0, 1, 2)), static_argnames="margin")


@functools.cache
def vectors():
  return tuple(oracle.rng(n).normal(size=(6, 5)) for n in range(3))


def with_distance(anchor, positive, negative, margin):
  """Returns torch.nn.TripletMarginWithDistanceLoss on 1 - cosine_similarity, for each row."""
  norm = lambda x: np.sqrt((x * x).sum(-1))
  distance = lambda x, y: 1 - (x * y).sum(-1) / np.maximum(norm(x) * norm(y), 1e-8)
  return np.maximum(distance(anchor, positive) - distance(anchor, negative) + margin, 0)


def test_weighted_likelihood_is_the_sum_of_weight_times_minus_log_p():
  logp, weights = -oracle.rng().random((3, 7)), oracle.rng(1).random((3, 7))
  weights[:, 4:] = 0
  got = jax.jit(losses.weighted_nll)(np.float32(logp), np.float32(weights))
  np.testing.assert_allclose(got, -np.sum(weights * logp), rtol=1e-6)


@pytest.mark.parametrize("margin", [0.0, 0.3, 1.0])
def test_the_triplet_loss_is_the_hinge_on_cosine_distances_summed_over_valid_rows(margin):
  valid = np.array([1, 0, 1, 1, 0, 1])
  got = triplet(*map(np.float32, vectors()), np.float32(valid), margin=margin)
  np.testing.assert_allclose(got, with_distance(*vectors(), margin) @ valid, rtol=1e-5)


def test_the_triplet_loss_pulls_the_positive_near_and_pushes_the_negative_away():
  valid = np.ones(6, np.float32)
  anchor, positive, negative = map(np.float32, vectors())
  near, far = (
    triplet(anchor, anchor, -anchor, valid, margin=1.0),
    triplet(anchor, -anchor, anchor, valid, margin=1.0),
  )
  np.testing.assert_allclose(near, 0, atol=1e-6)
  np.testing.assert_allclose(far, 6 * 3.0, rtol=1e-6)
  swapped = triplet(anchor, negative, positive, valid, margin=9.0)
  unswapped = triplet(anchor, positive, negative, valid, margin=9.0)
  np.testing.assert_allclose(swapped + unswapped, 6 * 2 * 9.0, rtol=1e-6)


def test_only_directions_count():
  valid = np.ones(6, np.float32)
  a, p, n = map(np.float32, vectors())
  np.testing.assert_allclose(
    triplet(3 * a, 0.1 * p, 7 * n, valid, margin=1.0),
    triplet(a, p, n, valid, margin=1.0),
    rtol=1e-5,
  )


def test_without_valid_rows_the_triplet_loss_and_all_its_gradients_are_zero():
  none = np.zeros(6, np.float32)
  assert triplet(*map(np.float32, vectors()), none, margin=1.0) == 0
  for grad in grads_of(*map(np.float32, vectors()), none, margin=1.0):
    assert (np.asarray(grad) == 0).all()


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_a_zero_vector_gives_finite_numbers_valid_or_not(zero):
  some = [np.float32(x) for x in vectors()]
  some[zero] = np.zeros((6, 5), np.float32)
  for valid in (np.zeros(6, np.float32), np.ones(6, np.float32)):
    assert np.isfinite(triplet(*some, valid, margin=1.0))
    assert all(np.isfinite(grad).all() for grad in grads_of(*some, valid, margin=1.0))
  np.testing.assert_allclose(
    triplet(*some, np.ones(6, np.float32), margin=1.0), with_distance(*some, 1.0).sum(), rtol=1e-5
  )


def test_small_floats_are_compared_in_large_ones():
  small = [jnp.asarray(x, jnp.bfloat16) for x in vectors()]
  got = triplet(*small, np.ones(6, np.float32), margin=1.0)
  want = with_distance(*(np.float64(x) for x in small), 1.0).sum()
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, rtol=1e-5)
