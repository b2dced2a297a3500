"""STaR, the self-taught reasoner (Zelikman et al. 2022, arXiv:2203.14465).

  distill-jax run --config=star --workdir=runs/star \
    --config.student.init=DIRECTORY_OR_HUB_NAME --config.train.lr=1e-5
  distill-jax run --config=star:quick --workdir=runs/star_quick
  distill-jax run --config=star:pretrained --workdir=runs/star_pretrained \
    --config.student.init=DIRECTORY_OR_HUB_NAME
  distill-jax run --config=star:pretrained_lora --workdir=runs/star_lora \
    --config.student.init=DIRECTORY_OR_HUB_NAME

There is no teacher, only gold answers. In each round, the student solves the training questions
greedily and retries those that it got wrong with the correct answer as a hint. Then the base model
is trained on all correct rationales.

The full size needs a pretrained student that can reason from three worked examples. A student from
scratch cannot, so the quick size first trains it on a teacher's rationales for a few questions.
"""

from ml_collections import ConfigDict

from distill_jax.config import pretrained, recipes

SIZES = {
  "full": {},
  "quick": {
    "opening": ("demonstrate", "train"),
    "rounds": 2,
    "start_from": "previous",
    "world": {"train": 1500, "test": 300, "out_of_domain": 0, "operand_max": 10, "steps_max": 2},
    "demonstrate": {"questions": 400},
    "cot": {"shots": 0},
    "exam": {"max_new_tokens": 56},
    "evaluate": {"max_new_tokens": 64},
    "train": {
      "epochs": 0, "steps": 300, "batch": 32, "lr": 4e-3, "warmup": 30, "beta2": 0.95,
      "buckets": (64, 96, 128, 192),
    },
    "rollout": {"batch": 256, "buckets": (64, 128)},
  },
  **pretrained.sizes(),
}  # fmt: skip


def get_config(size: str = "full") -> ConfigDict:
  """Returns the config of the recipe in one of SIZES."""
  c = recipes.load("base")
  c.recipe = "star"
  c.opening = c.each_round = ("exam", "rationalize", "train")
  c.rounds, c.accumulate_rationales, c.start_from = 3, False, "base"
  c.cot.shots = 3
  c.exam.samples, c.exam.temperature = 1, 0.0
  c.train.losses.triplet = 0.0
  c.update(SIZES[size])
  return c
