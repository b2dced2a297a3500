"""The answer alone, without reasoning and without a teacher: the baseline for chains of thought.

  distill-jax run --config=answer_only --workdir=runs/answer_only

The student is trained on the gold answers. There are no rounds.
"""

from ml_collections import ConfigDict

from distill_jax.config import recipes


def get_config() -> ConfigDict:
  """Returns the config of the recipe."""
  c = recipes.load("cot")
  c.recipe = "answer_only"
  c.format, c.demonstrate.source = "answer_only", "gold"
  return c
