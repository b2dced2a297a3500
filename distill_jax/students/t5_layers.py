"""The parts of T5 (Raffel et al. 2020; v1.1 and Flan-T5: the gated MLP of Shazeer 2020).

Dimension key: see layers.py; also E source length, N buckets of the relative bias, O offsets.
Attention is not scaled; the initial queries are small instead. The relative bias is the only bias.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from distill_jax.students import layers, sharding
from distill_jax.students.t5_config import Config


class Attention(nnx.Module):
  """Pre-norm attention over the states of its own stack or of the encoder."""

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    c = config
    shape, axes, std_in = (c.width, c.heads, c.head_width), ("embed", "heads", None), c.width**-0.5
    std_out = (c.heads * c.head_width) ** -0.5
    self.eps = c.norm_eps
    self.norm = layers.constant((c.width,), ("norm",), 1.0)
    self.q = layers.weight(rngs, shape, axes, std_in * c.head_width**-0.5)
    self.k = layers.weight(rngs, shape, axes, std_in)
    self.v = layers.weight(rngs, shape, axes, std_in)
    self.o = layers.weight(rngs, (*shape[1:], c.width), (*axes[1:], "embed"), std_out)

  def pre_norm(self, x_BLD: jax.Array) -> jax.Array:
    """Normalizes the input."""
    return layers.rms_norm(x_BLD, self.norm[...], self.eps)

  def queries(self, h_BLD: jax.Array) -> jax.Array:
    """Returns q [B, L, H, K]."""
    return layers.project(h_BLD, self.q)

  def keys_values(self, h_BLD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns k, v [B, H, L, K], the layout of the cache."""
    k, v = layers.project(h_BLD, self.k), layers.project(h_BLD, self.v)
    return k.swapaxes(1, 2), v.swapaxes(1, 2)

  def add_output(self, x_BLD: jax.Array, attended_BLHK: jax.Array) -> jax.Array:
    """Adds the output projection to the residual stream."""
    return x_BLD + layers.project(attended_BLHK, self.o, axes=2)


class Mlp(nnx.Module):
  """Pre-norm act(x up) down, or (act(x gate) * x up) down."""

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    c = config
    std_in, axes = c.width**-0.5, ("embed", "mlp")
    self.config = c
    self.norm = layers.constant((c.width,), ("norm",), 1.0)
    if c.gated:
      self.gate = layers.weight(rngs, (c.width, c.mlp), axes, std_in)
    self.up = layers.weight(rngs, (c.width, c.mlp), axes, std_in)
    self.down = layers.weight(rngs, (c.mlp, c.width), axes[::-1], c.mlp**-0.5)

  def __call__(self, x_BLD: jax.Array) -> jax.Array:
    """Adds the MLP to the residual stream."""
    activation = layers.ACTIVATIONS[self.config.activation]
    h = layers.rms_norm(x_BLD, self.norm[...], self.config.norm_eps)
    up = layers.project(h, self.up)
    gated = self.config.gated
    inner = activation(layers.project(h, self.gate)) * up if gated else activation(up)
    x = x_BLD + layers.project(inner, self.down)
    return sharding.constrain(x, "batch", None, None)


class EncoderBlock(nnx.Module):
  """One layer of the encoder."""

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    self.attention = Attention(config, rngs=rngs)
    self.mlp = Mlp(config, rngs=rngs)


class DecoderBlock(nnx.Module):
  """One layer of the decoder."""

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    self.attention = Attention(config, rngs=rngs)
    self.cross = Attention(config, rngs=rngs)
    self.mlp = Mlp(config, rngs=rngs)


def relative_bias(
  table_NH: jax.Array, offset_BLS: jax.Array, *, distance: int, both_ways: bool
) -> jax.Array:
  """Returns the bias of the attention scores, float32 [B, H, L, S].

  Args:
    table_NH: The bias of each bucket and head.
    offset_BLS: Key position - query position.
    distance: From this distance on, offsets share the last bucket.
    both_ways: Whether keys may lie ahead; if not, an offset above 0 counts as 0.
  """
  of_offset_HO = table_NH.astype(jnp.float32).T[:, _buckets(len(table_NH), distance, both_ways)]
  index_BLS = jnp.clip(offset_BLS, -distance, distance if both_ways else 0) + distance
  return _bias_of_offsets(of_offset_HO.shape[1], of_offset_HO, index_BLS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _bias_of_offsets(offsets: int, of_offset_HO: jax.Array, index_BLS: jax.Array) -> jax.Array:
  """Returns the bias of each query and key.

  Its gradient is summed for each query first: one offset may occur many million times, which is
  more than a running float32 sum can count.
  """
  return jnp.take(of_offset_HO, index_BLS, axis=1).swapaxes(0, 1)


def _bias_forward(
  offsets: int, of_offset_HO: jax.Array, index_BLS: jax.Array
) -> tuple[jax.Array, jax.Array]:
  return _bias_of_offsets(offsets, of_offset_HO, index_BLS), index_BLS


def _bias_backward(
  offsets: int, index_BLS: jax.Array, slope_BHLS: jax.Array
) -> tuple[jax.Array, None]:
  def of_query(index_S: jax.Array, slope_HS: jax.Array) -> jax.Array:
    return jnp.zeros((len(slope_HS), offsets), slope_HS.dtype).at[:, index_S].add(slope_HS)

  of_row = jax.vmap(of_query, (0, 1))
  return jnp.sum(jax.vmap(of_row)(index_BLS, slope_BHLS), axis=(0, 1)), None


_bias_of_offsets.defvjp(_bias_forward, _bias_backward)


def _buckets(buckets: int, distance: int, both_ways: bool) -> np.ndarray:
  """Returns the bucket of every offset from -distance to distance (to 0, if not `both_ways`).

  Half of the buckets of a side hold one distance each; the others grow geometrically up to
  `distance`. Computed in integers, because a logarithm could put an edge on either side.
  """
  side = buckets // 2 if both_ways else buckets
  exact, geometric = side // 2, side - side // 2

  def is_beyond(d: int, edge: int) -> bool:
    """Whether d >= exact * (distance / exact)^(edge / geometric)."""
    return d**geometric * exact**edge >= distance**edge * exact**geometric

  def bucket(d: int) -> int:
    return d if d < exact else exact + sum(is_beyond(d, edge) for edge in range(1, geometric))

  behind = [bucket(d) for d in range(distance + 1)]
  ahead = [side + b for b in behind[1:]] if both_ways else []
  return np.array(behind[::-1] + ahead)
