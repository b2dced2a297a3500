"""Self-refine instruction tuning (Ranaldi & Freitas 2024, arXiv:2405.00402).

  distill-jax run --config=self_refine --workdir=runs/self_refine
  distill-jax run --config=self_refine:quick --workdir=runs/self_refine_quick
  distill-jax run --config=self_refine:pretrained --workdir=runs/self_refine_pretrained \
    --config.student.init=DIRECTORY_OR_HUB_NAME
  distill-jax run --config=self_refine:pretrained_lora --workdir=runs/self_refine_lora \
    --config.student.init=DIRECTORY_OR_HUB_NAME

Round 0: the teacher annotates the training questions with chains of thought. The student is tuned
on (instruction, input, chain of thought).
Round 1: the tuned student answers each training question with two prompts: one that asks for a
chain of thought and one that does not. Pairs of its answers train it with DPO; the reference policy
is the tuned student.

From the paper: 4 epochs of tuning with a cosine schedule; one round of DPO with 100 warm-up steps,
batch size 128 and at most 1,000 steps. Its learning rates, for students of 7 and 13 billion
parameters, are 2e-5 for tuning and 1e-6 for DPO; its weight decay is 1e-4. It warms up over 3 % of
the steps; here, train.warmup is a number of steps. It keeps the checkpoint with the lowest
validation loss; here, each round keeps its last weights.

Our choices where the paper is silent (its Appendix B was not released as text): 4 samples per
question at temperature 1; beta 0.1, as in Rafailov et al. 2023; the prompt of a pair is the one
that asks for a chain of thought, because evaluation uses that one; and pair.policy=both prefers a
correct chain of thought over a wrong plain answer, since a wrong chain of thought is no better than
a correct short answer. pair.policy=cot_over_plain ignores whether the answers are correct.

Tuning only:       --config.rounds=0
DPO only:          --config.opening="('exam','pair','prefer')" --config.rounds=0
Cross self-refine: --config.cross.name=svamp --config.cross.path=DIRECTORY
Ablations:         --config.pair.policy=right_over_wrong   --config.prefer.loss=ipo
                   --config.world.train=500                --config.prefer.nll_weight=0.5
LoRA, as theirs:   --config.student.lora.rank=8 (the frozen base weights are stored once)
"""

from ml_collections import ConfigDict

from distill_jax.config import pretrained, recipes

SIZES = {
  "full": {},
  "quick": {
    "world": {"train": 1500, "test": 300, "out_of_domain": 300, "operand_max": 10, "steps_max": 2},
    "exam": {"max_new_tokens": 56, "temperature": 0.7},
    "pair": {"policy": "right_over_wrong"},
    "evaluate": {"max_new_tokens": 64},
    "train": {
      "epochs": 0, "steps": 350, "batch": 32, "lr": 4e-3, "warmup": 30, "beta2": 0.95,
      "buckets": (64, 96, 128, 192),
    },
    "prefer": {
      "steps": 300, "batch": 32, "lr": 3e-4, "warmup": 10, "beta": 0.5, "nll_weight": 1.0,
    },
    "rollout": {"batch": 256, "buckets": (64, 128)},
  },
  **pretrained.sizes(prefer={"epochs": 1, "steps": 0, "batch": 8, "warmup": 10}),
}  # fmt: skip


def get_config(size: str = "full") -> ConfigDict:
  """Returns the config of the recipe in one of SIZES."""
  c = recipes.load("base")
  c.recipe = "self_refine"
  c.format = "instruct"
  c.opening = ("demonstrate", "train")
  c.each_round = ("exam", "pair", "prefer")
  c.rounds = 1
  c.train.losses.sft, c.train.losses.triplet = 1.0, 0.0
  c.train.epochs, c.train.schedule, c.train.warmup = 4, "cosine", 100
  c.exam.samples, c.exam.temperature, c.exam.styles = 4, 1.0, ("cot", "plain")
  c.pair.policy, c.pair.style = "both", "cot"
  c.prefer.loss, c.prefer.beta = "dpo", 0.1
  c.prefer.epochs, c.prefer.steps, c.prefer.batch, c.prefer.warmup = 0, 1000, 128, 100
  c.update(SIZES[size])
  return c
