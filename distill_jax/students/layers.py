"""The parts of a decoder layer.

Dimension key, the name suffixes of the students:
  B batch   L query length   S key length   D model width   M hidden width of the MLP
  H query heads   G key-value heads (groups)   K head width   V vocabulary
Parameters are float32. Matrix products run in the compute dtype, norms and softmax in float32.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from distill_jax.students import few_rows, lora, quantized, sharding
from distill_jax.students.decoder_config import Config, Rotary
from distill_jax.students.types import Params

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "silu": jax.nn.silu,
  "relu": jax.nn.relu,
  "gelu": functools.partial(jax.nn.gelu, approximate=False),
  "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}

CosSin = tuple[jax.Array, jax.Array]
Axes = tuple[str | None, ...]


def weight(rngs: nnx.Rngs, shape: Sequence[int], axes: Axes, std: float) -> nnx.Param[Any]:
  """Returns a normal float32 parameter; `axes` names the logical axis of each dimension."""
  return nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32), axes=axes)


def constant(shape: Sequence[int], axes: Axes, value: float) -> nnx.Param[Any]:
  """Returns a constant float32 parameter."""
  return nnx.Param(jnp.full(shape, value, jnp.float32), axes=axes)


def axes_and_shapes(model: nnx.Module) -> tuple[Params, Params]:
  """Returns (logical axes, shapes) of the parameters of an abstract model, as nested dicts.

  Shapes have no sharding: models cache them, and must not depend on the mesh of the first caller.
  """
  params = nnx.state(model, nnx.Param)

  def stacked_axes(param: Any) -> Axes:
    return ("layers",) * (param.get_value().ndim - len(param.axes)) + param.axes

  axes = jax.tree.map(stacked_axes, params, is_leaf=lambda x: isinstance(x, nnx.Variable))
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
  return nnx.to_pure_dict(axes), nnx.to_pure_dict(shapes)


def project(x: jax.Array, weight: Any, axes: int = 1) -> jax.Array:
  """Contracts x's last `axes` dimensions with the weight's first ones, in x's dtype.

  A weight with a LoRA adapter (lora.Adapted) adds its low-rank product. Frozen weights may be in 4
  bits, weights of decoding in 8.
  """
  value = weight.get_value() if isinstance(weight, nnx.Variable) else weight
  if isinstance(value, few_rows.OutputsFirst):
    return few_rows.product(x, value, axes)
  if isinstance(value, quantized.Int8):
    return quantized.int8_product(x, value, axes).astype(x.dtype)

  def product(y: jax.Array, w: jax.Array | quantized.Nf4, n: int) -> jax.Array:
    if isinstance(w, quantized.Nf4):
      return quantized.nf4_product(y, w, n)
    return jnp.tensordot(y, w.astype(y.dtype), n)

  if isinstance(value, lora.Adapted):
    update = product(product(x, value.down, axes), value.up, 1)
    return product(x, value.base, axes) + update * jnp.asarray(value.scale, x.dtype)
  return product(x, value, axes)


def fuse_qkv(module: Any) -> None:
  """Concatenates the weights q, k, v of a module, so that one product computes all three.

  In decoding rows are few, and every product has a fixed cost. Heads that are split over devices
  stay separate.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.shape["tensor"] == 1:
    module.split_heads = (module.q.shape[1], module.q.shape[1] + module.k.shape[1])
    module.qkv = nnx.Param(jnp.concatenate([module.q[...], module.k[...], module.v[...]], axis=1))
    del module.q, module.k, module.v


def arrange_for_decode(module: Any, weights: str) -> None:
  """Applies `few_rows.arrange` to the weights of a module; for `weights` see there."""
  for name in ("qkv", "q", "k", "v", "o", "gate", "up", "down"):
    if hasattr(module, name):
      weight, axes = getattr(module, name)[...], 2 if name == "o" else 1
      setattr(module, name, nnx.Param(few_rows.arrange(weight, axes, weights)))


def qkv_proj(h_BLD: jax.Array, module: Any) -> tuple[jax.Array, ...]:
  """Returns q [B, L, H, K], k and v [B, L, G, K] of a module with weights q, k, v."""
  if not hasattr(module, "qkv"):
    return tuple(project(h_BLD, weight) for weight in (module.q, module.k, module.v))
  return tuple(jnp.split(project(h_BLD, module.qkv), module.split_heads, axis=2))


