"""Sampling a token, against an oracle that sorts."""

import jax
import numpy as np
import pytest
from scipy import stats

from distill_jax.decoding import sampling
from tests import compilations
from tests.students import oracle

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)
filter_probs, sample_tokens = jax.jit(sampling.filter_probs), jax.jit(sampling.sample_tokens)


def probabilities(seed: int, rows: int = 6, words: int = 40) -> np.ndarray:
  """From nearly flat to nearly certain."""
  logits = oracle.rng(seed).normal(size=(rows, words)) * np.geomspace(0.1, 30, rows)[:, None]
  return np.float32(oracle.softmax(logits))


def by_sorting(probs, top_p: float, top_k: int):
  """Filters a row: keeps the k largest, then the fewest that hold top_p of them, and all ties."""
  probs = np.float64(probs)
  ranked = np.sort(probs)[::-1]
  if top_k:
    probs = np.where(probs >= ranked[min(top_k, len(ranked)) - 1], probs, 0)
  if top_p < 1:
    values = np.unique(probs)[::-1]
    held = np.array([probs[probs >= v].sum() for v in values])
    probs = np.where(probs >= values[np.argmax(held >= top_p * probs.sum())], probs, 0)
  return probs


@pytest.mark.parametrize("top_k", [0, 1, 2, 7, 39, 40, 1000])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.93, 1.0])
def test_what_is_kept_equals_what_sorting_keeps(top_p, top_k):
  for seed in range(3):
    probs = probabilities(seed)
    got = filter_probs(probs, sampling.sampling(1.0, top_p, top_k))
    want = [by_sorting(row, top_p, top_k) for row in probs]
    np.testing.assert_array_equal(got, np.float32(want))


def test_ties_with_the_last_one_kept_stay_in():
  probs = np.float32([[0.3, 0.2, 0.2, 0.2, 0.1, 0.0], [1 / 6] * 6])
  np.testing.assert_array_equal(
    filter_probs(probs, sampling.sampling(1.0, 1.0, 2)) > 0, [[1, 1, 1, 1, 0, 0], [1] * 6]
  )
  np.testing.assert_array_equal(
    filter_probs(probs, sampling.sampling(1.0, 0.4, 0)) > 0, [[1, 1, 1, 1, 0, 0], [1] * 6]
  )


def test_top_k_comes_before_top_p():
  """The first holds half of the two that top-k leaves (0.4, 0.3), and not half of all."""
  probs = np.float32([[0.4, 0.3, 0.2, 0.1]])
  np.testing.assert_array_equal(
    filter_probs(probs, sampling.sampling(1.0, 0.5, 2)) > 0, [[True, False, False, False]]
  )
  np.testing.assert_array_equal(
    filter_probs(probs, sampling.sampling(1.0, 0.5, 0)) > 0, [[True, True, False, False]]
  )


@pytest.mark.parametrize("top_p", [0.0, 1e-30, 0.5])
def test_the_likeliest_token_is_always_kept(top_p):
  for probs in (np.float32([[0.1, 0.9, 0.0]]), np.float32([[0.0, 0.0, 1.0]]), probabilities(0)):
    kept = np.asarray(filter_probs(probs, sampling.sampling(1.0, top_p, 1)))
    assert (kept.argmax(-1) == probs.argmax(-1)).all()
    assert (kept.max(-1) == probs.max(-1)).all()


def test_probabilities_of_a_millionth_of_a_millionth_are_told_apart():
  probs = np.float32([[1.0, 3e-13, 2e-13, 1e-13, 1e-37, 0.0]])
  for k in range(1, 6):
    assert (np.asarray(filter_probs(probs, sampling.sampling(1.0, 1.0, k)))[0] > 0).sum() == k


def test_neighboring_floats_are_told_apart():
  probs = [np.float32(0.2)]
  for _ in range(3):
    probs.append(np.nextafter(probs[-1], np.float32(0)))
  for k in range(1, 4):
    got = np.asarray(filter_probs(np.stack([probs, probs[::-1]]), sampling.sampling(1.0, 1.0, k)))
    assert ((got > 0).sum(axis=-1) == k).all()


def test_at_temperature_zero_the_likeliest_token_is_taken_whatever_the_number_drawn():
  logits = np.float32(oracle.rng().normal(size=(8, 40)))
  uniform = np.float32(np.linspace(0, 1, 8, endpoint=False))
  for top_p, top_k in ((1.0, 0), (0.3, 0), (1.0, 5), (0.0, 0)):
    token, _ = sample_tokens(logits, uniform, sampling.sampling(0.0, top_p, top_k))
    np.testing.assert_array_equal(token, logits.argmax(-1))


