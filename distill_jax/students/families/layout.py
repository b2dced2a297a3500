"""How a Hugging Face tensor lies in our tree of parameters: dimensions split, one part picked,
the rest put in our order.

  q_proj.weight  [H*K, D]    split ((H, K), (D,))     parts 0 1 2    order (2, 0, 1)  q [D, H, K]
  c_attn.weight  [D, 3*H*K]  split ((D,), (3, H, K))  parts 0 1 2 3  order (0, 2, 3)  q [D, H, K]
                             and part (1, 0): of part 1 the first is taken
"""

import math
from typing import NamedTuple

import numpy as np


class Tensor(NamedTuple):
  """One of our arrays, or one layer of a stacked one, as (a part of) a tensor of theirs."""

  name: str  # theirs, e.g. model.layers.3.self_attn.q_proj.weight
  path: tuple[str, ...]  # ours, e.g. ("blocks", "q")
  layer: int | None  # index into the leading axis of ours; None: ours is not stacked
  split: tuple[tuple[int, ...], ...]  # each of their dimensions as the parts it is made of
  order: tuple[int, ...]  # the parts, numbered through, in our order
  part: tuple[int, int] | None = None  # fused tensors: (the part that is no part of ours, index)

  @property
  def shape(self) -> tuple[int, ...]:
    """Theirs."""
    return tuple(math.prod(parts) for parts in self.split)

  @property
  def ours(self) -> tuple[int, ...]:
    """The shape of ours, one layer of it if it is stacked."""
    parts = [size for dimension in self.split for size in dimension]
    return tuple(parts[n] for n in self.order)


def to_ours(tensor: Tensor, array: np.ndarray) -> np.ndarray:
  """A view of their whole array as ours."""
  parts = [size for dimension in tensor.split for size in dimension]
  array = array.reshape(parts)
  if tensor.part is None:
    return array.transpose(tensor.order)
  left_out, index = tensor.part
  kept = [n for n in range(len(parts)) if n != left_out]
  return array.take(index, axis=left_out).transpose([kept.index(n) for n in tensor.order])


def to_theirs(tensors, arrays) -> np.ndarray:
  """Their array, C-contiguous, from all of `tensors` that are parts of it and our array of each."""
  first = tensors[0]
  parts = [size for dimension in first.split for size in dimension]
  out = np.empty(parts, arrays[0].dtype)
  for tensor, array in zip(tensors, arrays, strict=True):
    place = [slice(None)] * len(parts)
    kept = list(range(len(parts)))
    if tensor.part is not None:
      place[tensor.part[0]] = tensor.part[1]
      kept.remove(tensor.part[0])
    out[tuple(place)] = array.transpose([tensor.order.index(n) for n in kept])
  return out.reshape(first.shape)
