"""A decoder-only student, as pure functions on a tree of parameters.

Dimension key: see layers.py; S slots of the cache. The NNX modules describe the parameters; they
are split once, and the hot path sees (config, params) only. Layers are stacked: training scans over
them, decoding slices them out before its loop. Rows and cache: see rows.py.

A Config without extras is a Llama. Every other family is a few departures from it
(families/*.py says which).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from distill_jax.students import attention, layers, logprobs, sharding
from distill_jax.students import token_rows as students_rows
from distill_jax.students.token_rows import Cache, Rows

FEW = 4  # layers up to which the scan over them is unrolled: a short loop costs more than it saves

REMAT = {
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class Rotary:
  """Rotary positions: angles position * theta^(-2i/width), for the first `width` of a head."""

  theta: float
  width: int
  adjacent: bool = False  # pairs (2i, 2i+1), as in GPT-J, instead of (i, i + width/2)
  scaling: str = ""  # "" | linear (all angles / factor) | llama3 (only the slow ones)
  factor: float = 1.0
  low: float = 1.0  # llama3: turns within the original context below which an angle is slow,
  high: float = 4.0  # and above which it is fast
  original: int = 8192  # llama3: the original context, tokens


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes and parts. `dtype` is the compute dtype; parameters stay float32."""

  vocab: int
  width: int
  layers: int
  heads: int
  kv_heads: int
  head_width: int
  mlp: int
  norm_eps: float
  tied: bool  # the head is the transposed embedding
  dtype: str
  rotary: Rotary | None = None
  learned: int = 0  # entries of a learned table of positions
  learned_offset: int = 0  # the entry of position 0 (OPT: 2)
  norm: str = "rms"  # rms | rms_plus_one (its scale is 1 + weight) | layer
  # pre | sandwich (norms after, too) | parallel (attention beside MLP) | post (OPT 350M)
  order: str = "pre"
  final_norm: bool = True
  activation: str = "silu"  # silu | relu | gelu | gelu_tanh
  gated: bool = True
  qkv_bias: bool = False
  out_bias: bool = False
  mlp_bias: bool = False
  head_bias: bool = False
  qk_norm: bool = False  # queries and keys are normed, each head by itself
  attention_scale: float = 0.0  # what scores are multiplied by; 0 = head_width^-0.5
  attention_softcap: float = 0.0
  logit_softcap: float = 0.0
  embed_scale: float = 1.0
  embed_width: int = 0  # of embedding and head where it is not `width` (OPT 350M)
  window: int = 0  # how far back local layers see, tokens
  local: tuple[bool, ...] = ()  # which layers are local; () = none
  local_rotary: Rotary | None = None  # of local layers, where theirs differ (Gemma 3)

  @property
  def scale(self) -> float:
    return self.attention_scale or self.head_width**-0.5

  @property
  def kinds(self) -> tuple[tuple[int, Rotary | None], ...]:
    """(window, rotary) of every layer."""
    local = (self.window, self.local_rotary or self.rotary)
    return tuple(
      local if here else (0, self.rotary) for here in self.local or (False,) * self.layers
    )


class Decoder(nnx.Module):
  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    @nnx.split_rngs(splits=config.layers)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def stack(rngs):
      return layers.Block(config, rngs=rngs)

    c, std = config, config.width**-0.5
    narrow = c.embed_width or c.width
    self.embed = layers.weight(rngs, (c.vocab, narrow), ("vocab", "embed"), std)
    self.blocks = stack(rngs)
    if c.final_norm:
      for name, param in layers.norm_params(c, "norm").items():
        setattr(self, name, param)
    if not c.tied:
      self.head = layers.weight(rngs, (narrow, c.vocab), ("embed", "vocab"), std)
    if c.head_bias:
      self.head_bias = layers.constant((c.vocab,), ("vocab",), 0.0)
    if c.learned:
      self.positions = layers.weight(rngs, (c.learned, c.width), (None, "embed"), std)
    if c.embed_width:
      self.widen = layers.weight(rngs, (narrow, c.width), (None, "embed"), narrow**-0.5)
      self.narrow = layers.weight(rngs, (c.width, narrow), ("embed", None), std)


@functools.cache
def _parts(config: Config):
  """(graph definition of one block, logical axes of all parameters, their shapes)."""
  model = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
  block, _ = nnx.split(model.blocks, nnx.Param)
  return block, *layers.described(model)


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


def _embed(config: Config, params, tokens_BL, positions_BL):
  table_VD = sharding.constrain(params["embed"].astype(config.dtype), "vocab", None)
  x_BLD = jnp.take(table_VD, tokens_BL, axis=0)
  if config.embed_scale != 1.0:
    x_BLD *= jnp.asarray(config.embed_scale, x_BLD.dtype)
  if config.embed_width:
    x_BLD = layers.project(x_BLD, params["widen"])
  if config.learned:
    table_PD = params["positions"].astype(config.dtype)
    x_BLD += jnp.take(table_PD, positions_BL + config.learned_offset, axis=0)
  return sharding.constrain(x_BLD, "batch", None, None)


def _leave(config: Config, params, x_BLD):
  """From the last layer to what the head reads."""
  x = layers.norm(config, params, "norm", x_BLD) if config.final_norm else x_BLD
  return layers.project(x, params["narrow"]) if config.embed_width else x


def _turns(config: Config, positions_BL):
  """Rotary angles by kind of layer."""
  return {r: layers.turns(r, positions_BL) for _, r in dict.fromkeys(config.kinds) if r is not None}


