"""An encoder-decoder student: T5 v1.0, T5 v1.1 and Flan-T5 (Raffel et al. 2020).

Dimension key: see layers.py and t5_layers.py; S columns of the cache. The encoder reads the prompt
(rows.source), the decoder writes the target behind one start token. Both are stacks of layers that
are scanned; the layers of a stack share one table of relative biases.

Rows may be packed and may be trees (token_rows.py): a source token sees its own source segment,
both ways; a decoder token sees its own and its root segment, and reads the source whose segment is
its root. Distances are differences of rows.positions in the decoder, of columns in the encoder.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from distill_jax.students import (
  attention,
  decoder,
  few_rows,
  gather,
  layers,
  logprobs,
  sharding,
  t5_layers,
  token_rows,
)
from distill_jax.students.t5_config import Config as Config
from distill_jax.students.token_rows import Cache, Rows
from distill_jax.students.types import Params, Unstacked


class T5(nnx.Module):
  """The parameters of a T5. Attention is not scaled, so the initial queries are small."""

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    def stack(kind: Callable[..., nnx.Module], layers: int) -> Any:
      @nnx.split_rngs(splits=layers)
      @nnx.vmap(in_axes=(0,), out_axes=0)
      def make(rngs: nnx.Rngs) -> nnx.Module:
        return kind(config, rngs=rngs)

      return make(rngs)

    c = config
    table, std = ((c.buckets, c.heads), (None, "heads")), c.width**-0.5
    self.embed = layers.weight(rngs, (c.vocab, c.width), ("vocab", "embed"), 1.0)
    self.encoder = stack(t5_layers.EncoderBlock, c.layers)
    self.encoder_relative = layers.weight(rngs, *table, std)
    self.encoder_norm = layers.constant((c.width,), ("norm",), 1.0)
    self.decoder = stack(t5_layers.DecoderBlock, c.decoder_layers)
    self.decoder_relative = layers.weight(rngs, *table, std)
    self.norm = layers.constant((c.width,), ("norm",), 1.0)
    if not c.tied:
      self.head = layers.weight(rngs, (c.width, c.vocab), ("embed", "vocab"), 1.0)


@functools.cache
def _describe(config: Config) -> tuple[tuple[Any, Any], Params, Params]:
  """Returns (graph definitions of an encoder and a decoder block, logical axes, shapes)."""
  model = nnx.eval_shape(lambda: T5(config, rngs=nnx.Rngs(0)))
  encoder, decoder = (nnx.split(stack, nnx.Param)[0] for stack in (model.encoder, model.decoder))
  return (encoder, decoder), *layers.axes_and_shapes(model)


def init(config: Config, key: jax.Array) -> Params:
  """Returns new parameters: a nested dict of float32 arrays, those of layers stacked on axis 0."""
  return nnx.to_pure_dict(nnx.state(T5(config, rngs=nnx.Rngs(key)), nnx.Param))


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
  config: Config, params: Params, tokens_BL: jax.Array, *, whole: bool = False
) -> jax.Array:
  """Returns what the first layer of a stack reads; for `whole` see gather.entries."""
  x_BLD = gather.entries(params["embed"], tokens_BL, config.dtype, whole=whole)
  return sharding.constrain(x_BLD, "batch", None, None)


def _relative_bias(config: Config, params: Params, stack: str, offset_BLS: jax.Array) -> jax.Array:
  """Returns the bias of a stack [B, H, L, S]; `offset` is key position - query position."""
  return t5_layers.relative_bias(
    params[f"{stack}_relative"], offset_BLS, distance=config.distance, both_ways=stack == "encoder"
  )


def _final_norm(config: Config, params: Params, x_BLD: jax.Array) -> jax.Array:
  """Returns what the head reads, from the output of the decoder's last layer."""
  x = layers.rms_norm(x_BLD, params["norm"], config.norm_eps)
  return x * jnp.asarray(config.width**-0.5, x.dtype) if config.tied else x


