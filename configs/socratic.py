"""Socratic CoT (Shridhar et al. 2023, arXiv:2212.00193): sub-questions and their solutions.

  distill-jax run --config=socratic --workdir=runs/socratic
  distill-jax run --config=socratic:quick --workdir=runs/socratic_quick
  distill-jax run --config=socratic:pretrained --workdir=runs/socratic_pretrained \
    --config.student.init=DIRECTORY_OR_HUB_NAME
  distill-jax run --config=socratic:pretrained_lora --workdir=runs/socratic_lora \
    --config.student.init=DIRECTORY_OR_HUB_NAME

The teacher splits each training question into sub-questions with their solutions. Decompositions
that do not end in the correct answer are dropped. A decomposer learns to ask and a solver learns to
answer; both start from the same model. At inference they alternate, without the teacher, until the
decomposer says that there are no more questions.

Our choices where the paper is silent (its code was not released): the decomposer sees the solutions
so far (with socratic.solutions=False, only the problem); only target tokens are trained on;
optimizer, learning rate, epochs and greedy decoding; and the sub-questions end with an end mark or
after socratic.max_steps.

Ablations: --config.socratic.mode=unified    one student writes questions and solutions in one text
           --config.format=cot               the chain-of-thought baseline
           --config.format=answer_only --config.demonstrate.source=gold         the answer alone
           --config.demonstrate.source=gold  the data set's own decompositions (gsm8k Socratic, ...)
           --config.socratic.calculator=True
The upper bound, with the problem's own sub-questions, from a finished run:
  distill-jax evaluate --workdir=runs/socratic --config.socratic.questions=gold
"""

from ml_collections import ConfigDict

from distill_jax.config import pretrained, recipes

SIZES = {
  "full": {},
  "quick": {
    "world": {"train": 1500, "test": 300, "out_of_domain": 300, "operand_max": 10, "steps_max": 3},
    "evaluate": {"max_new_tokens": 40},
    "train": {
      "epochs": 0, "steps": 500, "batch": 32, "lr": 4e-3, "warmup": 30, "beta2": 0.95,
      "buckets": (64, 96, 128, 192, 256),
    },
    "rollout": {"batch": 256, "buckets": (64, 128, 192)},
  },
  **pretrained.sizes(),
}  # fmt: skip


def get_config(size: str = "full") -> ConfigDict:
  """Returns the config of the recipe in one of SIZES."""
  c = recipes.load("base")
  c.recipe = "socratic"
  c.format = "socratic"
  c.opening, c.each_round, c.rounds = ("demonstrate", "train"), (), 0
  c.socratic.mode, c.socratic.questions = "iterative", "model"
  c.train.losses.sft, c.train.losses.triplet = 1.0, 0.0
  c.train.schedule = "cosine"
  c.update(SIZES[size])
  return c
