"""The train step: invariances, results computed by hand, and the compiled program."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distill_jax.learning import objectives, optim, step
from distill_jax.students import decoder, sharding
from tests import compilations, meshes, rounding
from tests.learning import material
from tests.students import oracle

CONFIG = oracle.TINY
PLAIN = optax.sgd(1.0, momentum=0.9)  # new parameters minus old ones are the gradient itself

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)


@functools.cache
def stepper(grad_accum_steps: int = 1, sft: float = 1.0, triplet: float = 0.5):
  train = step.make_train_step(
    material.objective(sft, triplet), PLAIN, grad_accum_steps=grad_accum_steps
  )
  return jax.jit(lambda state, batch: train(state, batch, ()))


@pytest.fixture(scope="module")
def params():
  return oracle.params(CONFIG, scale=0.25)


@pytest.fixture(scope="module")
def state(params):
  return jax.jit(lambda p: step.init_state(p, PLAIN))(params)


@pytest.fixture(scope="module")
def batch():
  return material.batch(8, 8)


def assert_same_step(got, params, batch):
  """`got`, (state, metrics), is one plain step from `params`, as close as rounding allows."""

  def stepped(weights):
    return stepper()(step.init_state(weights, PLAIN), batch)

  with meshes.one_device():
    # The longest sum of products is that of a gradient: over all tokens of the batch.
    allowed = rounding.bounds(stepped, params, length=batch.rows.tokens.size)
    want = stepped(params)
  rounding.assert_within(got, want, allowed)


def test_the_batch_of_these_tests_is_ragged_and_some_rows_have_no_contrast(batch):
  assert len(set(batch.tokens.tolist())) > 4
  assert set(batch.valid.ravel().tolist()) == {0.0, 1.0}
  half = lambda n: (batch.tokens[n::2].sum(), batch.valid[n::2].sum())
  assert half(0) != half(1), "otherwise a mean of means would be right"


@pytest.mark.parametrize("grad_accum_steps", [2, 8])
def test_micro_batches_change_nothing(params, state, batch, grad_accum_steps):
  assert_same_step(stepper(grad_accum_steps)(state, batch), params, batch)


def test_micro_batches_without_any_contrast_or_any_row_change_nothing(params, state):
  batch = material.batch(5, 8)
  assert batch.valid[6::2].sum() == 0 and batch.tokens[5:].sum() == 0
  assert_same_step(stepper(8)(state, batch), params, batch)


def test_rows_that_fill_up_a_batch_change_nothing(params, state):
  full, filled = material.batch(5, 5), material.batch(5, 8)
  assert filled.tokens.shape == (8,)
  assert_same_step(stepper()(state, filled), params, full)


def test_a_batch_of_padding_rows_gives_zeros(state, batch):
  nothing = jax.tree.map(np.zeros_like, batch)
  after, metrics = stepper()(state, nothing)
  assert all(float(x) == 0 for x in metrics.values())
  jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


def test_the_loss_equals_the_oracle(params, state, batch):
  """Each term has its own denominator; computed from separate plain rows in float64."""
  _, metrics = stepper()(state, batch)
  nll, hinge = 0.0, 0.0
  for n in range(8):
    tokens, segments = batch.rows.tokens[n], batch.rows.segments[n]
    prompt = tokens[segments == 1].tolist()
    behind = lambda s, t=tokens, g=segments, p=prompt: p + t[g == s].tolist()
    logp = oracle.logprobs(CONFIG, params, behind(2))
    at, labels, weights = batch.where[n], batch.labels[n], batch.weights[n]
    nll -= sum(w * logp[i, y] for i, y, w in zip(at, labels, weights, strict=True) if w)
    if batch.valid[n]:
      a, p, q = (oracle.hidden(CONFIG, params, behind(s))[-1] for s in (2, 3, 4))
      cos = lambda x, y: x @ y / np.sqrt((x @ x) * (y @ y))
      hinge += max(0.0, material.TRIPLET.margin - cos(a, p) + cos(a, q))
  sft, triplet = nll / batch.weights.astype(np.float64).sum(), hinge / batch.valid.sum()
  got = [metrics[name] for name in ("sft", "triplet", "loss")]
  np.testing.assert_allclose(got, [sft, triplet, sft + 0.5 * triplet], rtol=1e-4)


def test_the_gradient_norm_is_that_of_the_update(state, batch):
  after, metrics = stepper()(state, batch)
  moved = jax.tree.map(lambda a, b: np.float64(a) - np.float64(b), after.params, state.params)
  norm = np.sqrt(sum((x * x).sum() for x in jax.tree.leaves(moved)))
  np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)
  assert int(after.step) == int(state.step) + 1


def quadratic():
  """0.5 * sum of tokens_b * |w - x_b|^2: its mean's gradient is the weighted mean of w - x_b."""

  def sums(params, batch):
    away = params["w"][None] - batch["x"]
    return {"sft": 0.5 * jnp.sum(batch["tokens"][:, None, None] * away**2)}

  return objectives.Objective({"sft": 2.0}, lambda b: {"sft": jnp.sum(b["tokens"])}, sums)


