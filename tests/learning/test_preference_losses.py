"""Losses on preference pairs: against TRL, against float64, and within their objective."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distill_jax.data import collate
from distill_jax.learning import losses, objectives, step
from tests import compilations, rounding
from tests.learning import make_trl, material
from tests.students import oracle

GOLDEN = pathlib.Path(__file__).with_name("trl.npz")
PREFERENCES = collate.PreferenceCollator()
OWN = {"robust": {"label_smoothing": 0.1}}
every_loss = pytest.mark.parametrize("loss", losses.PREFERENCE)

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)


@functools.cache
def golden():
  with np.load(GOLDEN) as file:
    return dict(file)


def our_losses(case: str, given) -> dict:
  """Like make_trl.trl_losses."""
  loss, options, normalized, alpha = make_trl.CASES[case]

  def mean(chosen_NT, rejected_NT):
    scores = []
    for side, logp_NT in (("chosen", chosen_NT), ("rejected", rejected_NT)):
      score_N = jnp.sum(logp_NT, axis=1)
      if loss not in losses.WITHOUT_REFERENCE:
        score_N -= given[f"ref_{side}"]
      scores.append(score_N / given[f"{side}_there"].sum(axis=1) if normalized else score_N)
    if loss == "kto":
      each = losses.kto(*scores, beta=make_trl.BETA, **options)
      return jnp.mean(each)
    valid_N = np.ones(make_trl.PAIRS, np.float32)
    total = losses.preference(loss, *scores, valid_N, beta=make_trl.BETA, **options)
    there_NT = np.float32(given["chosen_there"])
    nll = losses.weighted_nll(chosen_NT, there_NT) / there_NT.sum()
    return total / make_trl.PAIRS + alpha * nll

  slopes = jax.jit(jax.value_and_grad(mean, argnums=(0, 1)))
  value, (chosen, rejected) = slopes(given["chosen"], given["rejected"])
  return {"": value, "chosen": chosen, "rejected": rejected}


def our_triplet_loss(given) -> dict:
  """Like make_trl.torch_triplet_loss."""
  names, valid = ("anchor", "positive", "negative"), np.ones(make_trl.PAIRS, np.float32)
  slopes = jax.value_and_grad(losses.triplet, argnums=(0, 1, 2))
  branches = [given[name] for name in names]
  value, grads = slopes(*branches, valid, margin=make_trl.MARGIN)
  return {"": value} | dict(zip(names, grads, strict=True))


def assert_equal(got: dict, want: dict, there=None):
  """Asserts equality to 1e-6, without gradients of absent tokens, which TRL does not compute."""
  assert set(got) == set(want)
  for name, value in want.items():
    mask = there[f"{name}_there"] if there and name else True
    np.testing.assert_allclose(got[name] * mask, value * mask, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("case", make_trl.CASES)
def test_every_loss_and_its_gradients_equal_trl(case):
  parts = {"": case, "chosen": f"{case}.chosen", "rejected": f"{case}.rejected"}
  want = {part: golden()[key] for part, key in parts.items()}
  assert all(np.abs(x).max() > 1e-3 for x in want.values()), "otherwise nothing is compared"
  assert_equal(our_losses(case, golden()), want, golden())


def test_the_triplet_loss_and_its_gradients_equal_torch():
  names = ("anchor", "positive", "negative")
  want = {"": golden()["triplet"]} | {name: golden()[f"triplet.{name}"] for name in names}
  assert_equal(our_triplet_loss(golden()), want)


def test_the_golden_inputs_are_those_of_make_trl():
  for name, value in make_trl.inputs().items():
    np.testing.assert_array_equal(golden()[name], value)


def minus_log_sigmoid(x):
  return np.logaddexp(0, -x)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def in_float64(loss, c, r, valid, beta):
  """Returns each pair's loss, from the papers' formulas."""
  gap, odds = c - r, lambda x: np.log(np.exp(x) / -np.expm1(x))
  z_c, z_r = (max(0, (x * valid).sum() / max(valid.sum(), 1)) for x in (r, c))
  right, wrong = minus_log_sigmoid(beta * gap), minus_log_sigmoid(-beta * gap)
  return {
    "dpo": lambda: right,
    "robust": lambda: (0.9 * right - 0.1 * wrong) / 0.8,
    "ipo": lambda: (gap - 1 / (2 * beta)) ** 2,
    "hinge": lambda: np.maximum(0, 1 - beta * gap),
    "simpo": lambda: minus_log_sigmoid(beta * gap - 0.7),
    "orpo": lambda: beta * minus_log_sigmoid(odds(c) - odds(r)),
    "kto": lambda: (2 - sigmoid(beta * (c - z_c)) - sigmoid(beta * (z_r - r))) / 2,
  }[loss]()


def scores(shift=0.0):
  """(chosen, rejected, valid), [3, 2]."""
  c, r = (shift - 4 * oracle.rng(n).random((3, 2)) for n in range(2))
  return c, r, np.array([[1, 0], [1, 1], [0, 1]])


def own(loss):
  return {"robust": {"label_smoothing": 0.1}, "simpo": {"gamma": 0.7}}.get(loss, {})


@functools.cache
def summed(loss, beta=0.5):
  """(chosen, rejected, valid) -> (sum, gradients)."""
  of = functools.partial(losses.preference, loss, beta=beta, **own(loss))
  return jax.jit(jax.value_and_grad(of, argnums=(0, 1)))


@every_loss
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_a_loss_is_the_sum_of_its_formula_over_valid_pairs(loss, shift):
  c, r, valid = scores(shift * (loss != "orpo"))
  got, _ = summed(loss)(np.float32(c), np.float32(r), np.float32(valid))
  want = (in_float64(loss, c, r, valid, 0.5) * valid).sum()
  np.testing.assert_allclose(got, want, rtol=1e-5)


@every_loss
def test_losses_raise_the_chosen_lower_the_rejected_and_ignore_what_is_not_valid(loss):
  c, r, valid = scores()
  _, (up, down) = summed(loss, 0.1)(np.float32(c), np.float32(r), np.float32(valid))
  assert (up[valid > 0] < 0).all() and (down[valid > 0] > 0).all()
  assert (up[valid == 0] == 0).all() and (down[valid == 0] == 0).all()


@every_loss
@pytest.mark.parametrize("extreme", [0.0, -1e4, 1e4, np.nan])
def test_absent_pairs_and_extreme_scores_give_finite_numbers(loss, extreme):
  """An absent pair may hold anything, even NaN; a pair may have any score."""
  c, r, valid = (np.float32(x) for x in scores())
  c[valid == 0], r[valid == 0] = extreme, extreme
  if np.isfinite(extreme):
    c[0, 0], r[2, 1] = extreme, extreme
  for some in (valid, 0 * valid):
    out = summed(loss)(np.where(some > 0, c, extreme), r, some)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(out))
  assert out[0] == 0 and all((x == 0).all() for x in out[1])


def test_where_policy_and_reference_are_equal_dpo_is_log_2_with_and_without_smoothing():
  zero = np.zeros(4, np.float32)
  for options in ({}, {"label_smoothing": 0.3}):
    got = losses.preference("dpo", zero, zero, zero + 1, beta=0.3, **options)
    np.testing.assert_allclose(got, 4 * np.log(2), rtol=1e-6)


def test_the_robust_loss_over_noisy_labels_is_the_dpo_loss_over_clean_ones():
  c, r, _ = scores()
  one = functools.partial(losses.robust, beta=0.5, label_smoothing=0.2)
  noisy = 0.8 * one(c, r) + 0.2 * one(r, c)
  np.testing.assert_allclose(noisy, losses.dpo(c, r, beta=0.5), rtol=1e-5)


def test_reference_points_are_means_of_the_other_side_never_below_0_and_without_gradient():
  c, r, valid = (np.float32(x) for x in (*scores()[:2], scores()[2]))
  for_chosen, for_rejected = losses.reference_points(c, r + 9, valid)
  np.testing.assert_allclose(for_chosen, ((r + 9) * valid).sum() / valid.sum(), rtol=1e-6)
  assert for_rejected == 0
  slope = jax.grad(lambda r: sum(losses.reference_points(c, r, valid)))(r + 9)
  assert (slope == 0).all()


# The objective.


@pytest.fixture(scope="module")
def params():
  return oracle.params(oracle.TINY, scale=0.25)


def batch(some, *, packed=False, size=8) -> objectives.Batch:
  """All pairs in one batch."""
  corpus = material.corpus_of(some, PREFERENCES, batch=size, buckets=(60,), packed=packed)
  assert len(corpus.batch_order.epoch(0)) == 1
  return objectives.as_batch(corpus.batch(0))


def objective(loss, *, nll=0.2, normalized=False, **other):
  coefficients = {"preference": 1.0, "nll": nll}
  fixed = {"length_normalized": normalized, **OWN.get(loss, {}), **other}
  return material.preference(0.4, loss=loss, coefficients=coefficients, **fixed)


@functools.cache
def stepper(loss, grad_accum_steps=1, **other):
  """Returns one plain step: old parameters minus new ones are the gradient."""
  train = step.make_train_step(
    objective(loss, **other), optax.sgd(1.0), grad_accum_steps=grad_accum_steps
  )
  return jax.jit(lambda params, batch: train(step.init_state(params, optax.sgd(1.0)), batch, ()))


def assert_same(one, other):
  """Asserts equality to 1e-5 of the largest number of each array."""
  for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * float(jnp.abs(y).max()))


def pairs_of(params, some):
  """Returns (log p [N, 2], reference [N, 2], tokens [N, 2]), float64."""

  def logp_of(prompt, side):
    logp = oracle.logprobs(oracle.TINY, params, prompt + side)
    return sum(logp[len(prompt) - 1 + n, token] for n, token in enumerate(side))

  logp = [(logp_of(x.prompt, x.chosen), logp_of(x.prompt, x.rejected)) for x in some]
  tokens = [(len(x.chosen), len(x.rejected)) for x in some]
  return (np.float64(x) for x in (logp, [x.references for x in some], tokens))


@every_loss
@pytest.mark.parametrize("normalized", [False, True])
def test_every_metric_equals_the_oracle(params, loss, normalized):
  some = material.preferred(7)

  def reported(given):
    weights, reference = given
    logp, _, tokens = pairs_of(weights, some)
    gain = logp if loss in losses.WITHOUT_REFERENCE else logp - reference
    score = gain / tokens if normalized else gain
    gap = score[:, 0] - score[:, 1]
    want = {
      "preference": in_float64(loss, score[:, 0], score[:, 1], np.ones(7), 0.4).mean(),
      "nll": -logp[:, 0].sum() / tokens[:, 0].sum(),
      "margin": 0.4 * gap.mean(),
      "accuracy": (gap > 0).mean(),
      "chosen": logp[:, 0].mean(),
      "rejected": logp[:, 1].mean(),
    }
    want["loss"] = want["preference"] + 0.2 * want["nll"]
    if loss not in losses.WITHOUT_REFERENCE:
      want["kl"] = ((logp - reference) ** 2).mean() / 2
    return want

  made = stepper(loss, normalized=normalized, **({"gamma": 0.7} if loss == "simpo" else {}))
  _, metrics = made(params, batch(some, packed=True))
  metrics = dict(metrics)
  assert metrics.pop("grad_norm") > 0
  given = (params, np.array([x.references for x in some]))
  allowed = rounding.bounds(reported, given, length=oracle.TINY.vocab)
  rounding.assert_within(metrics, reported(given), allowed)


@pytest.mark.parametrize("loss", ["orpo", "kto"])  # dpo: tests/learning/test_packing.py
def test_packing_and_padding_rows_change_nothing(params, loss):
  some = material.preferred(7)
  apart = stepper(loss)(params, batch(some, size=7))
  assert_same(stepper(loss)(params, batch(some, size=8)), apart)
  assert_same(stepper(loss)(params, batch(some, packed=True)), apart)


@pytest.mark.parametrize("loss", ["dpo", "simpo"])
def test_micro_batches_change_nothing(params, loss):
  rows = batch(material.preferred(5))
  assert rows.pairs[6::2].sum() == 0, "some parts have no pair"
  assert_same(stepper(loss, 8)(params, rows), stepper(loss)(params, rows))


def test_a_coupled_objective_has_no_micro_batches():
  with pytest.raises(ValueError, match="grad_accum_steps is 2"):
    step.make_train_step(objective("kto"), optax.sgd(1.0), grad_accum_steps=2)


def test_rpo_is_dpo_plus_alpha_times_the_nll_of_the_chosen_sides(params):
  """Losses and gradients, with pads in the batch."""
  rows = batch(material.preferred(5))
  whole, dpo = stepper("dpo")(params, rows), stepper("dpo", nll=0.0)(params, rows)
  alone = material.preference(0.4, coefficients={"nll": 1.0})
  train = step.make_train_step(alone, optax.sgd(1.0), grad_accum_steps=1)
  nll = jax.jit(lambda p, b: train(step.init_state(p, optax.sgd(1.0)), b, ()))(params, rows)
  grad = lambda out: jax.tree.map(lambda new, old: np.asarray(old - new), out[0].params, params)
  assert_same(grad(whole), jax.tree.map(lambda x, y: x + 0.2 * y, grad(dpo), grad(nll)))
  total = dpo[1]["preference"] + 0.2 * nll[1]["nll"]
  np.testing.assert_allclose(whole[1]["loss"], total, rtol=1e-6)
  np.testing.assert_allclose(nll[1]["loss"], nll[1]["nll"], rtol=1e-6)


def test_an_nll_over_pads_is_a_mean_over_them_too_and_changes_nothing_else(params):
  """Reproduces defect 2 of TinyThinker's released code."""
  some = material.preferred(5)
  longest = max(len(x.chosen) for x in some)
  kind = collate.PreferenceCollator(padded=longest, pad=0)
  corpus = material.corpus_of(some, kind, batch=8, buckets=(60,))
  padded = [
    dataclasses.replace(x, chosen=x.chosen + (0,) * (longest - len(x.chosen))) for x in some
  ]
  logp, _, _ = pairs_of(params, padded)
  made = dict(stepper("dpo")(params, objectives.as_batch(corpus.batch(0)))[1])
  fixed = dict(stepper("dpo")(params, batch(some))[1])
  assert any(len(x.chosen) < longest for x in some)
  np.testing.assert_allclose(made["nll"], -logp[:, 0].sum() / (5 * longest), rtol=1e-5)
  for name in set(made) - {"nll", "loss", "grad_norm"}:
    np.testing.assert_allclose(made[name], fixed[name], rtol=1e-5, err_msg=name)


def test_a_term_without_coefficient_is_reported_and_not_optimized(params):
  rows = batch(material.preferred(5))
  bare = stepper("dpo", nll=0.0)(params, rows)[1]
  np.testing.assert_array_equal(bare["loss"], bare["preference"])
  np.testing.assert_allclose(bare["nll"], stepper("dpo")(params, rows)[1]["nll"], rtol=1e-6)


@pytest.mark.parametrize("loss", [x for x in losses.PREFERENCE if x not in ("dpo", "robust")])
def test_label_smoothing_is_rejected_by_losses_that_have_none(loss):
  with pytest.raises(ValueError, match="label_smoothing"):
    objective(loss, label_smoothing=0.1)
