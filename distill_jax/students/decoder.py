"""A decoder-only student in the Llama layout, as pure functions on a tree of parameters.

Dimension key: see layers.py. The NNX modules describe the parameters; they are split once, and the
hot path sees (config, params) only. Layers are stacked: training scans over them, decoding slices
them out before its loop.

Rows may be trees: a token sees the earlier tokens of its own segment and of its root segment, so
that several continuations share one prompt (anchor, positive and negative of a contrast) and still
cannot see each other. A plain row is one segment that is its own root. Segment 0 is padding.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from distill_jax.learning import sharding
from distill_jax.students import layers

FEW = 4  # layers up to which the scan over them is unrolled


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes. `dtype` is the compute dtype; parameters stay float32."""

  vocab: int
  width: int
  layers: int
  heads: int
  kv_heads: int
  head_width: int
  mlp: int
  rope_theta: float
  norm_eps: float
  tied: bool  # the head is the transposed embedding
  dtype: str


class Rows(NamedTuple):
  """Token rows; every array is int32 [B, L]."""

  tokens: jax.Array
  positions: jax.Array
  segments: jax.Array
  roots: jax.Array
  detached: jax.Array  # 1 where the root is seen without gradient


class Cache(NamedTuple):
  """Keys and values, one array a layer, [B, G, S, K] each."""

  keys: tuple
  values: tuple


class Decoder(nnx.Module):
  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    @nnx.split_rngs(splits=config.layers)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def stack(rngs):
      return layers.Block(config, rngs=rngs)

    std = config.width**-0.5
    self.embed = layers.weight(rngs, (config.vocab, config.width), ("vocab", "embed"), std)
    self.blocks = stack(rngs)
    self.norm = nnx.Param(jnp.ones((config.width,)), axes=("norm",))
    if not config.tied:
      self.head = layers.weight(rngs, (config.width, config.vocab), ("embed", "vocab"), std)


@functools.cache
def _parts(config: Config):
  """(graph definition of one block, logical axes of all parameters, their shapes)."""
  model = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
  block, _ = nnx.split(model.blocks, nnx.Param)
  params = nnx.state(model, nnx.Param)
  stacked = lambda v: ("layers",) * (v.get_value().ndim - len(v.axes)) + v.axes
  is_param = lambda v: isinstance(v, nnx.Variable)
  axes = nnx.to_pure_dict(jax.tree.map(stacked, params, is_leaf=is_param))
  return block, axes, nnx.to_pure_dict(params)


def init(config: Config, key):
  """Fresh parameters: a nested dict of float32 arrays, per-layer ones stacked in front."""
  return nnx.to_pure_dict(nnx.state(Decoder(config, rngs=nnx.Rngs(key)), nnx.Param))


def axes(config: Config):
  """Logical axis names of every parameter, in the structure of `init`."""
  return _parts(config)[1]


def shapes(config: Config):
  """ShapeDtypeStructs in the structure of `init`."""
  return _parts(config)[2]


def head(config: Config, params):
  """The output matrix [D, V]."""
  return params["embed"].T if config.tied else params["head"]


def _embed(config: Config, params, tokens_BL):
  table_VD = sharding.constrain(params["embed"].astype(config.dtype), "vocab", None)
  x_BLD = jnp.take(table_VD, tokens_BL, axis=0)
  return sharding.constrain(x_BLD, "batch", None, None)


def _visible(rows: Rows):
  """mask [B, L, L]: who sees whom in a tree of segments."""
  order = jnp.arange(rows.tokens.shape[1])
  seg, root = rows.segments, rows.roots
  own = seg[:, :, None] == seg[:, None, :]
  above = root[:, :, None] == seg[:, None, :]
  return (own | above) & (order[:, None] >= order[None, :])[None] & (seg > 0)[:, None, :]


