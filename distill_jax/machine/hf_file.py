"""One safetensors file: what it holds, pieces of it, and how one is written.

  8 bytes: length of the header | header: JSON, {name: dtype, shape, place} | the arrays, in C order

The header is judged by the safetensors package; the arrays are read and written here, a few
megabytes at a time: a mapped file counts as memory, page by page, and the package's NumPy writer
stores a transposed array as if it were not transposed.
"""

import hashlib
import itertools
import json
import math
import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors

from distill_jax import errors

FLOATS = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(jnp.bfloat16),
}
KINDS = {dtype: kind for kind, dtype in FLOATS.items()}
BLOCK = 4 * 2**20  # bytes read at once: enough to be fast, few enough to stay in the cache


class Entry(NamedTuple):
  """A tensor in a file."""

  file: pathlib.Path
  kind: str  # as the format calls the type: F32
  shape: tuple[int, ...]
  start: int  # byte of the file


def entries(file: pathlib.Path) -> dict[str, Entry]:
  """What a file holds, by name. Raises UserError if it is missing, cut short or damaged."""
  try:
    with safetensors.safe_open(file, framework="np"):  # checks every type, shape and place
      pass
    with open(file, "rb") as opened:
      length = int.from_bytes(opened.read(8), "little")
      header = json.loads(opened.read(length))
  except (OSError, ValueError, RecursionError, safetensors.SafetensorError) as error:
    raise errors.data(
      f"{file} is damaged, cut short or not to be read ({error}): fetch or write it again"
    ) from None
  header.pop("__metadata__", None)
  return {
    name: Entry(file, x["dtype"], tuple(x["shape"]), 8 + length + x["data_offsets"][0])
    for name, x in header.items()
  }


def blocks(entry: Entry, parts, box):
  """The piece `box` of a tensor, taken as an array of shape `parts`, in blocks of some BLOCK bytes.

  A box is a (start, stop) a dimension. Yields (box, array) of each block, in the file's type.
  """
  dtype = FLOATS[entry.kind]
  steps = [math.prod(parts[n + 1 :]) * dtype.itemsize for n in range(len(parts))]  # bytes
  axis = next(n for n, size in enumerate(steps) if size <= BLOCK)
  count = BLOCK // steps[axis]
  first, last = box[axis]
  inner = (..., *(slice(*b) for b in box[axis + 1 :]))
  for place in itertools.product(*(range(*b) for b in box[:axis])):
    for start in range(first, last, count):
      stop = min(start + count, last)
      offset = sum(n * size for n, size in zip((*place, start), steps, strict=False))
      block = _read(entry.file, entry.start + offset, (stop - start) * steps[axis])
      array = block.view(dtype).reshape((1,) * axis + (stop - start, *parts[axis + 1 :]))
      yield [*((n, n + 1) for n in place), (start, stop), *box[axis + 1 :]], array[inner]


def _read(file: pathlib.Path, start: int, count: int) -> np.ndarray:
  try:
    block = np.fromfile(file, np.uint8, count, offset=start)
  except OSError as error:
    raise errors.data(f"{file} cannot be read ({error.strerror}): fetch it again") from None
  if len(block) != count:
    raise errors.data(f"{file} became shorter while it was read: fetch it again")
  return block


def write(file: pathlib.Path, dtype: np.dtype, shapes, array_of) -> None:
  """Writes arrays of one type, then reads them back and compares.

  `shapes` by name; `array_of(name)` is asked once for each, in turn, so that one array at a time is
  in memory. Raises UserError if something else is read than was written.
  """
  sizes = {name: math.prod(shape) * dtype.itemsize for name, shape in shapes.items()}
  ends = dict(zip(sizes, itertools.accumulate(sizes.values()), strict=True))
  header = {"__metadata__": {"format": "pt"}}  # transformers wants to be told whose layout it is
  for name, shape in shapes.items():
    place = [ends[name] - sizes[name], ends[name]]
    header[name] = {"dtype": KINDS[dtype], "shape": list(shape), "data_offsets": place}
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  digests = {}
  with open(file, "wb") as opened:
    opened.write(len(text).to_bytes(8, "little") + text)
    for name, shape in shapes.items():
      array = np.ascontiguousarray(array_of(name), dtype)
      if array.shape != shape:
        raise ValueError(f"{name} is {array.shape} and was announced as {shape}")
      content = array.reshape(-1).view(np.uint8)
      digests[name] = hashlib.sha256(content).digest()
      opened.write(content)
      del array, content  # before the next one is asked for
  _compare(file, dtype, shapes, digests)


def _compare(file: pathlib.Path, dtype: np.dtype, shapes, digests) -> None:
  found = entries(file)
  if {name: (x.kind, x.shape) for name, x in found.items()} != {
    name: (KINDS[dtype], tuple(shape)) for name, shape in shapes.items()
  }:
    raise errors.data(f"{file} does not hold the tensors that were written: is the disk sound?")
  for name, entry in found.items():
    flat = (math.prod(entry.shape),)
    digest = hashlib.sha256()
    for _, block in blocks(entry, flat, [(0, *flat)]):
      digest.update(block.view(np.uint8))
    if digest.digest() != digests[name]:
      raise errors.data(
        f"{file}: tensor {name} did not read back as it was written: is the disk sound?"
      )
