"""Small examples of different lengths, some without a triplet, as batches for a train step."""

import functools

from distill_jax import settings, students
from distill_jax.data import batches, collate, encode
from distill_jax.data.batch_size import BatchSize
from distill_jax.learning import objectives
from tests.students import oracle

SFT = settings.Sft(prompt_weight=0.1, denominator="weights")
TRIPLET = settings.Triplet(margin=1.0, pool="last", detach_prompt=False, max_response=99)
TAILORED = collate.SupervisedCollator(SFT, TRIPLET, with_triplets=True)


def texts(seed: int, longest: int):
  """Returns (a function that makes a text, one that makes a text with an end token)."""
  draw = oracle.rng(seed)
  text = lambda: tuple(int(t) for t in draw.integers(2, 32, draw.integers(1, longest)))
  return text, lambda: (*text(), 1)


def examples(number: int, seed: int = 0, longest: int = 9) -> list[encode.EncodedExample]:
  """Returns examples of different questions; every third has no positives and negatives."""
  text, ended = texts(seed, longest)
  several = lambda n: tuple(ended() for _ in range(2)) if n % 3 else ()
  return [
    encode.EncodedExample(f"q{n}", text(), ended(), several(n), several(n)) for n in range(number)
  ]


def preferred(number: int, seed: int = 0, longest: int = 9) -> list[encode.EncodedPair]:
  """Returns pairs with made-up reference log-probabilities."""
  (text, ended), draw = texts(seed, longest), oracle.rng(seed + 1)
  made_up = lambda: tuple((-9 * draw.random(2)).tolist())
  return [
    encode.EncodedPair(f"q{n}", text(), ended(), ended(), references=made_up())
    for n in range(number)
  ]


def corpus_of(some, kind=TAILORED, *, batch: int, buckets=(40,), packed: bool = False):
  return batches.Corpus(
    some, kind, size=BatchSize(batch), buckets=buckets, seed=0, pad=0, packed=packed
  )


def corpus(number: int, *, batch: int, buckets=(40,), longest: int = 9) -> batches.Corpus:
  return corpus_of(examples(number, longest=longest), batch=batch, buckets=buckets)


def batch(rows: int, size: int) -> objectives.Batch:
  """Returns `rows` examples in a batch of `size`."""
  return objectives.as_batch(corpus(rows, batch=size).batch(0))


def model(config, *, detach: bool = False, chunk: int = 8):
  """Returns (hidden, logprobs) of a student, as an objective takes them."""
  return (
    functools.partial(students.of(config).hidden, config, detach=detach),
    functools.partial(students.token_logprobs, config, chunk=chunk),
  )


def objective(
  sft: float = 1.0, triplet: float = 0.5, config=oracle.TINY, *, detach: bool = False
) -> objectives.Objective:
  coefficients = {"sft": sft, "triplet": triplet}
  return objectives.tailored(
    *model(config, detach=detach), coefficients=coefficients, margin=TRIPLET.margin
  )


def preference(beta: float, config=oracle.TINY, **other) -> objectives.Objective:
  """Returns the DPO objective, with changes."""
  plain = {"loss": "dpo", "coefficients": {"preference": 1.0}, "label_smoothing": 0.0, "gamma": 0.5}
  fixed = plain | {"length_normalized": False} | other
  return objectives.preference(*model(config), beta=beta, **fixed)
