"""The parts a decoder is made of.

Dimension key, the name suffixes of this room:
  B batch   L query length   S key length   D model width   M hidden width of the MLP
  H query heads   G key-value heads (groups)   K head width   V vocabulary
Parameters are float32; `dtype` is what matrix products run in; norms and softmax always run in
float32.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from distill_jax.students import lora, sharding

ACTIVATIONS = {
  "silu": jax.nn.silu,
  "relu": jax.nn.relu,
  "gelu": functools.partial(jax.nn.gelu, approximate=False),
  "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


def weight(rngs, shape, axes, std: float) -> nnx.Param:
  """A normal float32 parameter with one logical axis name a dimension."""
  return nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32), axes=axes)


def constant(shape, axes, value: float) -> nnx.Param:
  return nnx.Param(jnp.full(shape, value, jnp.float32), axes=axes)


def described(model):
  """(logical axes, shapes) of all parameters of an abstract model, as nested dicts."""
  params = nnx.state(model, nnx.Param)
  stacked = lambda v: ("layers",) * (v.get_value().ndim - len(v.axes)) + v.axes
  is_param = lambda v: isinstance(v, nnx.Variable)
  axes = nnx.to_pure_dict(jax.tree.map(stacked, params, is_leaf=is_param))
  return axes, nnx.to_pure_dict(params)


def project(x, weight, axes: int = 1):
  """x's last `axes` dimensions times the weight's first ones, in x's dtype; low-rank updates ride
  along."""
  value = weight.get_value() if isinstance(weight, nnx.Variable) else weight
  product = lambda y, w, n: jnp.tensordot(y, w.astype(y.dtype), n)
  if isinstance(value, lora.Adapted):
    update = product(product(x, value.down, axes), value.up, 1)
    return product(x, value.base, axes) + update * jnp.asarray(value.scale, x.dtype)
  return product(x, value, axes)


def join(module) -> None:
  """Lets a module with weights q, k, v make all three by one product: where rows are few, as in
  decoding, every product has its price. Heads that are split over devices stay apart."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.shape["tensor"] == 1:
    module.qkv = nnx.Param(jnp.concatenate([module.q[...], module.k[...], module.v[...]], axis=1))


def products(h_BLD, module):
  """(q [B, L, H, K], k, v [B, L, G, K]) of a module with weights q, k, v."""
  if not hasattr(module, "qkv"):
    return tuple(project(h_BLD, weight) for weight in (module.q, module.k, module.v))
  heads, groups = module.q.shape[1], module.k.shape[1]
  return tuple(jnp.split(project(h_BLD, module.qkv), [heads, heads + groups], axis=2))


def ready(params, dtype):
  """Weights as decoding reads them: low-rank updates added in, products in the compute dtype."""

  def cast(path, x):
    return x if str(path[-1].key).endswith(("norm", "bias")) else x.astype(dtype)

  return jax.tree.map_with_path(cast, lora.merge(params))


def rms_norm(x, scale_D, eps: float):
  """x / rms(x) * scale over the last dimension, computed in float32 (Zhang & Sennrich 2019)."""
  x32 = x.astype(jnp.float32)
  mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
  return (x32 * jax.lax.rsqrt(mean_square + eps) * _last(scale_D, x)).astype(x.dtype)


def layer_norm(x, scale_D, bias_D, eps: float):
  """Zero mean, unit variance, then scale and bias, in float32 (Ba et al. 2016)."""
  x32 = x.astype(jnp.float32)
  x32 -= jnp.mean(x32, axis=-1, keepdims=True)
  x32 *= jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
  return (x32 * _last(scale_D, x) + _last(bias_D, x)).astype(x.dtype)


def _last(vector, x):
  """The vector as a tensor of x's rank, along its last dimension."""
  return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def frequencies(rotary):
  """Angle per position of each pair, float32 [width / 2], radians; scaled as the config says
  (Llama 3.1: only the slow ones)."""
  half = rotary.width // 2
  inverse = rotary.theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  if rotary.scaling == "linear":
    return inverse / rotary.factor
  if rotary.scaling == "llama3":
    turns = rotary.original * inverse / (2 * math.pi)  # whole turns in the original context
    share = jnp.clip((turns - rotary.low) / (rotary.high - rotary.low), 0.0, 1.0)
    return inverse * (share + (1 - share) / rotary.factor)
  return inverse


def turns(rotary, positions_BL):
  """(cos, sin), float32 [B, L, width / 2]: made once, used by every layer."""
  angle = positions_BL[..., None].astype(jnp.float32) * frequencies(rotary)[None, None, :]
  return jnp.cos(angle), jnp.sin(angle)


def rotate(x_BLHK, rotary, turn):
  """Rotary positions (Su et al. 2021) on the first `rotary.width` dimensions of each head.

  Pairs lie half a width apart (Llama) or next to each other (GPT-J).
  """
  cos, sin = (t[:, :, None, :] for t in turn)
  x, rest = jnp.split(x_BLHK.astype(jnp.float32), [rotary.width], axis=-1)
  a, b = (x[..., ::2], x[..., 1::2]) if rotary.adjacent else jnp.split(x, 2, axis=-1)
  a, b = a * cos - b * sin, b * cos + a * sin
  if rotary.adjacent:
    x = jnp.stack([a, b], axis=-1).reshape(x.shape)
    return jnp.concatenate([x, rest], axis=-1).astype(x_BLHK.dtype)
  return jnp.concatenate([a, b, rest], axis=-1).astype(x_BLHK.dtype)


