"""Weights of a Hugging Face directory, read straight to where they belong on a mesh.

Each tensor of a file is read once, a block at a time, and each block is cut into the pieces that
devices of this host hold; stacked layers are put one by one into the array that is already in its
place. So the host holds one tensor and one block, beside what its devices hold.
"""

import collections
import functools
import gc
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from distill_jax import errors
from distill_jax.machine import hf, hf_file

ALIGNED = 64  # bytes: from such an address on, a CPU device takes an array over without a copy


def load(folder, tensors, *, spare: str, prefix: str, like):
  """The parameters in a directory: in the structure, types and shardings of `like`.

  `tensors` say how each of theirs lies in ours (students/families/layout.py); names that match the
  regular expression `spare` are passed over; `prefix` may be there or not. Raises UserError, before
  anything is read, if a tensor is missing, has another shape, is not of floats or is not ours.
  """
  stored = match(folder, tensors, spare=spare, prefix=prefix)
  of_path = collections.defaultdict(list)
  for tensor in tensors:
    of_path[tensor.path].append(tensor)

  def array(keys, x):
    path = tuple(key.key for key in keys)
    return _array(path, of_path[path], stored, x)

  return jax.tree.map_with_path(array, like)


def match(folder, tensors, *, spare: str, prefix: str) -> dict[str, hf_file.Entry]:
  """Where each of `tensors` is stored, by its name. Reads no weights; raises UserError as `load`
  does."""
  *_, files = hf.describe(folder)
  bare = lambda name: name.removeprefix(prefix)
  found = collections.defaultdict(list)  # by the name without prefix
  for file in files:
    for name, entry in hf_file.entries(file).items():
      found[bare(name)].append((name, entry))
  wanted = {tensor.name: tensor for tensor in tensors}
  ours = {bare(name) for name in wanted}
  spared = lambda name: re.fullmatch(spare, name) or re.fullmatch(spare, prefix + name)
  stored = {name: found[bare(name)][0][1] for name in wanted if bare(name) in found}
  faults = {
    "lacks": [name for name in wanted if name not in stored],
    "holds what its config.json does not tell of:": [
      name
      for short, places in found.items()
      for name, _ in places
      if short not in ours and not spared(name)
    ],
    "holds twice": [found[name][0][0] for name in ours if len(found[name]) > 1],
    "holds in another shape": [
      f"{name} ({list(x.shape)}, wanted {list(wanted[name].shape)})"
      for name, x in stored.items()
      if x.shape != wanted[name].shape
    ],
    "holds in a type that is not read": [
      f"{name} ({x.kind}, wanted {', '.join(hf_file.FLOATS)})"
      for name, x in stored.items()
      if x.kind not in hf_file.FLOATS
    ],
  }
  told = [f"{fault} {hf.some(names)}" for fault, names in faults.items() if names]
  if told:
    where = files[0] if len(files) == 1 else pathlib.Path(folder)
    raise errors.data(
      f"{where} {'; '.join(told)}: weights and config.json must be those of one model"
    )
  return stored


def _array(path, tensors, stored, like):
  """One of our arrays, from all tensors that are layers of it, or from the one that it is."""
  layers = [tensor.layer for tensor in tensors]
  stacked = layers != [None]
  inner_shape = like.shape[1:] if stacked else like.shape
  if stacked and sorted(layers) != list(range(like.shape[0])):
    raise ValueError(f"{path} has {like.shape[0]} layers, and the tensors are layers {layers}")
  if any(tensor.ours != inner_shape for tensor in tensors):
    raise ValueError(f"{path} is {inner_shape}, and the tensors say {tensors[0].ours}")
  if not stacked:
    return _piecewise(tensors[0], stored[tensors[0].name], like.dtype, like.sharding)
  inner = _inner(like.sharding)
  stack = _empty(like.shape, like.dtype, like.sharding)()
  for tensor in tensors:
    array = _piecewise(tensor, stored[tensor.name], like.dtype, inner)
    stack = _put(like.sharding)(stack, array, tensor.layer).block_until_ready()
    del array
    gc.collect(0)  # jax lets go of memory it took over when Python collects, not before
  return stack


def _inner(sharding):
  """The sharding of one layer of a stack."""
  if not isinstance(sharding, NamedSharding):
    return sharding
  front, *rest = sharding.spec or (None,)
  if front is not None:
    raise ValueError(f"layers are spread over {front}")
  return NamedSharding(sharding.mesh, P(*rest))


@functools.cache
def _empty(shape, dtype, sharding):
  return jax.jit(functools.partial(jnp.zeros, shape, dtype), out_shardings=sharding)


@functools.cache
def _put(sharding):
  """stack, array, n -> the stack with the array as its n-th: one compilation a shape."""
  put = lambda stack, array, n: jax.lax.dynamic_update_index_in_dim(stack, array, n, 0)
  return jax.jit(put, donate_argnums=0, out_shardings=sharding)


def _piecewise(tensor, entry, dtype, sharding):
  """A tensor as ours, on its devices; only what devices of this host hold is read."""
  shape = tensor.ours
  boxes = {
    device: tuple(s.indices(size)[:2] for s, size in zip(index, shape, strict=True))
    for device, index in sharding.addressable_devices_indices_map(shape).items()
  }
  pieces = {box: _room([b - a for a, b in box], dtype) for box in boxes.values()}
  union = [
    (min(a), max(b)) for a, b in (zip(*sides, strict=True) for sides in zip(*pieces, strict=True))
  ]
  for block_box, block in _as_ours(tensor, entry, union):
    for box, piece in pieces.items():
      common = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(box, block_box, strict=True)]
      if all(a < b for a, b in common):
        piece[_within(box, common)] = block[_within(block_box, common)]
  arrays = [jax.device_put(pieces[box], device) for device, box in boxes.items()]
  return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def _as_ours(tensor, entry, box):
  """(box, array) of the blocks that make up `box` of a tensor, all in the order of ours."""
  parts = [size for dimension in tensor.split for size in dimension]
  place, front = [None] * len(parts), ()
  for n, side in zip(tensor.order, box, strict=True):
    place[n] = side
  if tensor.part is not None:
    left_out, index = tensor.part
    place[left_out], front = (index, index + 1), (left_out,)
  for found, block in hf_file.blocks(entry, parts, place):
    array = block.transpose((*front, *tensor.order))
    yield [found[n] for n in tensor.order], array[0] if front else array


def _within(box, common):
  """`common` as slices of an array that holds `box`."""
  return tuple(slice(a - start, b - start) for (start, _), (a, b) in zip(box, common, strict=True))


def _room(shape, dtype) -> np.ndarray:
  """An array that nobody else holds, at an address that spares a copy."""
  size = math.prod(shape) * np.dtype(dtype).itemsize
  raw = np.empty(size + ALIGNED, np.uint8)
  start = -raw.ctypes.data % ALIGNED
  return raw[start : start + size].view(dtype).reshape(shape)
