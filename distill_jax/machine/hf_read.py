"""Loads the weights of a Hugging Face directory directly onto the devices of a mesh.

Each tensor is read once, a block at a time, and each block is cut into the pieces that the devices
of this host hold. Stacked layers are written one by one into an array that is already sharded.
Besides the memory of its devices, the host needs memory for one tensor and one block.
"""

import collections
import functools
import gc
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, Sharding
from jax.sharding import PartitionSpec as P

from distill_jax import errors
from distill_jax.machine import hf, hf_file

ALIGNMENT = 64  # bytes: a CPU device adopts an array at such an address without a copy

Box = Sequence[tuple[int, int]]
Path = str | os.PathLike[str]


def load(
  directory: Path,
  tensors: Iterable[hf.Tensor],
  *,
  spare: str,
  prefix: str,
  like: Any,
  ties: Sequence[str] = (),
  finish: Callable[[tuple[str, ...], jax.Array], Any] = lambda path, array: array,
) -> Any:
  """Loads the parameters in a directory.

  Args:
    directory: The directory.
    tensors: How each stored tensor maps to our parameters.
    spare: Regular expression for names of stored tensors to ignore.
    prefix: Prefix of the names that a directory may or may not have.
    like: Pytree of arrays or jax.ShapeDtypeStruct with shardings.
    ties: Names of one tensor; a directory may hold it under any of them.
    finish: (path, array) -> what takes the place of an array, called as soon as it is loaded.

  Returns:
    A pytree with the structure, types and shardings of `like`.

  Raises:
    UserError: A tensor is missing, unexpected, not a float or has another shape. Raised before
      any weights are read.
  """
  tensors = list(tensors)
  stored = match(directory, tensors, spare=spare, prefix=prefix, ties=ties)
  by_path: dict[tuple[str, ...], list[hf.Tensor]] = collections.defaultdict(list)
  for tensor in tensors:
    by_path[tensor.path].append(tensor)

  def array(keys: Sequence[Any], x: Any) -> Any:
    path = tuple(key.key for key in keys)
    return finish(path, _load_array(path, by_path[path], stored, x))

  return jax.tree.map_with_path(array, like)


def match(
  directory: Path,
  tensors: Iterable[hf.Tensor],
  *,
  spare: str,
  prefix: str,
  ties: Sequence[str] = (),
) -> dict[str, hf_file.Entry]:
  """Returns where each of `tensors` is stored, by name, without reading weights.

  Arguments and errors are those of `load`.
  """

  def bare(name: str) -> str:
    return name.removeprefix(prefix)

  def is_spare(name: str) -> bool:
    return bool(re.fullmatch(spare, name) or re.fullmatch(spare, prefix + name))

  *_, files = hf.describe(directory)
  found = _find(files, prefix)
  if ties and bare(ties[0]) not in found:  # under another of its names
    others = [found[bare(name)] for name in ties[1:] if bare(name) in found]
    found |= {bare(ties[0]): others[0]} if others else {}
  expected = {tensor.name: tensor for tensor in tensors}
  known = {bare(name) for name in expected}
  stored = {name: found[bare(name)][0][1] for name in expected if bare(name) in found}
  faults = {
    "lacks": [name for name in expected if name not in stored],
    "has tensors that its config.json does not describe:": [
      name
      for short, same in found.items()
      for name, _ in same
      if short not in known and not is_spare(name)
    ],
    "has two copies of": [
      same[0][0] for short, same in found.items() if short in known and len(same) > 1
    ],
    "has another shape for": [
      f"{name} ({list(x.shape)}, expected {list(expected[name].shape)})"
      for name, x in stored.items()
      if x.shape != expected[name].shape
    ],
    "has an unsupported type for": [
      f"{name} ({x.kind}, expected {', '.join(hf_file.FLOATS)})"
      for name, x in stored.items()
      if x.kind not in hf_file.FLOATS
    ],
  }
  messages = [f"{fault} {hf.shorten(names)}" for fault, names in faults.items() if names]
  if messages:
    where = files[0] if len(files) == 1 else pathlib.Path(directory)
    raise errors.data(
      f"{where} {'; '.join(messages)}; weights and config.json must belong to the same model"
    )
  return stored


def _find(files: Iterable[pathlib.Path], prefix: str) -> dict[str, list[tuple[str, hf_file.Entry]]]:
  """{name without the prefix: (name, where it is stored) of each tensor with that name}."""
  found: dict[str, list[tuple[str, hf_file.Entry]]] = collections.defaultdict(list)
  for file in files:
    for name, entry in hf_file.entries(file).items():
      found[name.removeprefix(prefix)].append((name, entry))
  return dict(found)


def unequal(directory: Path, ties: Sequence[str], *, prefix: str) -> tuple[str, str] | None:
  """Returns the names of two tensors that should be the same one, but have other numbers.

  Args:
    directory: The directory.
    ties: Names of one tensor; None, one or several of them are stored.
    prefix: See `load`.

  Raises:
    UserError: A file cannot be read.
  """
  *_, files = hf.describe(directory)
  found = _find(files, prefix)
  copies = [copy for name in ties for copy in found.get(name.removeprefix(prefix), [])]
  for name, entry in copies[1:]:
    first = copies[0][1]
    if entry.shape != first.shape or not _same_numbers(first, entry):
      return copies[0][0], name
  return None


