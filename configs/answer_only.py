"""The student learns to say the answer, without reasoning and without a teacher.

python -m distill_jax run --config=configs/answer_only.py --workdir=runs/answer_only
"""

from ml_collections import ConfigDict

from distill_jax.config import recipes


def get_config() -> ConfigDict:
  c = recipes.load("cot")
  c.recipe = "answer_only"
  c.format, c.demonstrate.source = "answer_only", "gold"
  return c
