"""The parts T5 is made of (Raffel et al. 2020; v1.1 and Flan-T5: the gated MLP of Shazeer 2020).

Dimension key: see layers.py; besides, E source length and N buckets of the relative bias. Attention
is not scaled: the initial queries are small instead. There are no biases but the relative one.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from distill_jax.students import layers, sharding


class Attention(nnx.Module):
  """Pre-norm attention over states of its own stack or of the encoder's."""

  def __init__(self, config, *, rngs: nnx.Rngs):
    c = config
    shape, names, near = (c.width, c.heads, c.head_width), ("embed", "heads", None), c.width**-0.5
    far = (c.heads * c.head_width) ** -0.5
    self.eps = c.norm_eps
    self.norm = layers.constant((c.width,), ("norm",), 1.0)
    self.q = layers.weight(rngs, shape, names, near * c.head_width**-0.5)
    self.k = layers.weight(rngs, shape, names, near)
    self.v = layers.weight(rngs, shape, names, near)
    self.o = layers.weight(rngs, (*shape[1:], c.width), (*names[1:], "embed"), far)

  def normed(self, x_BLD):
    return layers.rms_norm(x_BLD, self.norm[...], self.eps)

  def queries(self, h_BLD):
    return layers.project(h_BLD, self.q)

  def keys_values(self, h_BLD):
    """k, v [B, H, L, K]: the layout of the cache."""
    k, v = layers.project(h_BLD, self.k), layers.project(h_BLD, self.v)
    return k.swapaxes(1, 2), v.swapaxes(1, 2)

  def finish(self, x_BLD, attended_BLHK):
    return x_BLD + layers.project(attended_BLHK, self.o, axes=2)


class Mlp(nnx.Module):
  """Pre-norm act(x up) down, or (act(x gate) * x up) down."""

  def __init__(self, config, *, rngs: nnx.Rngs):
    c = config
    near, names = c.width**-0.5, ("embed", "mlp")
    self.config = c
    self.norm = layers.constant((c.width,), ("norm",), 1.0)
    if c.gated:
      self.gate = layers.weight(rngs, (c.width, c.mlp), names, near)
    self.up = layers.weight(rngs, (c.width, c.mlp), names, near)
    self.down = layers.weight(rngs, (c.mlp, c.width), names[::-1], c.mlp**-0.5)

  def __call__(self, x_BLD):
    act = layers.ACTIVATIONS[self.config.activation]
    h = layers.rms_norm(x_BLD, self.norm[...], self.config.norm_eps)
    up = layers.project(h, self.up)
    inner = act(layers.project(h, self.gate)) * up if self.config.gated else act(up)
    x = x_BLD + layers.project(inner, self.down)
    return sharding.constrain(x, "batch", None, None)


class EncoderBlock(nnx.Module):
  def __init__(self, config, *, rngs: nnx.Rngs):
    self.attention = Attention(config, rngs=rngs)
    self.mlp = Mlp(config, rngs=rngs)


class DecoderBlock(nnx.Module):
  def __init__(self, config, *, rngs: nnx.Rngs):
    self.attention = Attention(config, rngs=rngs)
    self.cross = Attention(config, rngs=rngs)
    self.mlp = Mlp(config, rngs=rngs)


def relative_bias(table_NH, offset_BLS, *, distance: int, both_ways: bool):
  """What is added to the scores, float32 [B, H, L, S]. `offset`: key position - query position;
  without `both_ways` no key lies ahead, and an offset that says so counts as 0."""
  of_offset_HO = table_NH.astype(jnp.float32).T[:, _buckets(len(table_NH), distance, both_ways)]
  index_BLS = jnp.clip(offset_BLS, -distance, distance if both_ways else 0) + distance
  return jnp.take(of_offset_HO, index_BLS, axis=1).swapaxes(0, 1)


def _buckets(buckets: int, distance: int, both_ways: bool) -> np.ndarray:
  """The bucket of every offset -distance..distance (..0 if keys never lie ahead).

  Half of the buckets of a side hold one distance each, the others grow geometrically up to
  `distance`. Whole numbers: a logarithm could put an edge on either side of itself.
  """
  side = buckets // 2 if both_ways else buckets
  near, far = side // 2, side - side // 2

  def of(d: int) -> int:
    reached = lambda n: d**far * near**n >= distance**n * near**far  # d >= the n-th edge
    return d if d < near else near + sum(reached(n) for n in range(1, far))

  behind = [of(d) for d in range(distance + 1)]
  ahead = [side + b for b in behind[1:]] if both_ways else []
  return np.array(behind[::-1] + ahead)
