"""Defaults that depend on other settings: a rate of -1, a length of 0 and `auto` mean "as fits".

Explicit values are never changed. Lengths of a pretrained student follow from the data and its
tokenizer; see runtime/lengths.py.
"""

import dataclasses

from distill_jax.settings import Settings

AUTO_RATE = -1.0
# Peak learning rates of train and prefer.
RATES = {"scratch": (2e-3, 2e-4), "full": (5e-5, 1e-6), "lora": (2e-4, 1e-5)}

TRAIN_BUCKETS = (64, 96, 128, 192, 256, 384, 512, 768, 1024)
ROLLOUT_BUCKETS = (32, 64, 128, 256, 512, 1024)
EXAM_TOKENS, EVALUATE_TOKENS, RESPONSE_TOKENS = 128, 256, 192


def settle(s: Settings) -> Settings:
  """Returns the settings with the defaults that follow from the student."""
  pretrained = s.student.init != "scratch"
  kind = "scratch" if not pretrained else "lora" if s.student.lora.rank else "full"
  train_rate, prefer_rate = RATES[kind]
  remat = "none" if s.train.remat == "auto" and not pretrained else s.train.remat
  settled = dataclasses.replace(
    s,
    train=dataclasses.replace(
      s.train, lr=train_rate if s.train.lr == AUTO_RATE else s.train.lr, remat=remat
    ),
    prefer=dataclasses.replace(
      s.prefer, lr=prefer_rate if s.prefer.lr == AUTO_RATE else s.prefer.lr
    ),
  )
  if pretrained:
    return settled
  return with_lengths(
    settled,
    train=TRAIN_BUCKETS,
    rollout=ROLLOUT_BUCKETS,
    exam=EXAM_TOKENS,
    evaluate=EVALUATE_TOKENS,
    response=RESPONSE_TOKENS,
  )


def with_lengths(
  s: Settings,
  *,
  train: tuple[int, ...],
  rollout: tuple[int, ...],
  exam: int,
  evaluate: int,
  response: int,
) -> Settings:
  """Returns the settings with these lengths where none are set.

  Args:
    s: The settings.
    train: Row lengths in training.
    rollout: Lengths of prompts.
    exam: Tokens of an attempt.
    evaluate: Tokens of an answer in an evaluation.
    response: Tokens of a response that the triplet loss pools.
  """
  return dataclasses.replace(
    s,
    train=dataclasses.replace(s.train, buckets=s.train.buckets or train),
    rollout=dataclasses.replace(s.rollout, buckets=s.rollout.buckets or rollout),
    exam=dataclasses.replace(s.exam, max_new_tokens=s.exam.max_new_tokens or exam),
    evaluate=dataclasses.replace(s.evaluate, max_new_tokens=s.evaluate.max_new_tokens or evaluate),
    triplet=dataclasses.replace(s.triplet, max_response=s.triplet.max_response or response),
  )