def _scan_layers(
  layer: Callable[[jax.Array, Any], jax.Array],
  x_BLD: jax.Array,
  stacked: Any,
  count: int,
  remat: str,
) -> jax.Array:
  unroll = count <= decoder.UNROLLED_LAYERS
  if remat != "none":
    layer = jax.checkpoint(layer, policy=decoder.REMAT[remat], prevent_cse=unroll)
  return jax.lax.scan(lambda x, w: (layer(x, w), None), x_BLD, stacked, unroll=unroll)[0]


def encode(
  config: Config,
  params: Params,
  tokens_BE: jax.Array,
  segments_BE: jax.Array,
  *,
  remat: str = "none",
) -> jax.Array:
  """Returns the encoder's states [B, E, D]. Segment 0 is padding, which only padding sees."""
  (block, _), _, _ = _describe(config)
  mask_BEE = segments_BE[:, :, None] == segments_BE[:, None, :]
  line_E = jnp.arange(tokens_BE.shape[1])
  bias_1HEE = _relative_bias(config, params, "encoder", (line_E[None, :] - line_E[:, None])[None])

  def layer(x_BED: jax.Array, weights: Any) -> jax.Array:
    module: Any = nnx.merge(block, weights)
    h_BED = module.attention.pre_norm(x_BED)
    q, (k, v) = module.attention.queries(h_BED), module.attention.keys_values(h_BED)
    out = attention.attend(q, k, v, mask_BEE, scale=1.0, bias_BHLS=bias_1HEE)
    return module.mlp(module.attention.add_output(x_BED, out))

  x_BED = _embed(config, params, tokens_BE)
  x_BED = _scan_layers(layer, x_BED, params["encoder"], config.layers, remat)
  return layers.rms_norm(x_BED, params["encoder_norm"], config.norm_eps)


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
  """Returns the decoder's last states as the head reads them, [B, L, D].

  Args:
    config: The config.
    params: The parameters.
    rows: The rows.
    detach: Whether tokens of rows.detached see source and root without gradient.
    remat: What the backward pass recomputes: none | dots | full.
    path: The attention path: auto or plain, the others have no relative bias.
    packed: Whether a row may hold several examples; the plain path computes both alike.

  Raises:
    ValueError: `path` is another one.
  """
  if path not in ("auto", "plain"):
    raise ValueError(f"attention path {path} has no relative bias, which T5 needs: use plain")
  if rows.source is None or rows.source_segments is None:
    raise ValueError("rows of an encoder-decoder need a source")
  (_, block), _, _ = _describe(config)
  encoded_BED = encode(config, params, rows.source, rows.source_segments, remat=remat)
  mask_BLL = token_rows.visible(rows)
  mask_BLE = rows.root[:, :, None] == rows.source_segments[:, None, :]
  at_BL = rows.positions
  bias_BHLL = _relative_bias(config, params, "decoder", at_BL[:, None, :] - at_BL[:, :, None])

  learning_BLL = attention.learning(rows) if detach else None
  learning_BLE = attention.learning_of_source(rows, mask_BLE.shape) if detach else None

  def layer(x_BLD: jax.Array, weights: Any) -> jax.Array:
    module: Any = nnx.merge(block, weights)
    h_BLD = module.attention.pre_norm(x_BLD)
    q, (k, v) = module.attention.queries(h_BLD), module.attention.keys_values(h_BLD)
    out = attention.attend(
      q, k, v, mask_BLL, scale=1.0, bias_BHLS=bias_BHLL, learning_BLS=learning_BLL
    )
    x = module.attention.add_output(x_BLD, out)
    q, (k, v) = (
      module.cross.queries(module.cross.pre_norm(x)),
      module.cross.keys_values(encoded_BED),
    )
    out = attention.attend(q, k, v, mask_BLE, scale=1.0, learning_BLS=learning_BLE)
    return module.mlp(module.cross.add_output(x, out))

  x_BLD = _embed(config, params, rows.tokens)
  x_BLD = _scan_layers(layer, x_BLD, params["decoder"], config.decoder_layers, remat)
  return _final_norm(config, params, x_BLD)


