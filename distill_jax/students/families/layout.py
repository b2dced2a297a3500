"""How a Hugging Face tensor maps to an array of ours.

Its dimensions are split, one part may be indexed, and the rest is transposed to our order.

  q_proj.weight  [H*K, D]    split ((H, K), (D,))     parts 0 1 2    order (2, 0, 1)  q [D, H, K]
  c_attn.weight  [D, 3*H*K]  split ((D,), (3, H, K))  parts 0 1 2 3  order (0, 2, 3)  q [D, H, K]
                             and part (1, 0): index 0 of part 1
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Tensor(NamedTuple):
  """One of our arrays, or one layer of a stacked one, as a tensor of theirs or a part of it."""

  name: str  # theirs, e.g. model.layers.3.self_attn.q_proj.weight
  path: tuple[str, ...]  # ours, e.g. ("blocks", "q")
  layer: int | None  # index into the leading axis of ours; None: ours is not stacked
  split: tuple[tuple[int, ...], ...]  # the parts of each of their dimensions
  order: tuple[int, ...]  # numbers of the parts, in our order
  part: tuple[int, int] | None = None  # fused tensors: (the part that ours lacks, index into it)

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of theirs."""
    return tuple(math.prod(parts) for parts in self.split)

  @property
  def ours(self) -> tuple[int, ...]:
    """The shape of ours; of one layer if it is stacked."""
    parts = [size for dimension in self.split for size in dimension]
    return tuple(parts[n] for n in self.order)


def to_ours(tensor: Tensor, array: np.ndarray) -> np.ndarray:
  """Returns a view of their whole array in our layout."""
  parts = [size for dimension in tensor.split for size in dimension]
  array = array.reshape(parts)
  if tensor.part is None:
    return array.transpose(tensor.order)
  axis, index = tensor.part
  kept = [n for n in range(len(parts)) if n != axis]
  return array.take(index, axis=axis).transpose([kept.index(n) for n in tensor.order])


def to_theirs(tensors: Sequence[Tensor], arrays: Sequence[np.ndarray]) -> np.ndarray:
  """Returns their array, C-contiguous, from our arrays of all `tensors` that are parts of it."""
  first = tensors[0]
  parts = [size for dimension in first.split for size in dimension]
  out = np.empty(parts, arrays[0].dtype)
  for tensor, array in zip(tensors, arrays, strict=True):
    index: list[slice | int] = [slice(None)] * len(parts)
    kept = list(range(len(parts)))
    if tensor.part is not None:
      index[tensor.part[0]] = tensor.part[1]
      kept.remove(tensor.part[0])
    out[tuple(index)] = array.transpose([tensor.order.index(n) for n in kept])
  return out.reshape(first.shape)
