"""What an example looks like in an epoch."""

import dataclasses
from typing import Any

from distill_jax.data import encode


@dataclasses.dataclass(frozen=True)
class Tailored:
  """SFT rows, with a contrast where the question has one: the positive and the negative are drawn
  afresh each epoch."""

  sft: Any  # settings.Sft
  triplet: Any  # settings.Triplet
  contrast: bool  # False: no row has any
  start: int | None = None  # the decoder's start token, for an encoder-decoder

  def plain(self, example: encode.Encoded) -> encode.Row:
    """Without the contrast: what must fit."""
    return encode.plain(
      example.prompt,
      example.target,
      prompt_weight=self.sft.prompt_weight,
      denominator=self.sft.denominator,
      start=self.start,
    )

  @staticmethod
  def _others(example):
    return [p for p in example.positives if p != example.target]

  def has_contrast(self, example: encode.Encoded) -> bool:
    return bool(self.contrast and self._others(example) and example.negatives)

  def row(self, example: encode.Encoded, rng, longest: int) -> encode.Row:
    """With the contrast where there is one and it has room."""
    row = self.plain(example)
    if not self.has_contrast(example):
      return row
    others, t = self._others(example), self.triplet
    pick = lambda options: options[rng.integers(len(options))]
    tree = encode.with_contrast(
      row,
      pick(others),
      pick(example.negatives),
      pool=t.pool,
      detach=t.detach_prompt,
      max_response=t.max_response,
    )
    return tree if tree.length <= longest else row


@dataclasses.dataclass(frozen=True)
class Preferences:
  """Preference rows: the same in every epoch."""

  start: int | None = None
  padded: int = 0  # tokens to which the anchor sees a chosen side padded; 0 = not (compat)
  pad: int = 0
  contrast = False

  def plain(self, example: encode.Preferred) -> encode.Row:
    return encode.preference(
      example.prompt,
      example.chosen,
      example.rejected,
      references=example.references,
      start=self.start,
      pads=(self.pad,) * (self.padded - len(example.chosen)),
    )

  def has_contrast(self, example: encode.Preferred) -> bool:
    return False

  def row(self, example: encode.Preferred, rng, longest: int) -> encode.Row:
    return self.plain(example)
