"""Tailored learning (Wang et al. 2023, arXiv:2310.13332): rounds of exam, feedback and training.

  python -m distill_jax run --config=configs/tailored.py --workdir=runs/tailored
  python -m distill_jax run --config=configs/tailored.py:quick --workdir=runs/tailored_quick

Round 0: the teacher annotates every training question, blindly; the untrained student sits the
exam, so that there are wrong answers to contrast with; the student trains. Then, each round: the
student sits the exam, the teacher sees its mistakes and writes rationales for them, the student
trains on those (SFT) and on its own mistakes (self-reflection, the triplet loss).

From the authors' code: 4 samples at temperature 1, SFT + 0.5 x triplet with margin 1, up to 10
positives and 4 negatives a question, prompt weight 0.1 over all tokens, responses of at most 192
tokens on a prompt whose keys and values are detached, AdamW, batch 16, 10 epochs, 100 warm-up steps
then a constant rate, 3 rounds, each from the last one's weights. Ours, since the paper and its code
leave it open: the prompts; whether rationales accumulate (they do: accumulate_rationales=True); when to stop
(two rounds without a gain on validation); how many rationales a question gets at first (one: with
demonstrate.rationales=2 the triplet loss has a second right text already in round 0); and, for the
student that starts from scratch, its size and learning rate (theirs, 7e-6, is for GPT-J 6B).

Ablate: --config.train.losses.triplet=0   --config.feedback.kind=blind   --config.rounds=1
        --config.contrast.negatives=1     --config.triplet.pool=mean
        --config.sft.prompt_weight=0
"""

from ml_collections import ConfigDict

from distill_jax.config import recipes

SIZES = {
  "full": {"train": {"epochs": 10}},
  "quick": {
    "train": {"epochs": 4},
    "task": {"validation": 300},
    "world": {"train": 1000, "test": 300},
  },
}


def get_config(size: str = "full") -> ConfigDict:
  c = recipes.load("base")
  c.recipe = "tailored"
  c.opening = ("demonstrate", "exam", "train")
  c.each_round = ("exam", "feedback", "train")
  c.rounds = 3
  c.exam.samples, c.exam.temperature = 4, 1.0
  c.train.losses.sft, c.train.losses.triplet = 1.0, 0.5
  c.train.batch, c.train.warmup, c.train.schedule = 16, 100, "constant"
  c.train.lr = 2e-3
  c.sft.prompt_weight, c.sft.denominator = 0.1, "all_tokens"
  c.triplet.margin, c.triplet.pool, c.triplet.detach_prompt = 1.0, "last", True
  c.contrast.positives, c.contrast.negatives = 10, 4
  c.update(SIZES[size])
  return c