def cast_for_decode(params: Params, dtype: str) -> Params:
  """Returns the weights that decoding reads.

  LoRA adapters are merged, also into weights in 4 bits; tables and weights of products are cast to
  the compute dtype; norms and biases, relative ones too, stay float32.
  """

  def cast(path: Sequence[Any], x: jax.Array) -> jax.Array:
    return x if str(path[-1].key).endswith(("norm", "bias", "relative")) else x.astype(dtype)

  return jax.tree.map_with_path(cast, lora.merge(params))


def rms_norm(x: jax.Array, scale_D: jax.Array, eps: float) -> jax.Array:
  """Returns x / rms(x) * scale over the last axis, in float32 (Zhang & Sennrich 2019)."""
  x32 = x.astype(jnp.float32)
  mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
  return (x32 * jax.lax.rsqrt(mean_square + eps) * _align_last(scale_D, x)).astype(x.dtype)


def layer_norm(x: jax.Array, scale_D: jax.Array, bias_D: jax.Array, eps: float) -> jax.Array:
  """Zero mean and unit variance, then scale and bias, in float32 (Ba et al. 2016)."""
  x32 = x.astype(jnp.float32)
  x32 -= jnp.mean(x32, axis=-1, keepdims=True)
  x32 *= jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
  return (x32 * _align_last(scale_D, x) + _align_last(bias_D, x)).astype(x.dtype)


def _align_last(vector: jax.Array, x: jax.Array) -> jax.Array:
  """Returns the vector with x's rank, along its last dimension."""
  return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def rope_frequencies(rotary: Rotary) -> jax.Array:
  """Returns the angle per position of each pair, float32 [width / 2], radians.

  Linear scaling divides all of them, Llama 3.1's only those that rotate slowly.
  """
  half = rotary.width // 2
  inverse = rotary.theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  if rotary.scaling == "linear":
    return inverse / rotary.factor
  if rotary.scaling == "llama3":
    rotations = rotary.original * inverse / (2 * math.pi)  # within the original context
    share = jnp.clip((rotations - rotary.low) / (rotary.high - rotary.low), 0.0, 1.0)
    return inverse * (share + (1 - share) / rotary.factor)
  return inverse


def rope_cos_sin(rotary: Rotary, positions_BL: jax.Array) -> CosSin:
  """Returns (cos, sin), float32 [B, L, width / 2]; computed once, used by every layer."""
  angle = positions_BL[..., None].astype(jnp.float32) * rope_frequencies(rotary)[None, None, :]
  return jnp.cos(angle), jnp.sin(angle)


def apply_rope(x_BLHK: jax.Array, rotary: Rotary, cos_sin: CosSin) -> jax.Array:
  """Applies rotary positions (Su et al. 2021) to the first `rotary.width` dimensions of each head.

  The two of a pair are half a width apart (Llama) or adjacent (GPT-J).
  """
  cos, sin = (table[:, :, None, :] for table in cos_sin)
  x, rest = jnp.split(x_BLHK.astype(jnp.float32), [rotary.width], axis=-1)
  a, b = (x[..., ::2], x[..., 1::2]) if rotary.adjacent else jnp.split(x, 2, axis=-1)
  a, b = a * cos - b * sin, b * cos + a * sin
  if rotary.adjacent:
    x = jnp.stack([a, b], axis=-1).reshape(x.shape)
    return jnp.concatenate([x, rest], axis=-1).astype(x_BLHK.dtype)
  return jnp.concatenate([a, b, rest], axis=-1).astype(x_BLHK.dtype)


