"""Tailored learning (Wang et al. 2023, arXiv:2310.13332): rounds of exam, feedback and training.

  distill-jax run --config=tailored --workdir=runs/tailored
  distill-jax run --config=tailored:quick --workdir=runs/tailored_quick
  distill-jax run --config=tailored:pretrained --workdir=runs/tailored_pretrained \
    --config.student.init=DIRECTORY_OR_HUB_NAME
  distill-jax run --config=tailored:pretrained_lora --workdir=runs/tailored_lora \
    --config.student.init=DIRECTORY_OR_HUB_NAME

Round 0: the teacher annotates every training question without seeing the student's answers. The
untrained student takes the exam; its wrong answers are the negatives of the triplet loss. The
student trains.
Rounds 1 to 3: the student takes the exam, the teacher sees its mistakes and writes rationales that
correct them, and the student trains on all rationales so far (SFT) and on its own mistakes
(self-reflection: the triplet loss).

From the paper and its code: 4 samples at temperature 1; SFT + 0.5 * triplet with margin 1; up to 10
positives and 4 negatives per question; prompt tokens with weight 0.1, and the weighted sum divided
by the number of all tokens; in the triplet loss, responses of at most 192 tokens and no gradient
through the prompt's keys and values; AdamW, batch size 16, 10 epochs, 100 warm-up steps, then a
constant learning rate; 3 rounds, each starting from the previous round's weights.

Our choices where the paper and its code are silent: the prompts; rationales accumulate
(accumulate_rationales=True); a run stops after two rounds without a gain in validation accuracy;
round 0 requests one rationale per question (with demonstrate.rationales=2, the triplet loss already
has a second correct rationale in round 0); and the size and learning rate of a student from scratch
(the paper's rate, 7e-6, is for GPT-J 6B).

Ablations: --config.train.losses.triplet=0   --config.feedback.kind=blind   --config.rounds=1
           --config.contrast.negatives=1     --config.triplet.pool=mean
           --config.sft.prompt_weight=0
"""

from ml_collections import ConfigDict

from distill_jax.config import pretrained, recipes

SIZES = {
  "full": {"train": {"epochs": 10}},
  "quick": {
    "train": {"epochs": 4},
    "task": {"validation": 300},
    "world": {"train": 1000, "test": 300},
    "rollout": {"batch": 256},
  },
  **pretrained.sizes(),
}


def get_config(size: str = "full") -> ConfigDict:
  """Returns the config of the recipe in one of SIZES."""
  c = recipes.load("base")
  c.recipe = "tailored"
  c.opening = ("demonstrate", "exam", "train")
  c.each_round = ("exam", "feedback", "train")
  c.rounds = 3
  c.exam.samples, c.exam.temperature = 4, 1.0
  c.train.losses.sft, c.train.losses.triplet = 1.0, 0.5
  c.train.batch, c.train.warmup, c.train.schedule = 16, 100, "constant"
  c.sft.prompt_weight, c.sft.denominator = 0.1, "all_tokens"
  c.triplet.margin, c.triplet.pool, c.triplet.detach_prompt = 1.0, "last", True
  c.contrast.positives, c.contrast.negatives = 10, 4
  c.update(SIZES[size])
  return c
