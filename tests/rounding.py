"""How far apart rounding alone can drive two computations of the same function.

A tolerance picked by hand holds on the CPU it was picked on. These bounds follow from the dtype,
the length of the sums and the conditioning of the function, so they hold on every machine. u is the
unit roundoff, half the distance from 1 to the next number.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

STEP = 2.0**-12  # relative change of the weights: far above float32 rounding, still linear
DRAWS = 3
LAMBDA = 2.0  # a rounding has a standard deviation of u / sqrt(3) at most, so 2 u is 3.5 of them


def unit(dtype: Any = np.float32) -> float:
  """u of `dtype`: the largest relative error of one rounding."""
  return float(jnp.finfo(dtype).eps) / 2


def gamma(count: int, dtype: Any = np.float32) -> float:
  """The largest relative error after `count` roundings (Higham 2002, lemma 3.1)."""
  return count * unit(dtype) / (1 - count * unit(dtype))


def bounds(
  function: Callable[[Any], Any], weights: Any, *, length: int, dtype: Any = np.float32
) -> Any:
  """Bounds the difference of two computations in `dtype`, for each array of `function(weights)`.

  Backward error analysis. A floating-point sum of n products is the exact sum for weights that are
  off by a relative n u in the worst case (Higham 2002, section 3.1), and by LAMBDA sqrt(n) u if
  roundings are independent (Higham & Mary 2019, theorem 2.4). The error of the result is therefore
  what such a change of all weights does to it. That is measured at a larger change, STEP, whose
  effect is still linear but far above float32 noise. With w * s for weights that each grow or
  shrink by STEP at random:

      moved = max over draws and elements of |function(w * s) - function(w)|
      bound = 2 * LAMBDA * sqrt(length) * u * (moved / STEP + max |function(w)|)

  2: both computations have an error. The last term is for roundings on the scale of the result,
  which no weight stands for. Depth and conditioning are part of `moved`. Integers get a bound of 0.

  Args:
    function: Maps a tree of weights to a tree of arrays, in float64 or float32.
    weights: A tree of floating-point arrays.
    length: Terms of the longest sum of products.
    dtype: What the two computations compute in.
  """
  draw = np.random.Generator(np.random.PCG64(0))

  def perturbed(x):
    signs = draw.choice([-1.0, 1.0], np.shape(x))
    return (np.float64(x) * (1 + STEP * signs)).astype(x.dtype)

  def bound(want, *others):
    if not jnp.issubdtype(jnp.result_type(want), jnp.floating):
      return 0.0
    want = np.float64(want)
    moved = max(float(np.max(np.abs(np.float64(x) - want))) for x in others)
    magnitude = float(np.max(np.abs(want)))
    return 2 * LAMBDA * length**0.5 * unit(dtype) * (moved / STEP + magnitude)

  others = [function(jax.tree.map(perturbed, weights)) for _ in range(DRAWS)]
  return jax.tree.map(bound, function(weights), *others)


def assert_within(got: Any, want: Any, allowed: Any) -> None:
  """Asserts that each array of `got` equals that of `want` up to its bound, from `bounds`."""
  jax.tree.map(
    lambda x, y, bound: np.testing.assert_allclose(x, y, rtol=0, atol=bound), got, want, allowed
  )
