"""Objectives on packed rows, against plain rows and plain means in float64."""

import dataclasses

import jax
import numpy as np
import pytest

from distill_jax.data import collate
from distill_jax.learning import objectives
from tests import compilations
from tests.learning import material
from tests.students import oracle

CONFIG = oracle.TINY
PREFERENCES = collate.PreferenceCollator()

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)


@pytest.fixture(scope="module")
def params():
  return oracle.params(CONFIG, scale=0.25)


def batch(some, *, packed: bool) -> objectives.Batch:
  """Returns all pairs in one batch."""
  corpus = material.corpus_of(some, PREFERENCES, batch=8, buckets=(60,), packed=packed)
  assert len(corpus.batch_order.epoch(0)) == 1
  return objectives.as_batch(corpus.batch(0))


def logp_of(params, prompt, side) -> float:
  """Returns log p of a side behind its prompt, float64."""
  logp = oracle.logprobs(CONFIG, params, prompt + side)
  return float(sum(logp[len(prompt) - 1 + n, token] for n, token in enumerate(side)))


def with_own_references(params, some):
  """Returns the pairs with the policy itself as reference."""
  of = lambda x: (logp_of(params, x.prompt, x.chosen), logp_of(params, x.prompt, x.rejected))
  return [dataclasses.replace(x, references=of(x)) for x in some]


def sums(params, batch, beta: float) -> float:
  return float(jax.jit(material.preference(beta).sums)(params, batch)["preference"])


@pytest.mark.parametrize("packed", [False, True])
def test_dpo_equals_the_oracle(params, packed):
  some, beta = material.preferred(7), 0.4
  want = 0.0
  for pair, own in zip(some, with_own_references(params, some), strict=True):
    (chosen, rejected), (ref_chosen, ref_rejected) = own.references, pair.references
    want += np.log1p(np.exp(-beta * ((chosen - ref_chosen) - (rejected - ref_rejected))))
  got = batch(some, packed=packed)
  np.testing.assert_allclose(sums(params, got, beta), want, rtol=1e-5)
  assert material.preference(beta).counts(got)["preference"] == 7


@pytest.mark.parametrize("packed", [False, True])
def test_the_first_dpo_loss_is_log_2(params, packed):
  some = with_own_references(params, material.preferred(7))
  got = sums(params, batch(some, packed=packed), 0.4)
  np.testing.assert_allclose(got, 7 * np.log(2), rtol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_each_side_has_the_log_probability_and_the_length_of_its_own_tokens(packed):
  """Every token of side s gets log p = -s, so sums show which side they belong to."""
  some = [
    dataclasses.replace(x, references=(n, n + 0.5)) for n, x in enumerate(material.preferred(7))
  ]
  got = batch(some, packed=packed)
  sides = objectives.sum_sides(-1.0 - got.owners, got)
  there = got.pairs > 0
  lengths = {n: (len(x.chosen), len(x.rejected)) for n, x in enumerate(some)}
  numbers = sides.reference[there][:, 0].astype(int)
  assert sorted(numbers.tolist()) == list(range(7))
  np.testing.assert_array_equal(sides.reference[there][:, 1], numbers + 0.5)
  np.testing.assert_array_equal(sides.tokens[there], [lengths[n] for n in numbers])
  pair = np.argwhere(there)[:, 1:]
  np.testing.assert_array_equal(
    sides.logp[there], -sides.tokens[there] * (1 + 2 * pair + np.array([[0, 1]]))
  )
  for absent in (sides.logp, sides.reference, sides.tokens):
    assert (np.asarray(absent)[~there] == 0).all()


@pytest.mark.parametrize("pool", ["last", "mean"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_branch_is_the_mean_of_its_pooled_states(packed, pool):
  triplet = dataclasses.replace(material.TRIPLET, pool=pool)
  kind = collate.SupervisedCollator(material.SFT, triplet, with_triplets=True)
  corpus = material.corpus_of(material.examples(7), kind, batch=8, buckets=(60,), packed=packed)
  got = objectives.as_batch(corpus.batch(0))
  states = oracle.rng().normal(size=(8, 60, 5))
  branches = jax.jit(objectives.pool_branches)(np.float32(states), got)
  seen = 0
  for n, (row, contrast) in enumerate(np.ndindex(got.valid.shape)):
    for branch in range(3):
      inside = got.slots[row] == 1 + 3 * contrast + branch
      assert inside.any() == (got.valid[row, contrast] > 0)
      want = states[row][inside].mean(axis=0) if inside.any() else np.zeros(5)
      np.testing.assert_allclose(branches[branch][n], want, rtol=1e-5, atol=1e-6)
      seen += inside.sum()
  assert seen == 3 * 4 if pool == "last" else seen > 3 * 4
