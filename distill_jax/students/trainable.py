"""What of a student is trained: all of its weights, or low-rank updates of some of them."""

import dataclasses

import jax
import jax.numpy as jnp

from distill_jax import students
from distill_jax.students import lora


@dataclasses.dataclass(frozen=True)
class Learner:
  """A config and how it is trained. rank 0: all weights are, and nothing is frozen.

  `axes` and `shapes` are of the trained tree: the parameters, or the adapters (students/lora.py).
  """

  config: object
  rank: int = 0
  scale: float = 1.0  # alpha / rank
  targets: tuple[str, ...] = ()

  @property
  def axes(self):
    every = students.of(self.config).axes(self.config)
    return lora.axes(every, targets=self.targets) if self.rank else every

  @property
  def shapes(self):
    return jax.eval_shape(self.fresh, jax.random.key(0))

  def fresh(self, key):
    """The trained tree before any step, float32: fresh weights, or updates that change nothing."""
    model = students.of(self.config)
    if not self.rank:
      return model.init(self.config, key)
    axes, shapes = model.axes(self.config), model.shapes(self.config)
    return lora.init(key, axes, shapes, rank=self.rank, targets=self.targets)

  def whole(self, frozen, trained):
    """The parameters the model computes with. `frozen` is () without low-rank updates."""
    return lora.attach(frozen, trained, self.scale) if self.rank else trained

  @property
  def frozen_shapes(self):
    """The weights beneath low-rank updates: products in the compute dtype, which they would be cast
    to anyway; norms and biases in float32."""

    def shape(path, x):
      exact = str(path[-1].key).endswith(("norm", "bias"))
      return jax.ShapeDtypeStruct(x.shape, jnp.float32 if exact else self.config.dtype)

    return jax.tree.map_with_path(shape, students.of(self.config).shapes(self.config))
