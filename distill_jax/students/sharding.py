"""Where arrays live: a mesh, and one table from logical axes to mesh axes.

What pjit used to mean: jax.jit of a pure function on arrays that carry a NamedSharding. Mesh axes:
data (copies of the weights, parts of the batch), fsdp (parts of both), tensor (parts of heads, MLP,
vocabulary).
"""

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

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


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices=None) -> jax.sharding.Mesh:
  """A mesh over `devices` (all, if None); one size may be -1: what is left.

  Raises ValueError if the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [data, fsdp, tensor]
  if sizes.count(-1) > 1:
    raise ValueError(f"mesh {tuple(sizes)}: only one size can be -1")
  if any(size < 1 and size != -1 for size in sizes):
    raise ValueError(f"mesh {tuple(sizes)}: sizes are 1 or more, or -1 for what is left")
  if -1 in sizes:
    known = -data * fsdp * tensor
    sizes[sizes.index(-1)] = max(len(devices) // known, 1)
  if sizes[0] * sizes[1] * sizes[2] != len(devices):
    raise ValueError(
      f"a mesh of {tuple(sizes)} needs {sizes[0] * sizes[1] * sizes[2]} devices, "
      f"and there are {len(devices)}"
    )
  auto = (jax.sharding.AxisType.Auto,) * 3  # jax 0.10 defaults to Explicit; pjit meant Auto
  return jax.make_mesh(tuple(sizes), MESH_AXES, axis_types=auto, devices=devices)


def spec(axes) -> P:
  """The PartitionSpec of logical `axes` (names or None)."""
  return P(*(None if axis is None else RULES[axis] for axis in axes))


def _fits(mesh, shape, places) -> P:
  """Drops the mesh axes that do not divide a dimension: such a dimension is kept whole."""

  def size(place):
    names = (place,) if isinstance(place, str) else place
    total = 1
    for name in names:
      total *= mesh.shape[name]
    return total

  return P(
    *(p if p is None or n % size(p) == 0 else None for n, p in zip(shape, places, strict=True))
  )


def of_params(mesh, axes, shapes):
  """NamedShardings for a tree of `shapes`, from the tree of logical `axes` of the same
  structure."""
  return jax.tree.map(
    lambda a, s: NamedSharding(mesh, _fits(mesh, s.shape, spec(a))),
    axes,
    shapes,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def of_state(mesh, state_shapes, param_shardings, param_shapes):
  """Shardings of a train state: whatever mirrors the parameters (moments) lies as they do, the rest
  is everywhere."""
  structure = jax.tree.structure(param_shapes)
  mirrors = lambda node: jax.tree.structure(node) == structure
  place = lambda node: param_shardings if mirrors(node) else everywhere(mesh)
  return jax.tree.map(place, state_shapes, is_leaf=mirrors)


def everywhere(mesh) -> NamedSharding:
  return NamedSharding(mesh, P())


def batch(mesh) -> NamedSharding:
  """Rows over the data and fsdp axes; every other dimension whole."""
  return NamedSharding(mesh, spec(("batch",)))


def constrain(x, *axes):
  """Pins an activation to logical axes under the mesh in force (jax.set_mesh); without one, does
  nothing."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  return jax.lax.with_sharding_constraint(x, _fits(mesh, x.shape, spec(axes)))
