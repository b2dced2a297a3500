"""Self-refine instruction tuning (Ranaldi & Freitas 2024, arXiv:2405.00402): instruction tuning on
a teacher's demonstrations, then DPO on what the student itself answers.

  python -m distill_jax run --config=configs/self_refine.py --workdir=runs/self_refine
  python -m distill_jax run --config=configs/self_refine.py:quick --workdir=runs/self_refine_quick

Round 0: the teacher annotates the training questions with chains of thought; the student is tuned
on (instruction, input, chain of thought). Round 1: the instructed student answers training
questions, asked for a chain of thought and asked plainly; pairs of its answers; DPO against the
instructed student.

From the paper: 4 epochs of tuning, cosine schedule (its warm-up of 3 % is train.warmup steps here);
one refinement, 100 warm-up steps, batch 128, at most 1,000 steps. Its learning rates, for students
of 7 and 13 billion parameters, are 2e-5 and then 1e-6, its weight decay 1e-4. It leaves open
(Appendix B was not released as text): how many samples are drawn, at which temperature (ours: 4 at
1.0); beta (0.1, as Rafailov et al.); which of the two prompts a pair hangs on (the one that asks
for a chain of thought: it is what is scored); and what makes a chain of thought the better answer.
Ours is policy="both", right chains of thought over wrong plain answers, since a wrong chain of
thought is no better than a right short answer; pair.policy=cot_over_plain is the condition on style
alone. The paper keeps the checkpoint with the lowest validation loss; here each round has one.

Tuning only:       --config.rounds=0
DPO only:          --config.opening="('exam','pair','prefer')" --config.rounds=0
Cross self-refine: --config.cross.name=svamp --config.cross.path=DIR
Ablate:            --config.pair.policy=right_over_wrong   --config.prefer.loss=ipo
                   --config.world.train=500                --config.prefer.nll_weight=0.5
LoRA (as theirs):  --config.student.lora.rank=8; the weights beneath are stored once
"""

from ml_collections import ConfigDict

from distill_jax.config import recipes

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
    "rollout": {"buckets": (64, 128)},
  },
}  # fmt: skip


def get_config(size: str = "full") -> ConfigDict:
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
