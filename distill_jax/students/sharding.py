"""Where arrays are placed: a mesh, and one table from logical axes to mesh axes.

Everything is jax.jit of a pure function on arrays that carry a NamedSharding. Mesh axes: data
(copies of the weights, parts of the batch), fsdp (parts of both), tensor (parts of heads, MLP and
vocabulary).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
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


def platform() -> str:
  """Returns cpu, gpu or tpu: where programs for the current mesh run, or the default devices.

  The devices of a mesh may be of another kind than this machine's, when a program is only compiled.
  """
  mesh = jax.sharding.get_abstract_mesh()
  device = None if mesh.empty else mesh.abstract_device
  name = device.platform if device else jax.default_backend()
  return "gpu" if name in ("cuda", "rocm") else name


def spec(axes: Sequence[str | None]) -> P:
  """Returns the PartitionSpec of logical axes."""
  return P(*(None if axis is None else RULES[axis] for axis in axes))


def partition(mesh: Any, shape: Sequence[int], axes: Sequence[str | None]) -> P:
  """Returns the PartitionSpec of an array.

  A dimension that its mesh axes do not divide is not split.
  """

  def parts(names: Any) -> int:
    return math.prod(mesh.shape[n] for n in ((names,) if isinstance(names, str) else names))

  return P(
    *(
      names if names is None or size % parts(names) == 0 else None
      for size, names in zip(shape, spec(axes), strict=True)
    )
  )


def undivided(mesh: Mesh, axes: Params, shapes: Params) -> dict[str, list[str]]:
  """Returns what the mesh cannot split: {"tensor=4": ["heads (14)", ...]}."""
  found: dict[str, dict[str, None]] = {}

  def note(names_of: tuple[str | None, ...], x: Any) -> None:
    for axis, size, kept in zip(names_of, x.shape, partition(mesh, x.shape, names_of), strict=True):
      wanted = None if axis is None else RULES[axis]
      if isinstance(wanted, str) and kept is None:
        found.setdefault(f"{wanted}={mesh.shape[wanted]}", {})[f"{axis} ({size})"] = None

  jax.tree.map(note, axes, shapes, is_leaf=lambda x: isinstance(x, tuple))
  return {names: list(sizes) for names, sizes in found.items()}


def of_params(mesh: Mesh, axes: Params, shapes: Params) -> Params:
  """Returns the NamedShardings of parameters.

  Args:
    mesh: The mesh.
    axes: The logical axes of every parameter.
    shapes: The shape of every parameter, in the same structure; or several shapes with its axes, of
      a quantized one.
  """

  def place(of: tuple[str | None, ...], shape: Any) -> Any:
    return jax.tree.map(lambda x: NamedSharding(mesh, partition(mesh, x.shape, of)), shape)

  return jax.tree.map(place, axes, shapes, is_leaf=lambda x: isinstance(x, tuple))


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


# Memory of accelerators, GiB, by the start of their kind.
MEMORY_GIB = {"TPU v4": 32, "TPU v5 lite": 16, "TPU v5": 95, "TPU v6 lite": 32}
DECODE_SHARE = 0.4  # of the memory, for weights that every device holds whole


def has_fsdp() -> bool:
  """Returns whether the current mesh splits weights over fsdp."""
  mesh = jax.sharding.get_abstract_mesh()
  return not mesh.empty and mesh.shape["fsdp"] > 1


def decodes_whole(shapes: Callable[[Any], Params], config: Any) -> bool:
  """Returns whether decoding on the current mesh gathers the weights once, and holds them whole.

  Weights that are split over fsdp would otherwise travel for every token. Whole weights, in the
  compute dtype and split over `tensor` only, may fill DECODE_SHARE of the memory.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if not has_fsdp():
    return False
  numbers = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes(config)))
  size = numbers * jax.numpy.dtype(config.dtype).itemsize / mesh.shape["tensor"]
  available = _memory_bytes(mesh.abstract_device.device_kind if mesh.abstract_device else "")
  return available is None or size <= DECODE_SHARE * available


def _memory_bytes(kind: str) -> float | None:
  """Returns the memory of a kind of device; None if it is unknown."""
  here = jax.local_devices()[0]
  stats = here.memory_stats() if here.device_kind == kind else None
  if stats and "bytes_limit" in stats:
    return stats["bytes_limit"]
  for start in sorted(MEMORY_GIB, key=len, reverse=True):
    if kind.startswith(start):
      return MEMORY_GIB[start] * 2.0**30
  for word in kind.replace("-", " ").split():
    if word.endswith("GB") and word[:-2].isdigit():
      return int(word[:-2]) * 1e9
  return None


def gather_over_fsdp(params: Params, axes: Params) -> Params:
  """Pins parameters to their axes without fsdp, under the current mesh."""

  def pin(x: jax.Array, of: tuple[str | None, ...]) -> jax.Array:
    return constrain(x, *(None if axis == "embed" else axis for axis in of))

  return {
    name: gather_over_fsdp(x, axes[name]) if isinstance(x, dict) else pin(x, axes[name])
    for name, x in params.items()
  }


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of an array that every device holds whole."""
  return NamedSharding(mesh, P())


def batch(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of a batch: rows are split over data and fsdp."""
  return NamedSharding(mesh, spec(("batch",)))


def put(tree: Any, sharding: NamedSharding) -> Any:
  """Puts NumPy arrays, which every process has whole, on the devices.

  With several processes, `jax.device_put` would first compare what they have, over the network.
  """
  if sharding.is_fully_addressable:
    return jax.device_put(tree, sharding)
  return jax.tree.map(
    lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index]), tree
  )


def to_host(tree: Any) -> Any:
  """Returns arrays as NumPy arrays; those that other processes hold a part of are gathered."""
  leaves = jax.tree.leaves(tree)
  if not all(x.is_fully_addressable or x.is_fully_replicated for x in leaves):
    tree = _gather(replicated(leaves[0].sharding.mesh))(tree)
  return jax.tree.map(np.asarray, tree)


@functools.lru_cache(maxsize=4)
def _gather(sharding: NamedSharding) -> Callable[[Any], Any]:
  return jax.jit(lambda tree: tree, out_shardings=sharding)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """Pins an activation to logical axes under the current mesh (jax.set_mesh), if there is one."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  return jax.lax.with_sharding_constraint(x, partition(mesh, x.shape, axes))


def local(function: Callable[..., Any], inputs: Any, outputs: Any) -> Callable[..., Any]:
  """Returns `function` run on each device's parts of the arrays, under the current mesh.

  Args:
    function: Computes on parts; it names the mesh axes it communicates over.
    inputs: The PartitionSpecs of its arguments.
    outputs: Those of its result.
  """
  return jax.shard_map(function, in_specs=inputs, out_specs=outputs, check_vma=False)