def test_log_probabilities_are_at_temperature_one_and_before_any_filter():
  logits = oracle.rng().normal(size=(8, 40))
  uniform = np.float32(oracle.rng(1).random(8))
  for temperature, top_p, top_k in ((0.0, 1.0, 0), (1.0, 1.0, 0), (2.5, 0.7, 9)):
    token, logp = sample_tokens(
      np.float32(logits), uniform, sampling.sampling(temperature, top_p, top_k)
    )
    want = np.log(oracle.softmax(logits))[np.arange(8), np.asarray(token)]
    np.testing.assert_allclose(logp, want, rtol=1e-5)


GRID = 4096


def frequencies(logits, settings) -> np.ndarray:
  """Returns how often each token is sampled over a grid of uniform numbers."""
  uniform = np.float32((np.arange(GRID) + 0.5) / GRID)
  token, _ = sample_tokens(np.tile(np.float32(logits), (GRID, 1)), uniform, settings)
  return np.bincount(np.asarray(token), minlength=len(logits))


@pytest.mark.parametrize(
  ("temperature", "top_p", "top_k"), [(1.0, 1.0, 0), (0.5, 1.0, 0), (1.7, 0.8, 0), (1.0, 0.9, 6)]
)
def test_tokens_come_as_often_as_their_probability_says(temperature, top_p, top_k):
  logits = 1.5 * oracle.rng(3).normal(size=12)
  seen = frequencies(logits, sampling.sampling(temperature, top_p, top_k))
  kept = by_sorting(np.float32(oracle.softmax(logits / temperature)), top_p, top_k)
  want = kept / kept.sum() * GRID
  assert (seen[want == 0] == 0).all()
  np.testing.assert_array_less(np.abs(seen - want), 1.01)  # a grid is off by one at most
  often = want >= 5
  statistic = np.sum((seen - want)[often] ** 2 / want[often])
  assert stats.chi2.sf(statistic, often.sum()) > 0.9


def test_no_token_of_probability_zero_is_ever_drawn():
  """Parallel sums can rise where nothing is added; numbers at the edges of tokens show it."""
  draw = oracle.rng(7)
  rows, words = 64, 5000
  logits = np.float32(draw.normal(size=(rows, words)))
  logits[:, draw.random(words) < 0.5] = -np.inf
  logits[:, :3] = logits[:, -3:] = -np.inf
  below_one = np.nextafter(np.float32(1), np.float32(0))
  edges = np.float32([0.0, 1e-45, below_one, 0.5])
  settings = [
    sampling.sampling(1.0),
    sampling.sampling(1.0, 0.9, 0),
    sampling.sampling(1.0, 1.0, 40),
  ]
  for s in settings:
    kept = np.asarray(filter_probs(jax.nn.softmax(logits, axis=-1), s))
    total = np.cumsum(kept, axis=-1, dtype=np.float32)
    for trial in range(24):
      at = draw.integers(0, words, rows)
      bound = total[np.arange(rows), at] / total[:, -1]  # the worst place: between two tokens
      uniform = np.minimum(np.float32(bound), below_one)
      uniform[:4] = edges
      token, logp = sample_tokens(logits, uniform, s)
      assert (kept[np.arange(rows), np.asarray(token)] > 0).all(), trial
      assert np.isfinite(logp).all()


@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 1e-37])
def test_a_temperature_next_to_zero_draws_the_likeliest_token(temperature):
  logits = np.float32([[0.0, 3.0, -2.0], [1e4, -1e4, 0.0], [-50.0, -60.0, -40.0]])
  token, logp = sample_tokens(logits, np.float32([0.1, 0.5, 0.99]), sampling.sampling(temperature))
  np.testing.assert_array_equal(token, [1, 0, 2])
  assert np.isfinite(logp).all()


def test_a_high_temperature_makes_all_tokens_alike():
  seen = frequencies(np.array([0.0, 3.0, -2.0, 9.0]), sampling.sampling(1e6))
  assert np.ptp(seen) <= 2


def test_a_draw_from_a_large_vocabulary_inverts_the_cumulative_distribution():
  """Several blocks of the sum, one of them without any probability."""
  draw = oracle.rng(3)
  logits = np.float32(draw.normal(size=(64, 1500)) * 3)
  logits[:, sampling.BLOCK : 2 * sampling.BLOCK] = -1e9
  uniform = np.float32(draw.uniform(size=64))
  token, _ = sample_tokens(logits, uniform, sampling.sampling(1.0))
  ends = np.cumsum(oracle.softmax(np.float64(logits)), axis=-1)
  at, row = np.asarray(token), np.arange(64)
  assert (ends[row, at] > uniform - 1e-5).all()
  assert (np.where(at > 0, ends[row, at - 1], 0) < uniform + 1e-5).all()
  assert (logits[row, at] > -1e9).all() and len(set(at // sampling.BLOCK)) == 5
