"""Low-rank adaptation (Hu et al. 2021): W + alpha / rank * down @ up, on weights that stay as they
are.

The adapters are a small tree of their own: it is what is trained, checkpointed and given to the
optimizer. `attach` hangs them on the frozen weights, where layers.project finds them; nothing is
copied, so that the same frozen weights also are the reference of preference losses. `merge` adds
them in, for export. (Flax's nnx.LoRA wraps modules; our hot path has none, it has trees.)
"""

import dataclasses
import math

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Adapted:
  """A frozen weight [in..., out...] and its update: down [in..., R], up [R, out...]; stacked layers
  lead each."""

  base: jax.Array
  down: jax.Array
  up: jax.Array
  scale: float = dataclasses.field(metadata={"static": True})


def axes(model_axes, *, targets):
  """Logical axes of the adapters of all weights called by a name of `targets`, in the structure of
  the model's tree."""

  def of(weight):
    before, after = _sides(weight)
    return {"down": ("layers", *before, None), "up": ("layers", None, *after)}

  return _chosen(model_axes, targets, of)


def init(key, model_axes, model_shapes, *, rank: int, targets):
  """Fresh adapters: down is normal with variance 1 / inputs, up is 0: nothing changes yet."""
  keys = iter(jax.random.split(key, len(jax.tree.leaves(model_shapes))))

  def of(weight, shape):
    inputs = len(_sides(weight)[0])
    count, before, after = shape.shape[0], shape.shape[1 : 1 + inputs], shape.shape[1 + inputs :]
    down = jax.random.normal(next(keys), (count, *before, rank), jnp.float32)
    return {"down": down * math.prod(before) ** -0.5, "up": jnp.zeros((count, rank, *after))}

  return _chosen(model_axes, targets, of, model_shapes)


def attach(params, adapters, scale: float):
  """The parameters with the adapters hung on; `scale` is alpha / rank. No adapters, no change."""

  def hang(weights, updates):
    if not isinstance(weights, dict):
      return Adapted(weights, **updates, scale=scale)
    return weights | {name: hang(weights[name], updates[name]) for name in updates}

  return hang(params, adapters)


def merge(params):
  """Plain parameters of the same function: what is hung on is added in, in float32."""

  def plain(x):
    if not isinstance(x, Adapted):
      return x
    update = jax.vmap(lambda down, up: jnp.tensordot(down, up, 1))(x.down, x.up)
    return (x.base + x.scale * update).astype(x.base.dtype)

  return jax.tree.map(plain, params, is_leaf=lambda x: isinstance(x, Adapted))


def _sides(weight_axes):
  """(input axes, output axes) of a stacked weight: what ends in the residual stream has one output,
  every other weight one input."""
  names = weight_axes[1:]
  return (names[:-1], names[-1:]) if names[-1] == "embed" else (names[:1], names[1:])


def _chosen(tree, targets, of, *others):
  """`of` applied to the stacked weights whose name is one of `targets`; the rest is left out."""
  out = {}
  for name, value in tree.items():
    rest = [other[name] for other in others]
    if isinstance(value, dict):
      if found := _chosen(value, targets, of, *rest):
        out[name] = found
    elif value[0] == "layers" and name in targets:
      out[name] = of(value, *rest)
  return out