class Block(nnx.Module):
  """One layer: attention and an MLP, put together as the config says."""

  def __init__(self, config, *, rngs: nnx.Rngs):
    c = self.config = config
    near = c.width**-0.5  # keeps the scale of activations, whatever the width
    far = near / (2 * c.layers)  # what ends in the residual stream starts small beside it
    self._norm("attention_norm")
    self.q = weight(rngs, (c.width, c.heads, c.head_width), ("embed", "heads", None), near)
    self.k = weight(rngs, (c.width, c.kv_heads, c.head_width), ("embed", "groups", None), near)
    self.v = weight(rngs, (c.width, c.kv_heads, c.head_width), ("embed", "groups", None), near)
    self.o = weight(rngs, (c.heads, c.head_width, c.width), ("heads", None, "embed"), far)
    if c.qkv_bias:
      self.q_bias = constant((c.heads, c.head_width), ("heads", None), 0.0)
      self.k_bias = constant((c.kv_heads, c.head_width), ("groups", None), 0.0)
      self.v_bias = constant((c.kv_heads, c.head_width), ("groups", None), 0.0)
    if c.out_bias:
      self.o_bias = constant((c.width,), ("norm",), 0.0)
    if c.qk_norm:
      self._norm("q_norm", c.head_width)
      self._norm("k_norm", c.head_width)
    if c.order != "parallel":
      self._norm("mlp_norm")
    if c.order == "sandwich":
      self._norm("attention_post_norm")
      self._norm("mlp_post_norm")
    if c.gated:
      self.gate = weight(rngs, (c.width, c.mlp), ("embed", "mlp"), near)
    self.up = weight(rngs, (c.width, c.mlp), ("embed", "mlp"), near)
    self.down = weight(rngs, (c.mlp, c.width), ("mlp", "embed"), far)
    if c.mlp_bias and c.gated:
      self.gate_bias = constant((c.mlp,), ("mlp",), 0.0)
    if c.mlp_bias:
      self.up_bias = constant((c.mlp,), ("mlp",), 0.0)
      self.down_bias = constant((c.width,), ("norm",), 0.0)

  def _norm(self, name: str, width: int = 0):
    for field, param in norm_params(self.config, name, width).items():
      setattr(self, field, param)

  def _normed(self, x, name: str):
    return norm(self.config, vars(self), name, x)

  def _biased(self, y, name: str):
    bias = vars(self).get(f"{name}_bias")
    return y if bias is None else y + bias[...].astype(y.dtype)[(None,) * (y.ndim - bias.ndim)]

  def queries_keys_values(self, x_BLD, rotary, turn):
    """q [B,L,H,K], and k, v [B,G,L,K]: the layout of the cache."""
    h_BLD = x_BLD if self.config.order == "post" else self._normed(x_BLD, "attention_norm")
    q, k, v = (self._biased(y, n) for y, n in zip(products(h_BLD, self), "qkv", strict=True))
    if self.config.qk_norm:
      q, k = self._normed(q, "q_norm"), self._normed(k, "k_norm")
    if rotary is not None:
      q, k = rotate(q, rotary, turn), rotate(k, rotary, turn)
    return q, k.swapaxes(1, 2), v.swapaxes(1, 2)

  def finish(self, x_BLD, attended_BLHK):
    """The rest of the layer, once attention has been paid."""
    out = self._biased(project(attended_BLHK, self.o, 2), "o")
    match self.config.order:
      case "pre":
        x = x_BLD + out
        x += self._mlp(self._normed(x, "mlp_norm"))
      case "sandwich":
        x = x_BLD + self._normed(out, "attention_post_norm")
        x += self._normed(self._mlp(self._normed(x, "mlp_norm")), "mlp_post_norm")
      case "parallel":
        x = x_BLD + out + self._mlp(self._normed(x_BLD, "attention_norm"))
      case "post":
        x = self._normed(x_BLD + out, "attention_norm")
        x = self._normed(x + self._mlp(x), "mlp_norm")
    return sharding.constrain(x, "batch", None, None)

  def _mlp(self, h_BLD):
    bend = ACTIVATIONS[self.config.activation]
    up = self._biased(project(h_BLD, self.up), "up")
    if self.config.gated:
      inner = bend(self._biased(project(h_BLD, self.gate), "gate")) * up
    else:
      inner = bend(up)
    return self._biased(project(inner, self.down), "down")


def norm_params(config, name: str, width: int = 0) -> dict[str, nnx.Param]:
  """The parameters of the norm `name`."""
  shape = (width or config.width,)
  params = {name: constant(shape, ("norm",), 0.0 if config.norm == "rms_plus_one" else 1.0)}
  if config.norm == "layer":
    params[f"{name}_bias"] = constant(shape, ("norm",), 0.0)
  return params


def norm(config, params, name: str, x):
  """The norm `name` out of a mapping of parameters: rms, layer, or rms whose scale is 1 + weight
  (Gemma)."""
  scale = params[name][...]
  if config.norm == "layer":
    return layer_norm(x, scale, params[f"{name}_bias"][...], config.norm_eps)
  return rms_norm(x, scale + 1.0 if config.norm == "rms_plus_one" else scale, config.norm_eps)
