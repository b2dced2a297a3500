"""Encoded examples to the arrays of step s.

Dimension key: B rows, L bucket length, T target positions, 3 pooled responses (anchor, positive,
negative).
"""

import dataclasses

import numpy as np

from distill_jax.data import encode, order

TARGET_MULTIPLE = 32  # T is rounded up to this, so that it seldom changes between rounds


class Corpus:
  """All examples of a training phase, and what they look like at any step.

  The positive and the negative of a row are drawn afresh each epoch; with none there is no contrast
  in the row.
  """

  def __init__(
    self, examples, *, batch: int, buckets, seed: int, pad: int, sft, triplet, contrast: bool
  ):
    self._seed, self._batch, self._pad = seed, batch, pad
    self._sft, self._triplet, self._contrast = sft, triplet, contrast
    self._longest = max(buckets)
    fits = [len(x.prompt) + len(x.target) <= self._longest for x in examples]
    self.examples = [x for x, fit in zip(examples, fits, strict=True) if fit]
    self.too_long = len(examples) - len(self.examples)
    self.lost_contrasts = 0  # rows of the first epoch that had no room for theirs
    self._rows_of = {}
    self.order = order.Order(
      lambda epoch: [len(row.tokens) for row in self._epoch(epoch)],
      [x.problem for x in self.examples],
      buckets=buckets,
      batch=batch,
      seed=seed,
    )
    widest = max((len(self._plain(x).where) for x in self.examples), default=1)
    self._targets = -(-widest // TARGET_MULTIPLE) * TARGET_MULTIPLE

  def _plain(self, example) -> encode.Row:
    return encode.plain(
      example.prompt,
      example.target,
      prompt_weight=self._sft.prompt_weight,
      denominator=self._sft.denominator,
    )

  @staticmethod
  def _others(example):
    return [p for p in example.positives if p != example.target]

  def _has_contrast(self, example) -> bool:
    return bool(self._contrast and self._others(example) and example.negatives)

  def _row(self, example, rng) -> encode.Row:
    row = self._plain(example)
    if not self._has_contrast(example):
      return row
    others, t = self._others(example), self._triplet
    pick = lambda options: options[rng.integers(len(options))]
    tree = encode.with_contrast(
      row,
      pick(others),
      pick(example.negatives),
      pool=t.pool,
      detach=t.detach_prompt,
      max_response=t.max_response,
    )
    return tree if len(tree.tokens) <= self._longest else row

  def _epoch(self, number: int) -> list[encode.Row]:
    if number not in self._rows_of:
      rng = np.random.Generator(np.random.PCG64((self._seed, number, 1)))
      rows = [self._row(x, rng) for x in self.examples]
      self._rows_of = {number: rows}  # one epoch is kept
      if number == 0:
        wanted = sum(self._has_contrast(x) for x in self.examples)
        self.lost_contrasts = wanted - sum(bool(row.pool) for row in rows)
    return self._rows_of[number]

  def batch(self, step: int) -> dict[str, np.ndarray]:
    """The arrays of step `step`; rows that are missing from a batch have weight 0."""
    epoch, bucket, numbers = self.order[step]
    rows = self._epoch(epoch)
    return stack(
      [rows[n] for n in numbers],
      batch=self._batch,
      length=bucket,
      targets=min(self._targets, bucket),
      pad=self._pad,
    )


def stack(rows, *, batch: int, length: int, targets: int, pad: int) -> dict[str, np.ndarray]:
  """Pads rows on the right into arrays [B, L], [B, T], [B], [B, 3, L]."""
  fill = lambda value, width, kind: np.full((batch, width), value, kind)
  out = {name: fill(0, length, np.int32) for name in ("positions", "segments", "roots", "detached")}
  out["tokens"] = fill(pad, length, np.int32)
  out |= {"where": fill(0, targets, np.int32), "labels": fill(0, targets, np.int32)}
  out |= {"weights": fill(0, targets, np.float32)}
  out |= {"denominator": np.zeros(batch, np.float32), "valid": np.zeros(batch, np.float32)}
  out["pool"] = np.zeros((batch, 3, length), np.float32)
  for n, row in enumerate(rows):
    for field in dataclasses.fields(row):
      value = getattr(row, field.name)
      if field.name in ("denominator", "pool"):
        continue
      out[field.name][n, : len(value)] = value
    out["roots"][n, : len(row.tokens)] = encode.PROMPT
    out["denominator"][n] = row.denominator
    out["valid"][n] = bool(row.pool)
    for branch, positions in enumerate(row.pool):
      out["pool"][n, branch, positions] = 1.0 / len(positions)
  return out
