"""Socratic CoT (Shridhar et al. 2023, arXiv:2212.00193): one student splits the problem into
sub-questions, another answers them, by turns and without the teacher.

  python -m distill_jax run --config=configs/socratic.py --workdir=runs/socratic
  python -m distill_jax run --config=configs/socratic.py:quick --workdir=runs/socratic_quick

The teacher splits each training question into sub-questions with their solutions; what does not end
in the right answer is dropped. A decomposer learns to ask, a solver to answer; both begin as the
same model. At the end they alternate, until the decomposer says that it is done.

The paper has no released code, and leaves open: whether the decomposer sees the solutions so far
(it does: socratic.solutions=False for all at once from the problem alone), the masks of the prompt
(only targets are trained on), optimiser, learning rate, epochs, decoding (greedy) and when to stop
(an end mark, or max_steps).

Ablate: --config.socratic.mode=unified    one student writes questions and solutions in one text
        --config.format=cot               the chain-of-thought student it is compared with
        --config.format=answer_only --config.demonstrate.source=gold         the answer alone
        --config.demonstrate.source=gold  the data set's own decompositions (gsm8k Socratic, ...)
        --config.socratic.calculator=True
The upper bound, with the problem's own sub-questions, from a finished run:
  python -m distill_jax evaluate --workdir=runs/socratic --config.socratic.questions=gold
"""

from ml_collections import ConfigDict

from distill_jax.config import recipes

SIZES = {
  "full": {},
  "quick": {
    "world": {"train": 1500, "test": 300, "out_of_domain": 300, "operand_max": 10, "steps_max": 3},
    "evaluate": {"max_new_tokens": 40},
    "train": {
      "epochs": 0, "steps": 500, "batch": 32, "lr": 4e-3, "warmup": 30, "beta2": 0.95,
      "buckets": (64, 96, 128, 192, 256),
    },
    "rollout": {"buckets": (64, 128, 192)},
  },
}  # fmt: skip


def get_config(size: str = "full") -> ConfigDict:
  c = recipes.load("base")
  c.recipe = "socratic"
  c.format = "socratic"
  c.opening, c.each_round, c.rounds = ("demonstrate", "train"), (), 0
  c.socratic.mode, c.socratic.questions = "iterative", "model"
  c.train.losses.sft, c.train.losses.triplet = 1.0, 0.0
  c.train.schedule = "cosine"
  c.update(SIZES[size])
  return c
