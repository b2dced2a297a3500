"""One-shot distillation of chains of thought: the baseline of all recipes.

  distill-jax run --config=cot --workdir=runs/cot

The teacher annotates every training question, and the student trains on the rationales. There are
no rounds.
"""

from ml_collections import ConfigDict

from distill_jax.config import recipes


def get_config() -> ConfigDict:
  """Returns the config of the recipe."""
  c = recipes.load("base")
  c.recipe = "cot"
  c.opening, c.each_round, c.rounds = ("demonstrate", "train"), (), 0
  c.train.losses.triplet = 0.0
  return c
