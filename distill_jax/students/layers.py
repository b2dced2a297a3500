"""The parts a decoder is made of.

Dimension key, the name suffixes of this room:
  B batch   L query length   S key length   D model width   M hidden width of the MLP
  H query heads   G key-value heads (groups)   K head width   V vocabulary
Parameters are float32; `dtype` is what matrix products run in; norms and softmax always run in
float32.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from distill_jax.learning import sharding


def weight(rngs, shape, axes, std: float) -> nnx.Param:
  """A normal float32 parameter with one logical axis name a dimension."""
  return nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32), axes=axes)


def rms_norm(x_BLD, scale_D, eps: float):
  """x / rms(x) * scale, computed in float32 (Zhang & Sennrich 2019)."""
  x32 = x_BLD.astype(jnp.float32)
  mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
  return (x32 * jax.lax.rsqrt(mean_square + eps) * scale_D[None, None, :]).astype(x_BLD.dtype)


def rotary(x_BLHK, positions_BL, theta: float):
  """Rotary positions (Su et al. 2021), in the half-split layout of the Llama family."""
  half = x_BLHK.shape[-1] // 2
  inverse = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle_BLK = positions_BL[..., None].astype(jnp.float32) * inverse[None, None, :]
  cos, sin = jnp.cos(angle_BLK)[:, :, None, :], jnp.sin(angle_BLK)[:, :, None, :]
  a, b = jnp.split(x_BLHK.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BLHK.dtype)


def attend(q_BLHK, k_BGSK, v_BGSK, mask_BLS):
  """Softmax attention; query heads share key-value groups. A row that sees nothing gets the mean of
  all values."""
  batch, length, heads, width = q_BLHK.shape
  groups = k_BGSK.shape[1]
  q = q_BLHK.reshape(batch, length, groups, heads // groups, width)
  scores = jnp.einsum("blgrk,bgsk->bgrls", q, k_BGSK, preferred_element_type=jnp.float32)
  scores = jnp.where(mask_BLS[:, None, None], scores * width**-0.5, jnp.finfo(jnp.float32).min)
  shares = jax.nn.softmax(scores, axis=-1).astype(v_BGSK.dtype)
  return jnp.einsum("bgrls,bgsk->blgrk", shares, v_BGSK).reshape(q_BLHK.shape)


class Block(nnx.Module):
  """One pre-norm layer: grouped-query attention, then a SwiGLU MLP (Touvron et al. 2023)."""

  def __init__(self, config, *, rngs: nnx.Rngs):
    c = config
    near = c.width**-0.5  # keeps the scale of activations, whatever the width
    far = near / (
      2 * c.layers
    )  # what ends in the residual stream starts small beside the embedding
    self.config = c
    self.attention_norm = nnx.Param(jnp.ones((c.width,)), axes=("norm",))
    self.q = weight(rngs, (c.width, c.heads, c.head_width), ("embed", "heads", None), near)
    self.k = weight(rngs, (c.width, c.kv_heads, c.head_width), ("embed", "groups", None), near)
    self.v = weight(rngs, (c.width, c.kv_heads, c.head_width), ("embed", "groups", None), near)
    self.o = weight(rngs, (c.heads, c.head_width, c.width), ("heads", None, "embed"), far)
    self.mlp_norm = nnx.Param(jnp.ones((c.width,)), axes=("norm",))
    self.gate = weight(rngs, (c.width, c.mlp), ("embed", "mlp"), near)
    self.up = weight(rngs, (c.width, c.mlp), ("embed", "mlp"), near)
    self.down = weight(rngs, (c.mlp, c.width), ("mlp", "embed"), far)

  def queries_keys_values(self, x_BLD, positions_BL):
    """q [B,L,H,K], and k, v [B,G,L,K]: the layout of the cache."""
    c, dtype = self.config, x_BLD.dtype
    h_BLD = rms_norm(x_BLD, self.attention_norm[...], c.norm_eps)
    project = lambda w: jnp.einsum("bld,dhk->blhk", h_BLD, w[...].astype(dtype))
    q = rotary(project(self.q), positions_BL, c.rope_theta)
    k = rotary(project(self.k), positions_BL, c.rope_theta)
    return q, k.swapaxes(1, 2), project(self.v).swapaxes(1, 2)

  def finish(self, x_BLD, attended_BLHK):
    """The rest of the layer, once attention has been paid."""
    dtype = x_BLD.dtype
    x = x_BLD + jnp.einsum("blhk,hkd->bld", attended_BLHK, self.o[...].astype(dtype))
    h = rms_norm(x, self.mlp_norm[...], self.config.norm_eps)
    gate, up = h @ self.gate[...].astype(dtype), h @ self.up[...].astype(dtype)
    x = x + (jax.nn.silu(gate) * up) @ self.down[...].astype(dtype)
    return sharding.constrain(x, "batch", None, None)