def unstack_layers(config: Config, params: Params, weights: str = "") -> Unstacked:
  """Returns (one module for each layer of the decoder, the head [D, V]): what decoding reads.

  Called once, before the decoding loop. `weights` is int8, or empty for the compute dtype.
  """
  (_, block), _, _ = _describe(config)
  stacked = layers.cast_for_decode(params["decoder"], config.dtype)
  modules: list[Any] = [
    nnx.merge(block, jax.tree.map(lambda x, n=n: x[n], stacked))
    for n in range(config.decoder_layers)
  ]
  for module in modules:
    layers.fuse_qkv(module.attention)
    for part in (module.attention, module.cross, module.mlp):
      layers.arrange_for_decode(part, weights)
  return modules, few_rows.arrange(head(config, params).astype(config.dtype), weights=weights)


def prefill(
  config: Config,
  params: Params,
  tokens_BE: jax.Array,
  lengths_B: jax.Array,
  unstacked: Unstacked | None = None,
) -> tuple[jax.Array, Cache, jax.Array]:
  """Encodes prompts that are padded on the right, and reads the start token.

  Args:
    config: The config.
    params: The parameters.
    tokens_BE: The prompts.
    lengths_B: How long they are.
    unstacked: The result of `unstack_layers`; None: it is computed here.

  Returns:
    The logits after the start token [B, V]; a cache of one column, whose `fixed` holds the keys and
    values of the source for each layer and its mask [B, E]; how many columns each row fills, 1.
  """
  batch, length = tokens_BE.shape
  inside_BE = jnp.arange(length)[None, :] < lengths_B[:, None]
  encoded_BED = encode(config, params, tokens_BE, inside_BE.astype(jnp.int32))
  unstacked = modules, _ = unstacked or unstack_layers(config, params)
  fixed = (tuple(module.cross.keys_values(encoded_BED) for module in modules), inside_BE)
  empty = tuple(
    jnp.zeros((batch, config.heads, 1, config.head_width), config.dtype) for _ in modules
  )
  start_B, zero_B = jnp.full((batch,), config.start), jnp.zeros((batch,), jnp.int32)
  cache = Cache(empty, empty, fixed)
  logits_BV, cache = decode_step(config, params, unstacked, start_B, zero_B, cache)
  return logits_BV, cache, zero_B + 1


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
    position_B: How many tokens precede each of them; the start token is one.
    cache: The cache.

  Returns:
    The logits after the token [B, V], and the cache with its column written.
  """
  modules, matrix_DV = unstacked
  whole = sharding.decodes_whole(shapes, config)
  x_BLD = _embed(config, params, token_B[:, None], whole=whole)
  ages_BS = token_rows.column_ages(position_B, cache.keys[0].shape[2])
  mask_BLS = (ages_BS >= 0)[:, None]
  bias_BHLS = _relative_bias(config, params, "decoder", -ages_BS[:, None])
  sources, inside_BE = cache.fixed
  keys, values = [], []
  for n, module in enumerate(modules):
    h_BLD = module.attention.pre_norm(x_BLD)
    q, k, v = layers.qkv_proj(h_BLD, module.attention)
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
    caches = cache.keys[n], cache.values[n]
    written = token_rows.write_columns(caches, (k, v), position_B)
    keys.append(written[0])
    values.append(written[1])
    out = attention.attend(q, keys[n], values[n], mask_BLS, scale=1.0, bias_BHLS=bias_BHLS)
    x = module.attention.add_output(x_BLD, out)
    q = module.cross.queries(module.cross.pre_norm(x))
    k, v = sources[n]
    out = attention.attend(q, k, v, inside_BE[:, None], scale=1.0)
    x_BLD = module.mlp(module.cross.add_output(x, out))
  logits_BLV = logprobs.logits(_final_norm(config, params, x_BLD), matrix_DV)
  return logits_BLV[:, 0], Cache(tuple(keys), tuple(values), cache.fixed)
