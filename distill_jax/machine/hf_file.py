"""Reads and writes safetensors files in blocks.

  8 bytes: length of the header | header: JSON, {name: dtype, shape, offsets} | arrays, in C order

The safetensors package validates the header. The arrays are read and written here, a few megabytes
at a time, because a mapped file counts as memory, page by page, and because the package's NumPy
writer stores a transposed array as if it were not transposed.
"""

import hashlib
import itertools
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors

from distill_jax import disk, errors

FLOATS: dict[str, np.dtype[Any]] = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(jnp.bfloat16),
}
# Per type: an integer of the same size, and the bits of the least number that is infinite in
# float32 (of F64: 2^128 - 2^103). Without signs, bits are ordered like numbers, with NaN last;
# comparing them is as fast as reading, for every type.
_INFINITE: dict[str, tuple[np.dtype[Any], int]] = {
  "F64": (np.dtype(np.uint64), 0x47EF_FFFF_F000_0000),
  "F32": (np.dtype(np.uint32), 0x7F80_0000),
  "F16": (np.dtype(np.uint16), 0x7C00),
  "BF16": (np.dtype(np.uint16), 0x7F80),
}
KINDS = {dtype: kind for kind, dtype in FLOATS.items()}
BLOCK = 4 * 2**20  # bytes per read: large enough to be fast, small enough for the CPU cache

Box = Sequence[tuple[int, int]]  # (start, stop) per dimension


class Entry(NamedTuple):
  """A tensor in a file."""

  file: pathlib.Path
  kind: str  # the type as safetensors names it, for example F32
  shape: tuple[int, ...]
  start: int  # offset in the file, in bytes


def entries(file: pathlib.Path) -> dict[str, Entry]:
  """Returns the tensors in a file, by name. Raises UserError if it is missing or damaged."""
  try:
    if disk.is_lfs_pointer(file):
      raise errors.data(f"{file} is a Git LFS pointer, not the weights; run `git lfs pull` there")
    with safetensors.safe_open(file, framework="np"):  # validates types, shapes and offsets
      pass
    with open(file, "rb") as opened:
      length = int.from_bytes(opened.read(8), "little")
      header = json.loads(opened.read(length))
  except (OSError, ValueError, RecursionError, safetensors.SafetensorError) as error:
    raise errors.data(
      f"{file} is damaged, truncated or unreadable ({error}); download or write it again"
    ) from None
  header.pop("__metadata__", None)
  return {
    name: Entry(file, x["dtype"], tuple(x["shape"]), 8 + length + x["data_offsets"][0])
    for name, x in header.items()
  }


def check_finite(name: str, entry: Entry, block: np.ndarray) -> None:
  """Checks that a block of a tensor, in the type of the file, has finite numbers only.

  They must be finite in float32, which a student computes in.

  Raises:
    UserError: It has not; the message names the tensor.
  """
  dtype, infinite = _INFINITE[entry.kind]
  if block.size and (block.view(dtype) & (np.iinfo(dtype).max >> 1)).max() >= infinite:
    raise errors.data(
      f"{entry.file}: tensor {name} has values that are not finite in float32; a student cannot "
      "start from it: download or train the model again"
    )


def digest(file: pathlib.Path, tensors: Mapping[str, Entry]) -> bytes:
  """Returns the SHA-256 of a file, read once and in order.

  Args:
    file: The file.
    tensors: Tensors in it whose numbers must be finite, by name.

  Raises:
    UserError: The file cannot be read, or a number is not finite.
  """
  total, position = hashlib.sha256(), 0
  buffer = memoryview(bytearray(BLOCK))
  by_start = sorted(tensors.items(), key=lambda item: item[1].start)
  try:
    with disk.open_regular(file) as opened:
      for name, entry in by_start:
        end = entry.start + math.prod(entry.shape) * FLOATS[entry.kind].itemsize
        for stop, is_tensor in ((entry.start, False), (end, True)):
          while position < stop:
            part = buffer[: min(BLOCK, stop - position)]
            if opened.readinto(part) != len(part):
              raise errors.data(f"{file} became shorter while it was read; download it again")
            total.update(part)
            position += len(part)
            if is_tensor:
              check_finite(name, entry, np.frombuffer(part, np.uint8))
      while count := opened.readinto(buffer):
        total.update(buffer[:count])
  except OSError as error:
    raise errors.data(f"{file} cannot be read ({error.strerror}); download it again") from None
  return total.digest()