def hidden(config: Config, params, rows: Rows, *, detach: bool = False):
  """Last-layer states after the final norm, [B, L, D]. `detach` honours rows.detached (twice the
  attention)."""
  block, _, _ = _parts(config)
  mask_BLL = _visible(rows)
  is_root_BGLK = (rows.segments == rows.roots)[:, None, :, None]
  is_detached_BLHK = (rows.detached > 0)[:, :, None, None]

  def layer(x_BLD, weights):
    module = nnx.merge(block, weights)
    q, k, v = module.queries_keys_values(x_BLD, rows.positions)
    out = layers.attend(q, k, v, mask_BLL)
    if detach:
      fixed = lambda y: jnp.where(is_root_BGLK, jax.lax.stop_gradient(y), y)
      out = jnp.where(is_detached_BLHK, layers.attend(q, fixed(k), fixed(v), mask_BLL), out)
    return module.finish(x_BLD, out), None

  unroll = (
    config.layers <= FEW
  )  # a loop that short costs more than it saves, on CPU nearly half the step
  x_BLD, _ = jax.lax.scan(
    layer, _embed(config, params, rows.tokens), params["blocks"], unroll=unroll
  )
  return layers.rms_norm(x_BLD, params["norm"], config.norm_eps)


def unstacked(config: Config, params):
  """The stacked layers as a list of modules: sliced out once, before any loop."""
  block, _, _ = _parts(config)
  pick = lambda n: jax.tree.map(lambda x: x[n], params["blocks"])
  return [nnx.merge(block, pick(n)) for n in range(config.layers)]


def prefill(config: Config, params, tokens_BL, lengths_B, slots: int):
  """Reads prompts padded on the right. Returns the logits after each prompt's last token [B, V],
  and a cache of `slots` slots of which the first L hold the prompt."""
  length = tokens_BL.shape[1]
  positions_BL = jnp.broadcast_to(jnp.arange(length), tokens_BL.shape)
  inside_BL = positions_BL < lengths_B[:, None]
  mask_BLL = (positions_BL[:, :, None] >= positions_BL[:, None, :]) & inside_BL[:, None, :]
  x_BLD, keys, values = _embed(config, params, tokens_BL), [], []
  for module in unstacked(config, params):
    q, k, v = module.queries_keys_values(x_BLD, positions_BL)
    x_BLD = module.finish(x_BLD, layers.attend(q, k, v, mask_BLL))
    room = ((0, 0), (0, 0), (0, slots - length), (0, 0))
    keys.append(jnp.pad(k, room))
    values.append(jnp.pad(v, room))
  last_B1D = jnp.take_along_axis(x_BLD, (lengths_B - 1)[:, None, None], axis=1)
  return logits(config, params, last_B1D)[:, 0], Cache(tuple(keys), tuple(values))


def advance(config: Config, params, modules, token_B, positions_B, cache: Cache, slot, mask_BS):
  """One token further: its logits [B, V] and the cache with `slot` written. `modules` from
  `unstacked`."""
  x_B1D = _embed(config, params, token_B[:, None])
  keys, values = [], []
  for module, key, value in zip(modules, cache.keys, cache.values, strict=True):
    q, k, v = module.queries_keys_values(x_B1D, positions_B[:, None])
    keys.append(jax.lax.dynamic_update_slice_in_dim(key, k, slot, axis=2))
    values.append(jax.lax.dynamic_update_slice_in_dim(value, v, slot, axis=2))
    x_B1D = module.finish(x_B1D, layers.attend(q, keys[-1], values[-1], mask_BS[:, None]))
  return logits(config, params, x_B1D)[:, 0], Cache(tuple(keys), tuple(values))


def logits(config: Config, params, x_BLD):
  """Final norm and head, float32 [B, L, V]: for the few positions decoding needs, never for whole
  rows."""
  h = layers.rms_norm(x_BLD, params["norm"], config.norm_eps)
  matrix = head(config, params).astype(config.dtype)
  return jnp.einsum("bld,dv->blv", h, matrix, preferred_element_type=jnp.float32)
