"""Small examples of different lengths, some without a contrast, as the batches a step reads."""

import functools
import types

import numpy as np

from distill_jax.data import batches, encode
from distill_jax.learning import objectives
from distill_jax.students import decoder
from tests.students import oracle

SFT = types.SimpleNamespace(prompt_weight=0.1, denominator="weights")
TRIPLET = types.SimpleNamespace(margin=1.0, pool="last", detach_prompt=False, max_response=99)


def examples(number: int, seed: int = 0, longest: int = 9) -> list[encode.Encoded]:
  """Every question is asked once; every third has nothing to contrast."""
  draw = oracle.rng(seed)
  text = lambda: tuple(int(t) for t in draw.integers(2, 32, draw.integers(1, longest)))
  ended = lambda: (*text(), 1)
  several = lambda n: tuple(ended() for _ in range(2)) if n % 3 else ()
  return [encode.Encoded(f"q{n}", text(), ended(), several(n), several(n)) for n in range(number)]


def corpus(number: int, *, batch: int, buckets=(40,), longest: int = 9) -> batches.Corpus:
  return batches.Corpus(
    examples(number, longest=longest),
    batch=batch,
    buckets=buckets,
    seed=0,
    pad=0,
    sft=SFT,
    triplet=TRIPLET,
    contrast=True,
  )


def as_batch(arrays: dict[str, np.ndarray]) -> objectives.Batch:
  rows = decoder.Rows(*(arrays[name] for name in decoder.Rows._fields))
  names = ("where", "labels", "weights", "denominator", "pool", "valid")
  return objectives.Batch(rows, *(arrays[name] for name in names))


def batch(rows: int, size: int) -> objectives.Batch:
  """`rows` examples in a batch of `size`."""
  return as_batch(corpus(rows, batch=size).batch(0))


def objective(sft: float = 1.0, triplet: float = 0.5, config=oracle.TINY) -> objectives.Objective:
  return objectives.tailored(
    functools.partial(decoder.hidden, config),
    functools.partial(decoder.head, config),
    share={"sft": sft, "triplet": triplet},
    margin=TRIPLET.margin,
    chunk=8,
  )