def _same_numbers(one: hf_file.Entry, other: hf_file.Entry) -> bool:
  """Whether two tensors of one shape have the same numbers, whatever their types."""
  if not {one.kind, other.kind} <= set(hf_file.FLOATS):
    return False  # `match` rejects these types
  # A block of the wider type is at most one block of the other.
  wide, narrow = sorted((one, other), key=lambda x: -hf_file.FLOATS[x.kind].itemsize)
  box = [(0, size) for size in one.shape]
  for part, block in hf_file.blocks(wide, wide.shape, box):
    for _, same in hf_file.blocks(narrow, narrow.shape, part):
      if not np.array_equal(block.astype(np.float64), same.astype(np.float64)):
        return False
  return True


def _load_array(
  path: tuple[str, ...],
  tensors: Sequence[hf.Tensor],
  stored: Mapping[str, hf_file.Entry],
  like: Any,
) -> jax.Array:
  """One of our arrays: from one tensor, or from all tensors that are its layers."""
  layers = [tensor.layer for tensor in tensors]
  indices = [layer for layer in layers if layer is not None]
  stacked = layers != [None]
  inner_shape = like.shape[1:] if stacked else like.shape
  if stacked and sorted(indices) != list(range(like.shape[0])):
    raise ValueError(f"{path} has {like.shape[0]} layers, and the tensors are layers {layers}")
  if any(tensor.ours != inner_shape for tensor in tensors):
    raise ValueError(f"{path} has shape {inner_shape}, and the tensors {tensors[0].ours}")
  if not stacked:
    return _load_tensor(tensors[0], stored[tensors[0].name], like.dtype, like.sharding)
  inner_sharding = _sharding_of_layer(like.sharding)
  stack = _zeros(like.shape, like.dtype, like.sharding)()
  for index, tensor in zip(indices, tensors, strict=True):
    array = _load_tensor(tensor, stored[tensor.name], like.dtype, inner_sharding)
    stack = _set_layer(like.sharding)(stack, array, index).block_until_ready()
    del array
    gc.collect(0)  # jax releases adopted memory only when Python collects garbage
  return stack


def _sharding_of_layer(sharding: Sharding) -> Sharding:
  """The sharding of one layer of a stack."""
  if not isinstance(sharding, NamedSharding):
    return sharding
  front, *rest = sharding.spec or (None,)
  if front is not None:
    raise ValueError(f"the layer axis is sharded over {front}")
  return NamedSharding(sharding.mesh, P(*rest))


@functools.cache
def _zeros(shape: tuple[int, ...], dtype: Any, sharding: Sharding) -> Callable[[], jax.Array]:
  return jax.jit(functools.partial(jnp.zeros, shape, dtype), out_shardings=sharding)


@functools.cache
def _set_layer(sharding: Sharding) -> Callable[[jax.Array, jax.Array, int], jax.Array]:
  """Returns a function that sets one layer of a stack; it compiles once per shape."""

  def set_layer(stack: jax.Array, array: jax.Array, index: int) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(stack, array, index, 0)

  return jax.jit(set_layer, donate_argnums=0, out_shardings=sharding)


def _load_tensor(
  tensor: hf.Tensor, entry: hf_file.Entry, dtype: Any, sharding: Sharding
) -> jax.Array:
  """One tensor in our layout, on its devices. Reads only what devices of this host hold."""
  shape = tensor.ours
  boxes = {
    device: tuple(_bounds(s, size) for s, size in zip(index, shape, strict=True))
    for device, index in sharding.addressable_devices_indices_map(shape).items()
    if index is not None
  }
  pieces = {box: _empty_aligned([b - a for a, b in box], dtype) for box in boxes.values()}
  union = [
    (min(a), max(b)) for a, b in (zip(*sides, strict=True) for sides in zip(*pieces, strict=True))
  ]
  for block_box, block in _blocks_in_our_layout(tensor, entry, union):
    for box, piece in pieces.items():
      common = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(box, block_box, strict=True)]
      if all(a < b for a, b in common):
        piece[_slices(box, common)] = block[_slices(block_box, common)]
  arrays = [jax.device_put(pieces[box], device) for device, box in boxes.items()]
  return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def _bounds(index: slice, size: int) -> tuple[int, int]:
  start, stop, _ = index.indices(size)
  return start, stop


def _blocks_in_our_layout(
  tensor: hf.Tensor, entry: hf_file.Entry, box: Box
) -> Iterator[tuple[list[tuple[int, int]], np.ndarray]]:
  """(box, array) of the blocks that cover a box of a tensor, both in the order of our axes."""
  shape = [size for dimension in tensor.split for size in dimension]
  stored_box = [(0, size) for size in shape]
  leading: tuple[int, ...] = ()
  for axis, side in zip(tensor.order, box, strict=True):
    stored_box[axis] = side
  if tensor.part is not None:
    axis, index = tensor.part
    stored_box[axis], leading = (index, index + 1), (axis,)
  for block_box, block in hf_file.blocks(entry, shape, stored_box):
    hf_file.check_finite(tensor.name, entry, np.ascontiguousarray(block))
    array = block.transpose((*leading, *tensor.order))
    yield [block_box[axis] for axis in tensor.order], array[0] if leading else array


def _slices(box: Box, common: Box) -> tuple[slice, ...]:
  """`common` as slices of an array that holds `box`."""
  return tuple(slice(a - start, b - start) for (start, _), (a, b) in zip(box, common, strict=True))


def _empty_aligned(shape: Sequence[int], dtype: Any) -> np.ndarray:
  """A new array at an address that a CPU device can adopt without a copy."""
  size = math.prod(shape) * np.dtype(dtype).itemsize
  raw = np.empty(size + ALIGNMENT, np.uint8)
  start = -raw.ctypes.data % ALIGNMENT
  return raw[start : start + size].view(dtype).reshape(shape)
