"""Collators: which token row an encoded example becomes in an epoch."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

from distill_jax import settings
from distill_jax.data import encode

Example = TypeVar("Example", encode.EncodedExample, encode.EncodedPair)
Contra = TypeVar("Contra", encode.EncodedExample, encode.EncodedPair, contravariant=True)


class Collator(Protocol[Contra]):
  """Turns encoded examples into token rows."""

  @property
  def with_triplets(self) -> bool:
    """Whether any row can have a triplet."""
    ...

  def plain_row(self, example: Contra, /) -> encode.Row:
    """The row without a triplet. An example whose plain row is too long is dropped."""
    ...

  def has_triplet(self, example: Contra, /) -> bool:
    """Whether the example has a triplet, if there is room for it."""
    ...

  def row(self, example: Contra, rng: np.random.Generator, longest: int, /) -> encode.Row:
    """The row of one epoch, of at most `longest` tokens."""
    ...


@dataclasses.dataclass(frozen=True)
class SupervisedCollator:
  """Supervised rows, each with a triplet if its question has one.

  The positive and the negative of a triplet are drawn anew in every epoch; the anchor is the
  example's own target.

  Attributes:
    sft: How targets are weighted.
    triplet: How responses are pooled. Read only if `with_triplets` is set.
    with_triplets: Whether to add triplets at all.
    start: The decoder's start token for an encoder-decoder, else None.
  """

  sft: settings.Sft
  triplet: settings.Triplet
  with_triplets: bool
  start: int | None = None

  def plain_row(self, example: encode.EncodedExample) -> encode.Row:
    """The row of the prompt and its target."""
    return encode.supervised_row(
      example.prompt,
      example.target,
      prompt_weight=self.sft.prompt_weight,
      denominator=self.sft.denominator,
      start=self.start,
    )

  @staticmethod
  def _other_positives(example: encode.EncodedExample) -> list[tuple[int, ...]]:
    return [p for p in example.positives if p != example.target]

  def has_triplet(self, example: encode.EncodedExample) -> bool:
    """Whether the example has a positive other than its target, and a negative."""
    return bool(self.with_triplets and self._other_positives(example) and example.negatives)

  def row(
    self, example: encode.EncodedExample, rng: np.random.Generator, longest: int
  ) -> encode.Row:
    """The row with a triplet if the example has one and the row still fits `longest` tokens."""
    row = self.plain_row(example)
    if not self.has_triplet(example):
      return row
    tree = encode.add_triplet(
      row,
      _draw(self._other_positives(example), rng),
      _draw(example.negatives, rng),
      pool=self.triplet.pool,
      detach=self.triplet.detach_prompt,
      max_response=self.triplet.max_response,
    )
    return tree if tree.length <= longest else row


def _draw(options: Sequence[tuple[int, ...]], rng: np.random.Generator) -> tuple[int, ...]:
  return options[int(rng.integers(len(options)))]


@dataclasses.dataclass(frozen=True)
class PreferenceCollator:
  """Preference rows, identical in every epoch.

  Attributes:
    start: The decoder's start token for an encoder-decoder, else None.
    padded: Length in tokens to which the NLL term sees a chosen side padded; 0 for no padding
      (compat.tinythinker.nll_on_pads).
    pad: Token id of that padding.
  """

  start: int | None = None
  padded: int = 0
  pad: int = 0
  with_triplets = False

  def plain_row(self, example: encode.EncodedPair) -> encode.Row:
    """The row of a prompt with its chosen and its rejected side."""
    return encode.preference_row(
      example.prompt,
      example.chosen,
      example.rejected,
      references=example.references,
      start=self.start,
      pads=(self.pad,) * (self.padded - len(example.chosen)),
    )

  def has_triplet(self, example: encode.EncodedPair) -> bool:
    """Always False."""
    return False

  def row(self, example: encode.EncodedPair, rng: np.random.Generator, longest: int) -> encode.Row:
    """The same as `plain_row`."""
    return self.plain_row(example)
