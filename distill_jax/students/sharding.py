"""Where arrays are placed: a mesh, and one table from logical axes to mesh axes.

Everything is jax.jit of a pure function on arrays that carry a NamedSharding. Mesh axes: data
(copies of the weights, parts of the batch), fsdp (parts of both), tensor (parts of heads, MLP and
vocabulary).
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from distill_jax.students.types import Params

MESH_AXES = ("data", "fsdp", "tensor")

RULES = {
  "batch": ("data", "fsdp"),
  "embed": "fsdp",
  "mlp": "tensor",
  "heads": "tensor",
  "groups": "tensor",
  "vocab": "tensor",
  "layers": None,
  "norm": None,
}


def make_mesh(
  data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
  """Returns a mesh over `devices` (None: all); one size may be -1 and takes all that are left.

  Raises:
    ValueError: The sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [data, fsdp, tensor]
  if sizes.count(-1) > 1:
    raise ValueError(f"mesh {tuple(sizes)}: only one size can be -1")
  if any(size < 1 and size != -1 for size in sizes):
    raise ValueError(f"mesh {tuple(sizes)}: sizes must be 1 or more, or -1 for all that are left")
  if -1 in sizes:
    known = -data * fsdp * tensor
    sizes[sizes.index(-1)] = max(len(devices) // known, 1)
  if math.prod(sizes) != len(devices):
    raise ValueError(
      f"a mesh of {tuple(sizes)} needs {math.prod(sizes)} devices, and there are {len(devices)}"
    )
  auto = (jax.sharding.AxisType.Auto,) * 3  # jax 0.10 defaults to Explicit
  return jax.make_mesh(tuple(sizes), MESH_AXES, axis_types=auto, devices=devices)


def spec(axes: Sequence[str | None]) -> P:
  """Returns the PartitionSpec of logical axes."""
  return P(*(None if axis is None else RULES[axis] for axis in axes))


def _divisible(mesh: Any, shape: Sequence[int], partition: P) -> P:
  """Drops the mesh axes that do not divide a dimension: such a dimension is not split."""

  def parts(names: Any) -> int:
    return math.prod(mesh.shape[n] for n in ((names,) if isinstance(names, str) else names))

  return P(
    *(
      names if names is None or size % parts(names) == 0 else None
      for size, names in zip(shape, partition, strict=True)
    )
  )


def of_params(mesh: Mesh, axes: Params, shapes: Params) -> Params:
  """Returns the NamedShardings of parameters.

  Args:
    mesh: The mesh.
    axes: The logical axes of every parameter.
    shapes: The shape of every parameter, in the same structure.
  """
  return jax.tree.map(
    lambda a, x: NamedSharding(mesh, _divisible(mesh, x.shape, spec(a))),
    axes,
    shapes,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def of_state(mesh: Mesh, state: Any, param_shardings: Params, params: Params) -> Any:
  """Returns the shardings of an optimizer state.

  Whatever has the structure of the parameters (moments) is placed like them, the rest is
  replicated.
  """
  structure = jax.tree.structure(params)

  def mirrors_params(node: Any) -> bool:
    return jax.tree.structure(node) == structure

  return jax.tree.map(
    lambda node: param_shardings if mirrors_params(node) else replicated(mesh),
    state,
    is_leaf=mirrors_params,
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of an array that every device holds whole."""
  return NamedSharding(mesh, P())


def batch(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of a batch: rows are split over data and fsdp."""
  return NamedSharding(mesh, spec(("batch",)))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """Pins an activation to logical axes under the current mesh (jax.set_mesh), if there is one."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  return jax.lax.with_sharding_constraint(x, _divisible(mesh, x.shape, spec(axes)))