@pytest.mark.parametrize("grad_accum_steps", [1, 4])
def test_updates_by_hand(grad_accum_steps):
  """Three steps of clipped AdamW with weight decay and a decaying rate, in float64."""
  draw = oracle.rng()
  x, tokens, w = draw.normal(size=(8, 3, 2)), draw.integers(1, 9, 8), draw.normal(size=(3, 2))
  rate = optim.schedule("linear", peak=0.1, warmup=1, steps=4)
  fixed = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-6, "weight_decay": 0.2, "grad_clip_norm": 1.5}
  tx = optim.adamw(rate, **fixed)
  train = jax.jit(step.make_train_step(quadratic(), tx, grad_accum_steps=grad_accum_steps))
  state = step.init_state({"w": jnp.float32(w)}, tx)
  m, v = np.zeros_like(w), np.zeros_like(w)
  for n, lr in enumerate([0.1, 0.1, 0.1 * 2 / 3], start=1):
    away = w - x
    mean = 0.5 * np.sum(tokens[:, None, None] * away**2) / tokens.sum()
    grad = 2 * np.einsum("b,bij->ij", tokens, away) / tokens.sum()
    norm = np.sqrt((grad**2).sum())
    clipped = grad * min(1, 1.5 / norm)
    m, v = 0.9 * m + 0.1 * clipped, 0.95 * v + 0.05 * clipped**2
    ahead = (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.95**n)) + 1e-6)
    w = w - lr * (ahead + 0.2 * w)
    state, metrics = train(state, {"x": np.float32(x), "tokens": np.float32(tokens)}, ())
    np.testing.assert_allclose(
      [metrics[k] for k in ("sft", "loss", "grad_norm")], [mean, 2 * mean, norm], rtol=1e-5
    )
    np.testing.assert_allclose(state.params["w"], w, rtol=1e-5, atol=1e-6)


def test_a_term_of_weight_zero_is_not_computed(state, batch):
  spoiled = batch._replace(shares=batch.shares * np.nan, valid=batch.valid * np.nan)
  after, metrics = stepper(triplet=0.0)(state, spoiled)
  assert set(metrics) == {"sft", "loss", "grad_norm"}
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((after, metrics)))
  spoiled = batch._replace(weights=batch.weights * np.nan, tokens=batch.tokens * np.nan)
  after, metrics = stepper(sft=0.0)(state, spoiled)
  assert set(metrics) == {"triplet", "loss", "grad_norm"}
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((after, metrics)))


def program(grad_accum_steps: int, batch):
  """Returns the compiled step on a batch split over 8 devices."""
  mesh = sharding.make_mesh(8, 1, 1)
  shardings = step.state_shardings(mesh, decoder.axes(CONFIG), decoder.shapes(CONFIG), PLAIN)
  train = step.jit_train_step(
    step.make_train_step(material.objective(), PLAIN, grad_accum_steps=grad_accum_steps),
    mesh,
    shardings,
  )
  state = jax.eval_shape(lambda p: step.init_state(p, PLAIN), decoder.shapes(CONFIG))
  with jax.set_mesh(mesh):
    return train.lower(state, batch, ()).compile()


def test_micro_batches_move_no_rows_between_devices():
  """No device sends its rows to another, and all have the same work."""
  batch = material.batch(16, 16)
  one, two = program(1, batch), program(2, batch)
  moves = lambda p: re.findall(r" (all-gather|all-to-all|collective-permute)\w*\(", p.as_text())
  assert "all-reduce" in one.as_text(), "otherwise this test reads the wrong program"
  assert moves(one) == moves(two) == []
  arguments = lambda p: p.memory_analysis().argument_size_in_bytes
  assert arguments(one) == arguments(two)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (1, 8, 1)])
def test_the_mesh_changes_nothing(params, batch, sizes):
  mesh = sharding.make_mesh(*sizes)
  shardings = step.state_shardings(mesh, decoder.axes(CONFIG), decoder.shapes(CONFIG), PLAIN)
  train = step.jit_train_step(
    step.make_train_step(material.objective(), PLAIN, grad_accum_steps=1), mesh, shardings
  )
  fresh = jax.device_put(step.init_state(params, PLAIN), shardings)
  with jax.set_mesh(mesh):
    after, metrics = train(fresh, jax.device_put(batch, sharding.batch(mesh)), ())
  assert_same_step((after, metrics), params, batch)
  after_shardings = jax.tree.map(lambda x: x.sharding, after)
  same = lambda x, a, b: a.is_equivalent_to(b, x.ndim)
  assert all(jax.tree.leaves(jax.tree.map(same, after, after_shardings, shardings))), (
    "the state moved"
  )


def test_the_state_is_donated_and_200_steps_of_three_buckets_compile_three_programs(params):
  corpus = material.corpus(40, batch=4, buckets=(12, 20, 40))
  mesh = sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])
  tx = optim.adamw(
    optim.schedule("cosine", peak=1e-3, warmup=5, steps=200),
    beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, grad_clip_norm=1.0,
  )  # fmt: skip
  shardings = step.state_shardings(mesh, decoder.axes(CONFIG), decoder.shapes(CONFIG), tx)
  train = step.jit_train_step(
    step.make_train_step(material.objective(), tx, grad_accum_steps=1), mesh, shardings
  )
  state = jax.device_put(step.init_state(params, tx), shardings)
  put = lambda n: jax.device_put(objectives.as_batch(corpus.batch(n)), sharding.batch(mesh))
  lengths = set()
  with jax.set_mesh(mesh), compilations.counted() as programs:
    for n in range(200):
      rows, old = put(n), state
      lengths.add(rows.rows.tokens.shape[1])
      state, metrics = train(state, rows, ())
      assert all(x.is_deleted() for x in jax.tree.leaves(old)), "two states in memory"
  assert len(lengths) == 3 and len(programs) == 3
  assert int(state.step) == 200 and np.isfinite(metrics["loss"])