def blocks(
  entry: Entry, shape: Sequence[int], box: Box
) -> Iterator[tuple[list[tuple[int, int]], np.ndarray]]:
  """Reads a part of a tensor in blocks of at most about BLOCK bytes.

  Args:
    entry: The tensor.
    shape: The shape to view it in; it has as many elements as the tensor.
    box: The part to read.

  Yields:
    (box, array) for each block; the array has the type that is stored in the file.
  """
  dtype = FLOATS[entry.kind]
  strides = [math.prod(shape[n + 1 :]) * dtype.itemsize for n in range(len(shape))]  # bytes
  axis = next(n for n, size in enumerate(strides) if size <= BLOCK)  # blocks split this axis
  count = BLOCK // strides[axis]
  first, last = box[axis]
  inner = (..., *(slice(*b) for b in box[axis + 1 :]))
  for outer in itertools.product(*(range(*b) for b in box[:axis])):
    for start in range(first, last, count):
      stop = min(start + count, last)
      offset = sum(n * size for n, size in zip((*outer, start), strides, strict=False))
      block = _read(entry.file, entry.start + offset, (stop - start) * strides[axis])
      array = block.view(dtype).reshape((1,) * axis + (stop - start, *shape[axis + 1 :]))
      yield [*((n, n + 1) for n in outer), (start, stop), *box[axis + 1 :]], array[inner]


def _read(file: pathlib.Path, start: int, count: int) -> np.ndarray:
  try:
    block = np.fromfile(file, np.uint8, count, offset=start)
  except OSError as error:
    raise errors.data(f"{file} cannot be read ({error.strerror}); download it again") from None
  if len(block) != count:
    raise errors.data(f"{file} became shorter while it was read; download it again")
  return block


def write(
  file: pathlib.Path,
  dtype: np.dtype[Any],
  shapes: Mapping[str, tuple[int, ...]],
  array_of: Callable[[str], np.ndarray],
) -> None:
  """Writes arrays of one type, then reads them back and compares.

  Args:
    file: The file.
    dtype: The type of the arrays.
    shapes: {name: shape}.
    array_of: Returns the array of a name. It is called once per name, in order, so only one array
      is in memory at a time.

  Raises:
    UserError: The arrays that are read back differ from those written.
  """
  sizes = {name: math.prod(shape) * dtype.itemsize for name, shape in shapes.items()}
  ends = dict(zip(sizes, itertools.accumulate(sizes.values()), strict=True))
  header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers requires a format
  for name, shape in shapes.items():
    offsets = [ends[name] - sizes[name], ends[name]]
    header[name] = {"dtype": KINDS[dtype], "shape": list(shape), "data_offsets": offsets}
  text = json.dumps(header, separators=(",", ":")).encode()
  text = text.ljust(8 * math.ceil(len(text) / 8))  # aligned to 8 bytes
  digests = {}
  with open(file, "wb") as opened:
    opened.write(len(text).to_bytes(8, "little") + text)
    for name, shape in shapes.items():
      array = np.ascontiguousarray(array_of(name), dtype)
      if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
      content = array.reshape(-1).view(np.uint8)
      digests[name] = hashlib.sha256(content.data).digest()
      opened.write(content.data)
      del array, content  # frees the memory before the next array is requested
  _compare(file, dtype, shapes, digests)


def _compare(
  file: pathlib.Path,
  dtype: np.dtype[Any],
  shapes: Mapping[str, tuple[int, ...]],
  digests: Mapping[str, bytes],
) -> None:
  """Raises UserError unless the file holds the arrays with these digests."""
  stored = entries(file)
  if {name: (x.kind, x.shape) for name, x in stored.items()} != {
    name: (KINDS[dtype], tuple(shape)) for name, shape in shapes.items()
  }:
    raise errors.data(f"{file} does not hold the tensors that were written; check the disk")
  for name, entry in stored.items():
    size = math.prod(entry.shape)
    digest = hashlib.sha256()
    for _, block in blocks(entry, (size,), [(0, size)]):
      digest.update(block.view(np.uint8).data)
    if digest.digest() != digests[name]:
      raise errors.data(f"{file}: tensor {name} does not read back as written; check the disk")
