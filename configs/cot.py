"""One-shot distillation of chains of thought: the baseline of all recipes.

  python -m distill_jax run --config=configs/cot.py --workdir=runs/cot

The teacher writes for every training question, the student trains on it; no rounds.
"""

from ml_collections import ConfigDict

from distill_jax.config import recipes


def get_config() -> ConfigDict:
  c = recipes.load("base")
  c.recipe = "cot"
  c.opening, c.each_round, c.rounds = ("demonstrate", "train"), (), 0
  c.train.losses.triplet = 0.0
  return c