def hidden(
  config: Config,
  params,
  rows: Rows,
  *,
  detach: bool = False,
  remat: str = "none",
  path: str = "plain",
):
  """Last-layer states after the final norm, [B, L, D]. `detach` honours rows.detached (twice the
  attention); `remat`: what the backward pass computes again, none | dots | full; `path`: see
  attention.py."""
  block, _, _ = _parts(config)
  kinds = tuple(dict.fromkeys(config.kinds))
  turns = _turns(config, rows.positions)

  def of_kind(window, rotary):
    mask_BLL = students_rows.visible(rows, window)
    see = functools.partial(
      attention.over_rows, rows=rows, mask_BLL=mask_BLL, window=window, scale=config.scale,
      softcap=config.attention_softcap, path=path,
    )  # fmt: skip

    def layer(x_BLD, weights):
      module = nnx.merge(block, weights)
      q, k, v = module.queries_keys_values(x_BLD, rotary, turns.get(rotary))
      out = see(q, k, v)
      if detach:
        is_root_BGLK = (rows.segments == rows.root)[:, None, :, None]
        fixed = lambda y: jnp.where(is_root_BGLK, jax.lax.stop_gradient(y), y)
        out = jnp.where((rows.detached > 0)[:, :, None, None], see(q, fixed(k), fixed(v)), out)
      return module.finish(x_BLD, out)

    return layer

  few = config.layers <= FEW
  which = [of_kind(*kind) for kind in kinds]

  def layer(x_BLD, xs):
    kind, weights = xs
    return jax.lax.switch(kind, which, x_BLD, weights), None

  if remat != "none":
    layer = jax.checkpoint(layer, policy=REMAT[remat], prevent_cse=few)
  numbers = jnp.asarray([kinds.index(kind) for kind in config.kinds])
  x_BLD = _embed(config, params, rows.tokens, rows.positions)
  x_BLD, _ = jax.lax.scan(layer, x_BLD, (numbers, params["blocks"]), unroll=few)
  return _leave(config, params, x_BLD)


def unstacked(config: Config, params):
  """What decoding reads, made once before any loop: (a module for each layer, the head [D, V])."""
  block, _, _ = _parts(config)
  blocks = layers.ready(params["blocks"], config.dtype)
  pick = lambda n: jax.tree.map(lambda x: x[n], blocks)
  modules = [nnx.merge(block, pick(n)) for n in range(config.layers)]
  for module in modules:
    layers.join(module)
  return modules, head(config, params).astype(config.dtype)


def prefill(config: Config, params, tokens_BL, lengths_B):
  """Reads prompts padded on the right. Returns the logits after each prompt's last token [B, V], a
  cache of L columns that hold the prompt from 0 on, and how many of them each row fills."""
  line_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
  rows = Rows(tokens_BL, line_BL, (line_BL < lengths_B[:, None]).astype(jnp.int32))
  x_BLD, keys, values = _embed(config, params, tokens_BL, line_BL), [], []
  turns = _turns(config, line_BL)
  masks = {window: students_rows.visible(rows, window) for window, _ in dict.fromkeys(config.kinds)}
  modules, matrix = unstacked(config, params)
  for module, (window, rotary) in zip(modules, config.kinds, strict=True):
    q, k, v = module.queries_keys_values(x_BLD, rotary, turns.get(rotary))
    out = attention.over_rows(
      q, k, v, rows=rows, mask_BLL=masks[window], window=window, scale=config.scale,
      softcap=config.attention_softcap, path="auto",
    )  # fmt: skip
    x_BLD = module.finish(x_BLD, out)
    keys.append(k)
    values.append(v)
  last_B1D = jnp.take_along_axis(x_BLD, (lengths_B - 1)[:, None, None], axis=1)
  return (
    logits(config, params, matrix, last_B1D)[:, 0],
    Cache(tuple(keys), tuple(values)),
    lengths_B,
  )


def advance(config: Config, params, ready, token_B, position_B, cache: Cache):
  """One token further: its logits [B, V] and the cache with its column written. `ready` from
  `unstacked`; position_B is how many tokens precede it."""
  modules, matrix = ready
  x_B1D = _embed(config, params, token_B[:, None], position_B[:, None])
  turns = _turns(config, position_B[:, None])
  distance_BS = students_rows.distances(position_B, cache.keys[0].shape[2])
  keys, values = [], []
  for n, (module, (window, rotary)) in enumerate(zip(modules, config.kinds, strict=True)):
    q, k, v = module.queries_keys_values(x_B1D, rotary, turns.get(rotary))
    keys.append(students_rows.write(cache.keys[n], k, position_B))
    values.append(students_rows.write(cache.values[n], v, position_B))
    mask_BS = distance_BS >= 0
    if window:
      mask_BS &= distance_BS < window
    out = attention.attend(
      q, keys[n], values[n], mask_BS[:, None], scale=config.scale,
      softcap=config.attention_softcap,
    )  # fmt: skip
    x_B1D = module.finish(x_B1D, out)
  cache = Cache(tuple(keys), tuple(values))
  return logits(config, params, matrix, x_B1D)[:, 0], cache


def logits(config: Config, params, matrix_DV, x_BLD):
  """Final norm and head, float32 [B, L, V]: for the few positions decoding needs, never for whole
  rows."""
  bias_V = params["head_bias"] if config.head_bias else None
  return logprobs.logits(_leave(config, params, x_BLD), matrix_DV, bias_V, config.logit_softcap)
