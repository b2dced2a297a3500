"""An encoder-decoder student: T5 v1.0, T5 v1.1 and Flan-T5 (Raffel et al. 2020).

Dimension key: see layers.py and t5_layers.py; S slots of the cache. The encoder reads the prompt
(rows.source), the decoder writes the target behind one start token. Both are stacks of layers that
are scanned, and each stack shares one table of relative biases among its layers.

Rows may be packed and may be trees (rows.py): a source token sees its own source segment, both
ways; a decoder token sees its own and its root segment, and reads the source whose segment is its
root's. Distances are differences of rows.positions in the decoder, of columns in the encoder.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from distill_jax.students import attention, decoder, layers, logprobs, sharding, t5_layers
from distill_jax.students import token_rows as students_rows
from distill_jax.students.token_rows import Cache, Rows


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes and parts. `dtype` is the compute dtype; parameters stay float32."""

  vocab: int
  width: int
  layers: int  # of the encoder
  decoder_layers: int
  heads: int
  head_width: int
  mlp: int
  buckets: int  # of the relative bias, a table of them for each stack
  distance: int  # tokens; from here on all keys share the last bucket
  norm_eps: float
  activation: str  # relu | gelu_tanh
  gated: bool
  tied: bool  # the head is the transposed embedding, and what it reads is scaled by width^-0.5
  start: int  # the decoder's first token
  dtype: str

  logit_softcap: ClassVar[float] = 0.0  # none, in any T5


class T5(nnx.Module):
  """The initial scales are those of T5: attention is not scaled, so its queries are small."""

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    def stack(kind, number):
      @nnx.split_rngs(splits=number)
      @nnx.vmap(in_axes=(0,), out_axes=0)
      def make(rngs):
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
def _parts(config: Config):
  """(graph definitions of an encoder and a decoder block, logical axes of all parameters, their
  shapes)."""
  model = nnx.eval_shape(lambda: T5(config, rngs=nnx.Rngs(0)))
  blocks = tuple(nnx.split(stack, nnx.Param)[0] for stack in (model.encoder, model.decoder))
  return blocks, *layers.described(model)


def init(config: Config, key):
  """Fresh parameters: a nested dict of float32 arrays, per-layer ones stacked in front."""
  return nnx.to_pure_dict(nnx.state(T5(config, rngs=nnx.Rngs(key)), nnx.Param))


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


def _bias(config: Config, params, stack: str, offset_BLS):
  """`offset`: key position - query position."""
  return t5_layers.relative_bias(
    params[f"{stack}_relative"], offset_BLS, distance=config.distance, both_ways=stack == "encoder"
  )


def _leave(config: Config, params, x_BLD):
  """From the decoder's last layer to what the head reads."""
  x = layers.rms_norm(x_BLD, params["norm"], config.norm_eps)
  return x * jnp.asarray(config.width**-0.5, x.dtype) if config.tied else x


def _scan(layer, x_BLD, stack, number: int, remat: str):
  few = number <= decoder.FEW
  if remat != "none":
    layer = jax.checkpoint(layer, policy=decoder.REMAT[remat], prevent_cse=few)
  return jax.lax.scan(lambda x, w: (layer(x, w), None), x_BLD, stack, unroll=few)[0]


def encode(config: Config, params, tokens_BE, segments_BE, *, remat: str = "none"):
  """The encoder's states [B, E, D]. Segment 0 is padding, which only padding sees."""
  (block, _), _, _ = _parts(config)
  mask_BEE = segments_BE[:, :, None] == segments_BE[:, None, :]
  line_E = jnp.arange(tokens_BE.shape[1])
  bias_1HEE = _bias(config, params, "encoder", (line_E[None, :] - line_E[:, None])[None])

  def layer(x_BED, weights):
    module = nnx.merge(block, weights)
    h_BED = module.attention.normed(x_BED)
    q, (k, v) = module.attention.queries(h_BED), module.attention.keys_values(h_BED)
    out = attention.attend(q, k, v, mask_BEE, scale=1.0, bias_BHLS=bias_1HEE)
    return module.mlp(module.attention.finish(x_BED, out))

  x_BED = _embed(config, params, tokens_BE)
  x_BED = _scan(layer, x_BED, params["encoder"], config.layers, remat)
  return layers.rms_norm(x_BED, params["encoder_norm"], config.norm_eps)


