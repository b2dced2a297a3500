"""Learning rates by step, and AdamW computed by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.learning import optim
from tests import rounding
from tests.students import oracle

FIXED = {"beta1": 0.9, "beta2": 0.99, "eps": 1e-8}
STEPS, WARMUP, PEAK = 20, 4, 0.3
SHAPES = {
  "constant": lambda t: 1.0,
  "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * t)),
  "linear": lambda t: 1 - t,
}


def rates(kind: str, warmup: int, steps: int = STEPS) -> list[float]:
  schedule = jax.jit(optim.schedule(kind, peak=PEAK, warmup=warmup, steps=steps))
  return [float(schedule(n)) for n in range(steps + 3)]


def test_every_schedule_is_tested():
  assert set(SHAPES) == set(optim.SCHEDULES)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("warmup", [0, 1, WARMUP])
def test_a_schedule_rises_to_its_peak_and_then_has_its_shape(kind, warmup):
  """Step n of the warm-up runs at (n + 1) / warmup of the peak; no step is lost to a rate of 0."""
  rise = [PEAK * (n + 1) / warmup for n in range(warmup)]
  rest = STEPS - warmup
  fall = [PEAK * SHAPES[kind](min(n / rest, 1)) for n in range(rest + 3)]
  # At most 8 roundings of numbers up to the peak: +1, -warmup, /, pi *, cos, 1 +, 0.5 *, peak *.
  allowed = rounding.gamma(8) * PEAK
  np.testing.assert_allclose(rates(kind, warmup), rise + fall, rtol=0, atol=allowed)


def test_a_warm_up_as_long_as_the_run_ends_at_the_peak():
  np.testing.assert_allclose(rates("cosine", 3, 3)[:3], [PEAK / 3, 2 * PEAK / 3, PEAK], rtol=1e-6)


def params():
  draw = oracle.rng()
  return {
    "embed": np.float32(draw.normal(size=(3, 2))),
    "blocks": {
      "q": np.float32(draw.normal(size=(2, 3, 2))),
      "mlp_norm": np.float32(draw.normal(size=(2, 3))),
    },
    "norm": np.float32(draw.normal(size=3)),
  }


def test_decay_applies_to_matrices_only_and_never_to_norms():
  """With a gradient of 0 the update is the decay only."""
  zeros = jax.tree.map(jnp.zeros_like, params())
  tx = optim.adamw(lambda _: 0.5, **FIXED, weight_decay=0.1, grad_clip_norm=0.0)
  out, _ = jax.jit(tx.update)(zeros, jax.jit(tx.init)(params()), params())
  np.testing.assert_allclose(out["embed"], -0.05 * params()["embed"], rtol=1e-6)
  np.testing.assert_allclose(out["blocks"]["q"], -0.05 * params()["blocks"]["q"], rtol=1e-6)
  assert (np.asarray(out["blocks"]["mlp_norm"]) == 0).all()
  assert (np.asarray(out["norm"]) == 0).all()


def by_hand(first, second):
  """Returns the second update of AdamW (rate 1, no decay) in float64."""
  m = 0.1 * (0.9 * first + second) / (1 - 0.9**2)
  v = 0.01 * (0.99 * first**2 + second**2) / (1 - 0.99**2)
  return -m / (np.sqrt(v) + FIXED["eps"])


@pytest.mark.parametrize("clip", [0.0, 1.0, 1e6])
def test_clipping_shortens_the_whole_gradient_to_its_norm_and_leaves_short_ones_alone(clip):
  draw = oracle.rng(5)
  first = jax.tree.map(lambda x: draw.normal(size=x.shape), params())
  second = jax.tree.map(lambda x: 100 * draw.normal(size=x.shape), params())
  tx = optim.adamw(lambda _: 1.0, **FIXED, weight_decay=0.0, grad_clip_norm=clip)
  state, update = jax.jit(tx.init)(params()), jax.jit(tx.update)
  single = lambda tree: jax.tree.map(np.float32, tree)
  _, state = update(single(first), state, params())
  out, _ = update(single(second), state, params())

  def shortened(tree):
    norm = math.sqrt(sum(float((x * x).sum()) for x in jax.tree.leaves(tree)))
    return jax.tree.map(lambda x: x * (min(1.0, clip / norm) if clip else 1.0), tree)

  want = jax.tree.map(by_hand, shortened(first), shortened(second))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), out, want)
