"""How many rows a training batch has."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class BatchSize:
  """The rows of a batch: a fixed number, or as many as a number of tokens holds.

  Attributes:
    rows: Rows of a batch; 0: they follow from `tokens`.
    tokens: Tokens of a batch, padding included.
    multiple: A batch that is sized by tokens, or shrunk, has a positive multiple of this many rows,
      so that devices and micro-batches have equal shares.
    shrinks: Whether the arrays of an incomplete batch have fewer rows, which saves time and costs
      compilations. Otherwise all arrays of a length have one shape.
  """

  rows: int = 0
  tokens: int = 0
  multiple: int = 1
  shrinks: bool = False

  def complete(self, length: int) -> int:
    """Returns the rows of a complete batch of rows padded to `length` tokens."""
    return self.rows or max(self.tokens // length // self.multiple, 1) * self.multiple

  def allocated(self, count: int, length: int) -> int:
    """Returns the rows of the arrays that hold `count` rows of `length` tokens.

    An array that shrinks is halved as long as it holds them, so there are few shapes.
    """
    rows = self.complete(length)
    while self.shrinks and rows > count:
      half = math.ceil(rows / 2 / self.multiple) * self.multiple
      if not count <= half < rows:
        break
      rows = half
    return rows