def hidden(
  config: Config,
  params,
  rows: Rows,
  *,
  detach: bool = False,
  remat: str = "none",
  path: str = "plain",
):
  """The decoder's last states as the head reads them, [B, L, D]. `detach`: where rows.detached, the
  source and the root are seen without gradient (twice the attention); `remat`: what the backward
  pass computes again, none | dots | full.

  Raises ValueError for a `path` of attention.py without a relative bias: auto and plain have one.
  """
  if path not in ("auto", "plain"):
    raise ValueError(f"attention path {path}: it has no relative bias, and T5 needs one: plain")
  (_, block), _, _ = _parts(config)
  read_BED = encode(config, params, rows.source, rows.source_segments, remat=remat)
  mask_BLL = students_rows.visible(rows)
  mask_BLE = rows.root[:, :, None] == rows.source_segments[:, None, :]
  at_BL = rows.positions
  bias_BHLL = _bias(config, params, "decoder", at_BL[:, None, :] - at_BL[:, :, None])
  stop = jax.lax.stop_gradient

  def see(q, k, v, mask, stopped, bias=None):
    out = attention.attend(q, k, v, mask, scale=1.0, bias_BHLS=bias)
    if not detach:
      return out
    still = attention.attend(q, stopped(k), stopped(v), mask, scale=1.0, bias_BHLS=bias)
    return jnp.where((rows.detached > 0)[:, :, None, None], still, out)

  def root_stopped(y_BHLK):
    return jnp.where((rows.segments == rows.root)[:, None, :, None], stop(y_BHLK), y_BHLK)

  def layer(x_BLD, weights):
    module = nnx.merge(block, weights)
    h_BLD = module.attention.normed(x_BLD)
    q, (k, v) = module.attention.queries(h_BLD), module.attention.keys_values(h_BLD)
    x = module.attention.finish(x_BLD, see(q, k, v, mask_BLL, root_stopped, bias_BHLL))
    q, (k, v) = module.cross.queries(module.cross.normed(x)), module.cross.keys_values(read_BED)
    return module.mlp(module.cross.finish(x, see(q, k, v, mask_BLE, stop)))

  x_BLD = _embed(config, params, rows.tokens)
  x_BLD = _scan(layer, x_BLD, params["decoder"], config.decoder_layers, remat)
  return _leave(config, params, x_BLD)


def unstacked(config: Config, params):
  """What decoding reads, made once before any loop: (a module for each layer of the decoder, the
  head [D, V])."""
  (_, block), _, _ = _parts(config)
  stack = layers.ready(params["decoder"], config.dtype)
  pick = lambda n: jax.tree.map(lambda x: x[n], stack)
  modules = [nnx.merge(block, pick(n)) for n in range(config.decoder_layers)]
  for module in modules:
    layers.join(module.attention)
  return modules, head(config, params).astype(config.dtype)


def prefill(config: Config, params, tokens_BE, lengths_B):
  """Encodes prompts padded on the right and reads the start token. Returns the logits after it
  [B, V], a cache of one column (fixed: keys and values of the source a layer, and its mask [B, E]),
  and how many columns each row fills: 1."""
  batch, length = tokens_BE.shape
  inside_BE = jnp.arange(length)[None, :] < lengths_B[:, None]
  read_BED = encode(config, params, tokens_BE, inside_BE.astype(jnp.int32))
  ready = modules, _ = unstacked(config, params)
  fixed = (tuple(module.cross.keys_values(read_BED) for module in modules), inside_BE)
  empty = tuple(
    jnp.zeros((batch, config.heads, 1, config.head_width), config.dtype) for _ in modules
  )
  start_B, zero_B = jnp.full((batch,), config.start), jnp.zeros((batch,), jnp.int32)
  cache = Cache(empty, empty, fixed)
  logits_BV, cache = advance(config, params, ready, start_B, zero_B, cache)
  return logits_BV, cache, zero_B + 1


def advance(config: Config, params, ready, token_B, position_B, cache: Cache):
  """One token further: its logits [B, V] and the cache with its column written. `ready` from
  `unstacked`; position_B is how many tokens (the start is one) precede it."""
  modules, matrix = ready
  x_BLD = _embed(config, params, token_B[:, None])
  distance_BS = students_rows.distances(position_B, cache.keys[0].shape[2])
  mask_BLS = (distance_BS >= 0)[:, None]
  bias_BHLS = _bias(config, params, "decoder", -distance_BS[:, None])
  sources, inside_BE = cache.fixed
  keys, values = [], []
  for n, module in enumerate(modules):
    h_BLD = module.attention.normed(x_BLD)
    q, k, v = layers.products(h_BLD, module.attention)
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
    keys.append(students_rows.write(cache.keys[n], k, position_B))
    values.append(students_rows.write(cache.values[n], v, position_B))
    out = attention.attend(q, keys[n], values[n], mask_BLS, scale=1.0, bias_BHLS=bias_BHLS)
    x = module.attention.finish(x_BLD, out)
    q = module.cross.queries(module.cross.normed(x))
    out = attention.attend(q, *sources[n], inside_BE[:, None], scale=1.0)
    x_BLD = module.mlp(module.cross.finish(x, out))
  logits_BLV = logits(config, params, matrix, x_BLD)
  return logits_BLV[:, 0], Cache(tuple(keys), tuple(values), cache.fixed)


def logits(config: Config, params, matrix_DV, x_BLD):
  """Final norm and head, float32 [B, L, V]: for the few positions decoding needs, never for whole
  rows."""
  return logprobs.logits(_leave(config, params, x_BLD), matrix_DV)
