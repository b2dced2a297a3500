"""The part of a student that is trained: all weights, or LoRA adapters of some of them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from distill_jax import students
from distill_jax.students import lora, quantized, sharding
from distill_jax.students.types import Config, Params


@dataclasses.dataclass(frozen=True)
class Trainable:
  """The trained parameters of a student: all (`rank` 0), or LoRA adapters over a frozen base.

  `axes` and `shapes` describe the trained tree: the parameters or the adapters (students/lora.py).
  """

  config: Config
  rank: int = 0
  scale: float = 1.0  # alpha / rank
  targets: tuple[str, ...] = ()
  base: str = ""  # nf4: weights of products below the adapters have 4 bits

  @property
  def axes(self) -> Params:
    """The logical axes of the trained tree."""
    model_axes = students.of(self.config).axes(self.config)
    return lora.axes(model_axes, targets=self.targets) if self.rank else model_axes

  @property
  def shapes(self) -> Params:
    """The shapes of the trained tree."""
    return jax.eval_shape(self.init, jax.random.key(0))

  def init(self, key: jax.Array) -> Params:
    """Returns the trained tree before any step, float32; new adapters change nothing."""
    model = students.of(self.config)
    if not self.rank:
      return model.init(self.config, key)
    axes, shapes = model.axes(self.config), model.shapes(self.config)
    return lora.init(key, axes, shapes, rank=self.rank, targets=self.targets)

  def merge(self, frozen: Any, trained: Params) -> Params:
    """Returns the parameters the model computes with. `frozen` is () without adapters."""
    return lora.attach(frozen, trained, self.scale) if self.rank else trained

  @property
  def frozen_shapes(self) -> Params:
    """The shapes of the weights below the adapters.

    Weights of products have the compute dtype, which they would be cast to anyway, or 4 bits; norms
    and biases are float32.

    Raises:
      ValueError: The model has weights that cannot have 4 bits.
    """

    def shape(path: Sequence[Any], x: jax.ShapeDtypeStruct, axes: tuple[str | None, ...]) -> Any:
      name = str(path[-1].key)
      if self.base and quantized.covers(name, axes):
        try:
          return quantized.nf4_shape(x.shape, axes)
        except ValueError as error:
          raise ValueError(f"weight {name} has {error}") from None
      is_exact = name.endswith(("norm", "bias"))
      return jax.ShapeDtypeStruct(x.shape, jnp.float32 if is_exact else self.config.dtype)

    model = students.of(self.config)
    return jax.tree.map_with_path(shape, model.shapes(self.config), model.axes(self.config))

  def frozen_shardings(self, mesh: jax.sharding.Mesh) -> Any:
    """Returns the NamedShardings of the weights below the adapters; () without adapters."""
    if not self.rank:
      return ()
    axes = students.of(self.config).axes(self.config)
    return sharding.of_params(mesh, axes, self.frozen_shapes)
