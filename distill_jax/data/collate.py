"""What an example looks like in an epoch."""

import dataclasses
from typing import Any

from distill_jax.data import encode


@dataclasses.dataclass(frozen=True)
class SupervisedCollator:
  """SFT rows, with a contrast where the question has one: the positive and the negative are drawn
  afresh each epoch."""

  sft: Any  # settings.Sft
  triplet: Any  # settings.Triplet
  with_triplets: bool  # False: no row has any
  start: int | None = None  # the decoder's start token, for an encoder-decoder

  def plain_row(self, example: encode.EncodedExample) -> encode.Row:
    """Without the triplets: what must fit."""
    return encode.supervised_row(
      example.prompt,
      example.target,
      prompt_weight=self.sft.prompt_weight,
      denominator=self.sft.denominator,
      start=self.start,
    )

  @staticmethod
  def _others(example):
    return [p for p in example.positives if p != example.target]

  def has_triplet(self, example: encode.EncodedExample) -> bool:
    return bool(self.with_triplets and self._others(example) and example.negatives)

  def row(self, example: encode.EncodedExample, rng, longest: int) -> encode.Row:
    """With the contrast where there is one and it has room."""
    row = self.plain_row(example)
    if not self.has_triplet(example):
      return row
    others, t = self._others(example), self.triplet
    pick = lambda options: options[rng.integers(len(options))]
    tree = encode.add_triplet(
      row,
      pick(others),
      pick(example.negatives),
      pool=t.pool,
      detach=t.detach_prompt,
      max_response=t.max_response,
    )
    return tree if tree.length <= longest else row


@dataclasses.dataclass(frozen=True)
class PreferenceCollator:
  """Preference rows: the same in every epoch."""

  start: int | None = None
  padded: int = 0  # tokens to which the anchor sees a chosen side padded; 0 = not (compat)
  pad: int = 0
  with_triplets = False

  def plain_row(self, example: encode.EncodedPair) -> encode.Row:
    return encode.preference_row(
      example.prompt,
      example.chosen,
      example.rejected,
      references=example.references,
      start=self.start,
      pads=(self.pad,) * (self.padded - len(example.chosen)),
    )

  def has_triplet(self, example: encode.EncodedPair) -> bool:
    return False

  def row(self, example: encode.EncodedPair, rng, longest: int) -> encode.Row:
    return self.plain_row(example)
