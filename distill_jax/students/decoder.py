"""A decoder-only student, as pure functions on a tree of parameters.

Dimension key: see layers.py; S columns of the cache. The NNX modules describe the parameters; they
are split once, and everything after that works on (config, params). Layers are stacked: training
scans over them, decoding slices them before its loop. For rows and cache see token_rows.py.

A Config with default options is a Llama. Every other family departs from it in a few fields; see
families/.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from distill_jax.students import attention, few_rows, gather, layers, logprobs, sharding, token_rows
from distill_jax.students.decoder_config import Config as Config
from distill_jax.students.decoder_config import Rotary as Rotary
from distill_jax.students.token_rows import Cache, Rows
from distill_jax.students.types import Head, Params, Unstacked

UNROLLED_LAYERS = 4  # scans over up to so many layers are unrolled: a short loop does not pay

REMAT = {
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "full": jax.checkpoint_policies.nothing_saveable,
}


class Decoder(nnx.Module):
  """The parameters of a decoder."""

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    @nnx.split_rngs(splits=config.layers)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def stack(rngs: nnx.Rngs) -> layers.Block:
      return layers.Block(config, rngs=rngs)

    c, std = config, config.width**-0.5
    embed_width = c.embed_width or c.width
    self.embed = layers.weight(rngs, (c.vocab, embed_width), ("vocab", "embed"), std)
    self.blocks = stack(rngs)
    if c.final_norm:
      for name, param in layers.norm_params(c, "norm").items():
        setattr(self, name, param)
    if not c.tied:
      self.head = layers.weight(rngs, (embed_width, c.vocab), ("embed", "vocab"), std)
    if c.head_bias:
      self.head_bias = layers.constant((c.vocab,), ("vocab",), 0.0)
    if c.learned:
      self.positions = layers.weight(rngs, (c.learned, c.width), (None, "embed"), std)
    if c.embed_width:
      std_widen = embed_width**-0.5
      self.widen = layers.weight(rngs, (embed_width, c.width), (None, "embed"), std_widen)
      self.narrow = layers.weight(rngs, (c.width, embed_width), ("embed", None), std)


@functools.cache
def _describe(config: Config) -> tuple[Any, Params, Params]:
  """Returns (graph definition of one block, logical axes, shapes) of the parameters."""
  model = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
  block, _ = nnx.split(model.blocks, nnx.Param)
  return block, *layers.axes_and_shapes(model)


def init(config: Config, key: jax.Array) -> Params:
  """Returns new parameters: a nested dict of float32 arrays, those of layers stacked on axis 0."""
  return nnx.to_pure_dict(nnx.state(Decoder(config, rngs=nnx.Rngs(key)), nnx.Param))


def axes(config: Config) -> Params:
  """Returns the logical axis names of every parameter, in the structure of `init`."""
  return _describe(config)[1]


def shapes(config: Config) -> Params:
  """Returns ShapeDtypeStructs in the structure of `init`."""
  return _describe(config)[2]


def head(config: Config, params: Params) -> jax.Array:
  """Returns the output matrix [D, V]."""
  return params["embed"].T if config.tied else params["head"]


def _embed(
  config: Config,
  params: Params,
  tokens_BL: jax.Array,
  positions_BL: jax.Array,
  *,
  whole: bool = False,
) -> jax.Array:
  """Returns what the first layer reads; for `whole` see gather.entries."""
  x_BLD = gather.entries(params["embed"], tokens_BL, config.dtype, whole=whole)
  if config.embed_scale != 1.0:
    x_BLD *= jnp.asarray(config.embed_scale, x_BLD.dtype)
  if config.embed_width:
    x_BLD = layers.project(x_BLD, params["widen"])
  if config.learned:
    at_BL = positions_BL + config.learned_offset
    table_PD = params["positions"]
    x_BLD += gather.entries(table_PD, at_BL, config.dtype, vocab=None, whole=whole)
  return sharding.constrain(x_BLD, "batch", None, None)


def _final_norm(config: Config, params: Params, x_BLD: jax.Array) -> jax.Array:
  """Returns what the head reads, from the output of the last layer."""
  x = layers.norm(config, params, "norm", x_BLD) if config.final_norm else x_BLD
  return layers.project(x, params["narrow"]) if config.embed_width else x


def _rope_tables(config: Config, positions_BL: jax.Array) -> dict[Rotary | None, layers.CosSin]:
  """Returns (cos, sin) of every kind of rotary positions that a layer uses."""
  kinds = dict.fromkeys(config.layer_kinds)
  return {r: layers.rope_cos_sin(r, positions_BL) for _, r in kinds if r is not None}


def hidden(
  config: Config,
  params: Params,
  rows: Rows,
  *,
  detach: bool = False,
  remat: str = "none",
  path: str = "plain",
  packed: bool = True,
) -> jax.Array:
  """Returns the last layer's states after the final norm, [B, L, D].

  Args:
    config: The config.
    params: The parameters.
    rows: The rows.
    detach: Whether to honor rows.detached.
    remat: What the backward pass recomputes: none | dots | full.
    path: The attention path; see attention.py.
    packed: Whether a row may hold several examples.
  """
  block, _, _ = _describe(config)
  kinds = tuple(dict.fromkeys(config.layer_kinds))
  tables = _rope_tables(config, rows.positions)

  def layer_of_kind(window: int, rotary: Rotary | None) -> Callable[[jax.Array, Any], jax.Array]:
    attend = functools.partial(
      attention.over_rows,
      rows=rows,
      mask_BLL=token_rows.visible(rows, window),
      window=window,
      scale=config.scale,
      softcap=config.attention_softcap,
      path=path,
      detach=detach,
      packed=packed,
    )

    def layer(x_BLD: jax.Array, weights: Any) -> jax.Array:
      module = nnx.merge(block, weights)
      q, k, v = module.queries_keys_values(x_BLD, rotary, tables.get(rotary))
      return module.block_output(x_BLD, attend(q, k, v))

    return layer

  unroll = config.layers <= UNROLLED_LAYERS
  branches = [layer_of_kind(*kind) for kind in kinds]

  def layer(x_BLD: jax.Array, xs: tuple[jax.Array, Any]) -> tuple[jax.Array, None]:
    kind, weights = xs
    return jax.lax.switch(kind, branches, x_BLD, weights), None

  if remat != "none":
    layer = jax.checkpoint(layer, policy=REMAT[remat], prevent_cse=unroll)
  kind_of_layer = jnp.asarray([kinds.index(kind) for kind in config.layer_kinds])
  x_BLD = _embed(config, params, rows.tokens, rows.positions)
  x_BLD, _ = jax.lax.scan(layer, x_BLD, (kind_of_layer, params["blocks"]), unroll=unroll)
  return _final_norm(config, params, x_BLD)


def unstack_layers(config: Config, params: Params, weights: str = "") -> Unstacked:
  """Returns (one module for each layer, the head [D, V]): what decoding reads.

  Called once, before the decoding loop. `weights` is int8, or empty for the compute dtype.
  """
  block, _, _ = _describe(config)
  blocks = layers.cast_for_decode(params["blocks"], config.dtype)
  modules = [
    nnx.merge(block, jax.tree.map(lambda x, n=n: x[n], blocks)) for n in range(config.layers)
  ]
  for module in modules:
    layers.fuse_qkv(module)
    layers.arrange_for_decode(module, weights)
  return modules, few_rows.arrange(head(config, params).astype(config.dtype), weights=weights)


def prefill(
  config: Config,
  params: Params,
  tokens_BL: jax.Array,
  lengths_B: jax.Array,
  unstacked: Unstacked | None = None,
) -> tuple[jax.Array, Cache, jax.Array]:
  """Reads prompts that are padded on the right.

  Args:
    config: The config.
    params: The parameters.
    tokens_BL: The prompts.
    lengths_B: How long they are.
    unstacked: The result of `unstack_layers`; None: it is computed here.

  Returns:
    The logits after each prompt's last token [B, V]; a cache of L columns that hold the prompt from
    column 0 on; how many columns each row fills [B].
  """
  line_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
  rows = Rows(tokens_BL, line_BL, (line_BL < lengths_B[:, None]).astype(jnp.int32))
  x_BLD, keys, values = _embed(config, params, tokens_BL, line_BL), [], []
  tables = _rope_tables(config, line_BL)
  masks = {
    window: token_rows.visible(rows, window) for window, _ in dict.fromkeys(config.layer_kinds)
  }
  modules, matrix_DV = unstacked or unstack_layers(config, params)
  for module, (window, rotary) in zip(modules, config.layer_kinds, strict=True):
    q, k, v = module.queries_keys_values(x_BLD, rotary, tables.get(rotary))
    out = attention.over_rows(
      q,
      k,
      v,
      rows=rows,
      mask_BLL=masks[window],
      window=window,
      scale=config.scale,
      softcap=config.attention_softcap,
      path="auto",
      packed=False,
    )
    x_BLD = module.block_output(x_BLD, out)
    keys.append(k)
    values.append(v)
  last_B1D = jnp.take_along_axis(x_BLD, (lengths_B - 1)[:, None, None], axis=1)
  logits_B1V = _next_logits(config, params, matrix_DV, last_B1D)
  return logits_B1V[:, 0], Cache(tuple(keys), tuple(values)), lengths_B


def decode_step(
  config: Config,
  params: Params,
  unstacked: Unstacked,
  token_B: jax.Array,
  position_B: jax.Array,
  cache: Cache,
) -> tuple[jax.Array, Cache]:
  """Decodes one token of each row.

  Args:
    config: The config.
    params: The parameters.
    unstacked: The result of `unstack_layers`.
    token_B: The tokens.
    position_B: How many tokens precede each of them.
    cache: The cache.

  Returns:
    The logits after the token [B, V], and the cache with its column written.
  """
  modules, matrix_DV = unstacked
  whole = sharding.decodes_whole(shapes, config)
  x_B1D = _embed(config, params, token_B[:, None], position_B[:, None], whole=whole)
  tables = _rope_tables(config, position_B[:, None])
  ages_BS = token_rows.column_ages(position_B, cache.keys[0].shape[2])
  keys, values = [], []
  for n, (module, (window, rotary)) in enumerate(zip(modules, config.layer_kinds, strict=True)):
    q, k, v = module.queries_keys_values(x_B1D, rotary, tables.get(rotary))
    caches = cache.keys[n], cache.values[n]
    written = token_rows.write_columns(caches, (k, v), position_B)
    keys.append(written[0])
    values.append(written[1])
    mask_BS = ages_BS >= 0
    if window:
      mask_BS &= ages_BS < window
    out = attention.attend(
      q, keys[n], values[n], mask_BS[:, None], scale=config.scale, softcap=config.attention_softcap
    )
    x_B1D = module.block_output(x_B1D, out)
  logits_B1V = _next_logits(config, params, matrix_DV, x_B1D)
  return logits_B1V[:, 0], Cache(tuple(keys), tuple(values))


def _next_logits(config: Config, params: Params, matrix_DV: Head, x_BLD: jax.Array) -> jax.Array:
  """Returns final norm and head, float32 [B, L, V]; for the few positions that decoding needs."""
  bias_V = params["head_bias"] if config.head_bias else None
  states_BLD = _final_norm(config, params, x_BLD)
  return logprobs.logits(states_BLD, matrix_DV, bias_V, config.logit_softcap)
