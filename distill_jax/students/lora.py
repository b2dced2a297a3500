"""Low-rank adaptation (Hu et al. 2021): W + alpha / rank * down @ up, with W frozen.

The adapters are a small tree of their own, which is trained, checkpointed and given to the
optimizer. `attach` joins them with the frozen weights, where layers.project finds them. Nothing is
copied, so the same frozen weights also serve as the reference of preference losses. `merge` adds
them to the weights, for decoding and export. (Flax's nnx.LoRA wraps modules; the students compute
on trees.)
"""

import dataclasses
import math
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp

from distill_jax.students import quantized
from distill_jax.students.types import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Adapted:
  """A frozen weight [in..., out...] with its update: down [in..., R], up [R, out...].

  Stacked layers add a leading axis to each.
  """

  base: jax.Array | quantized.Nf4
  down: jax.Array
  up: jax.Array
  scale: float = dataclasses.field(metadata={"static": True})


def axes(model_axes: Params, *, targets: Collection[str]) -> Params:
  """Returns the logical axes of the adapters of all weights named in `targets`.

  The structure is that of the model's tree, without the other weights.
  """

  def adapter_axes(weight_axes: tuple[str | None, ...]) -> Params:
    inputs, outputs = _split_axes(weight_axes)
    return {"down": ("layers", *inputs, None), "up": ("layers", None, *outputs)}

  return _map_targets(model_axes, targets, adapter_axes)


def init(
  key: jax.Array, model_axes: Params, model_shapes: Params, *, rank: int, targets: Collection[str]
) -> Params:
  """Returns new adapters, float32: `down` normal with variance 1 / inputs, `up` zero."""
  keys = iter(jax.random.split(key, len(jax.tree.leaves(model_shapes))))

  def adapter(weight_axes: tuple[str | None, ...], weight: jax.ShapeDtypeStruct) -> Params:
    count = len(_split_axes(weight_axes)[0])
    layers, inputs, outputs = (
      weight.shape[0],
      weight.shape[1 : 1 + count],
      weight.shape[1 + count :],
    )
    down = jax.random.normal(next(keys), (layers, *inputs, rank), jnp.float32)
    return {"down": down * math.prod(inputs) ** -0.5, "up": jnp.zeros((layers, rank, *outputs))}

  return _map_targets(model_axes, targets, adapter, model_shapes)


def attach(params: Params, adapters: Params, scale: float) -> Params:
  """Returns the parameters with adapted weights as `Adapted`; `scale` is alpha / rank."""

  def join(weights: Any, updates: Params) -> Any:
    if not isinstance(weights, dict):
      return Adapted(weights, **updates, scale=scale)
    return weights | {name: join(weights[name], updates[name]) for name in updates}

  return join(params, adapters)


def merge(params: Params) -> Params:
  """Returns plain parameters of the same function; adapters are added in float32.

  Weights in 4 bits become float32.
  """

  def merged(x: Any) -> jax.Array:
    if isinstance(x, quantized.Nf4):
      return quantized.dequantize(x)
    if not isinstance(x, Adapted):
      return x
    base = merged(x.base)
    update = jax.vmap(lambda down, up: jnp.tensordot(down, up, 1))(x.down, x.up)
    return (base + x.scale * update).astype(base.dtype)

  return jax.tree.map(merged, params, is_leaf=lambda x: isinstance(x, (Adapted, quantized.Nf4)))


def _split_axes(
  weight_axes: tuple[str | None, ...],
) -> tuple[tuple[str | None, ...], tuple[str | None, ...]]:
  """Returns (input axes, output axes) of a stacked weight."""
  last = quantized.input_axis(weight_axes)
  return weight_axes[1 : last + 1], weight_axes[last + 1 :]


def _map_targets(
  tree: Params, targets: Collection[str], function: Callable[..., Params], *others: Params
) -> Params:
  """Applies `function` to the stacked weights named in `targets` and drops all others."""
  out = {}
  for name, value in tree.items():
    rest = [other[name] for other in others]
    if isinstance(value, dict):
      if inner := _map_targets(value, targets, function, *rest):
        out[name] = inner
    elif value[0] == "layers" and name in targets:
      out[name] = function(value, *rest)
  return out
