"""One-shot distillation of chains of thought: the baseline of all recipes.

  distill-jax run --config=cot --workdir=runs/cot
  distill-jax run --config=cot:pretrained --workdir=runs/cot_pretrained \
    --config.student.init=DIRECTORY_OR_HUB_NAME
  distill-jax run --config=cot:pretrained_lora --workdir=runs/cot_lora \
    --config.student.init=DIRECTORY_OR_HUB_NAME

The teacher annotates every training question, and the student trains on the rationales. There are
no rounds.
"""

from ml_collections import ConfigDict

from distill_jax.config import pretrained, recipes

SIZES = {"full": {}, **pretrained.sizes()}


def get_config(size: str = "full") -> ConfigDict:
  """Returns the config of the recipe in one of SIZES."""
  c = recipes.load("base")
  c.recipe = "cot"
  c.opening, c.each_round, c.rounds = ("demonstrate", "train"), (), 0
  c.train.losses.triplet = 0.0
  c.update(SIZES[size])
  return c