class Block(nnx.Module):
  """One layer: attention and an MLP, composed as the config says."""

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    c = self.config = config
    std_in = c.width**-0.5  # keeps the scale of activations at any width
    std_out = std_in / (2 * c.layers)  # updates of the residual stream start small
    self._add_norm("attention_norm")
    self.q = weight(rngs, (c.width, c.heads, c.head_width), ("embed", "heads", None), std_in)
    self.k = weight(rngs, (c.width, c.kv_heads, c.head_width), ("embed", "groups", None), std_in)
    self.v = weight(rngs, (c.width, c.kv_heads, c.head_width), ("embed", "groups", None), std_in)
    self.o = weight(rngs, (c.heads, c.head_width, c.width), ("heads", None, "embed"), std_out)
    if c.qkv_bias:
      self.q_bias = constant((c.heads, c.head_width), ("heads", None), 0.0)
      self.k_bias = constant((c.kv_heads, c.head_width), ("groups", None), 0.0)
      self.v_bias = constant((c.kv_heads, c.head_width), ("groups", None), 0.0)
    if c.out_bias:
      self.o_bias = constant((c.width,), ("norm",), 0.0)
    if c.qk_norm:
      self._add_norm("q_norm", c.head_width)
      self._add_norm("k_norm", c.head_width)
    if c.order != "parallel":
      self._add_norm("mlp_norm")
    if c.order == "sandwich":
      self._add_norm("attention_post_norm")
      self._add_norm("mlp_post_norm")
    if c.gated:
      self.gate = weight(rngs, (c.width, c.mlp), ("embed", "mlp"), std_in)
    self.up = weight(rngs, (c.width, c.mlp), ("embed", "mlp"), std_in)
    self.down = weight(rngs, (c.mlp, c.width), ("mlp", "embed"), std_out)
    if c.mlp_bias and c.gated:
      self.gate_bias = constant((c.mlp,), ("mlp",), 0.0)
    if c.mlp_bias:
      self.up_bias = constant((c.mlp,), ("mlp",), 0.0)
      self.down_bias = constant((c.width,), ("norm",), 0.0)

  def _add_norm(self, name: str, width: int = 0) -> None:
    for field, param in norm_params(self.config, name, width).items():
      setattr(self, field, param)

  def _norm(self, x: jax.Array, name: str) -> jax.Array:
    return norm(self.config, vars(self), name, x)

  def _add_bias(self, y: jax.Array, name: str) -> jax.Array:
    bias = vars(self).get(f"{name}_bias")
    if bias is None:
      return y
    # Spread before it is cast: so its gradient is summed in float32.
    return y + jnp.broadcast_to(bias[...][(None,) * (y.ndim - bias.ndim)], y.shape).astype(y.dtype)

  def queries_keys_values(
    self, x_BLD: jax.Array, rotary: Rotary | None, cos_sin: CosSin | None
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns q [B, L, H, K], and k, v [B, G, L, K], the layout of the cache."""
    h_BLD = x_BLD if self.config.order == "post" else self._norm(x_BLD, "attention_norm")
    q, k, v = (self._add_bias(y, n) for y, n in zip(qkv_proj(h_BLD, self), "qkv", strict=True))
    if self.config.qk_norm:
      q, k = self._norm(q, "q_norm"), self._norm(k, "k_norm")
    if rotary is not None and cos_sin is not None:
      q, k = apply_rope(q, rotary, cos_sin), apply_rope(k, rotary, cos_sin)
    return q, k.swapaxes(1, 2), v.swapaxes(1, 2)

  def block_output(self, x_BLD: jax.Array, attended_BLHK: jax.Array) -> jax.Array:
    """Output projection, residual connections and MLP: the layer's output [B, L, D]."""
    out = self._add_bias(project(attended_BLHK, self.o, 2), "o")
    match self.config.order:
      case "pre":
        x = x_BLD + out
        x += self._mlp(self._norm(x, "mlp_norm"))
      case "sandwich":
        x = x_BLD + self._norm(out, "attention_post_norm")
        x += self._norm(self._mlp(self._norm(x, "mlp_norm")), "mlp_post_norm")
      case "parallel":
        x = x_BLD + out + self._mlp(self._norm(x_BLD, "attention_norm"))
      case "post":
        x = self._norm(x_BLD + out, "attention_norm")
        x = self._norm(x + self._mlp(x), "mlp_norm")
      case order:
        raise ValueError(f"order is {order!r}, but must be pre, sandwich, parallel or post")
    return sharding.constrain(x, "batch", None, None)

  def _mlp(self, h_BLD: jax.Array) -> jax.Array:
    activation = ACTIVATIONS[self.config.activation]
    up = self._add_bias(project(h_BLD, self.up), "up")
    if self.config.gated:
      inner = activation(self._add_bias(project(h_BLD, self.gate), "gate")) * up
    else:
      inner = activation(up)
    return self._add_bias(project(inner, self.down), "down")


def norm_params(config: Config, name: str, width: int = 0) -> dict[str, nnx.Param[Any]]:
  """Returns the parameters of the norm `name`; `width` 0 is the model's."""
  shape = (width or config.width,)
  params = {name: constant(shape, ("norm",), 0.0 if config.norm == "rms_plus_one" else 1.0)}
  if config.norm == "layer":
    params[f"{name}_bias"] = constant(shape, ("norm",), 0.0)
  return params


def norm(config: Config, params: Mapping[str, Any], name: str, x: jax.Array) -> jax.Array:
  """Applies the norm `name` of a mapping of parameters.

  It is an RMS norm, a layer norm, or an RMS norm whose scale is 1 + weight (Gemma).
  """
  scale = params[name][...]
  if config.norm == "layer":
    return layer_norm(x, scale, params[f"{name}_bias"][...], config.norm_eps)
  return rms_norm(x, scale + 1.0 if config.norm == "rms_plus_one" else scale, config.norm_eps)
