"""The answer alone, without reasoning and without a teacher: the baseline for chains of thought.

  distill-jax run --config=answer_only --workdir=runs/answer_only
  distill-jax run --config=answer_only:pretrained --workdir=runs/answer_only_pretrained \
    --config.student.init=DIRECTORY_OR_HUB_NAME
  distill-jax run --config=answer_only:pretrained_lora --workdir=runs/answer_only_lora \
    --config.student.init=DIRECTORY_OR_HUB_NAME

The student is trained on the gold answers. There are no rounds.
"""

from ml_collections import ConfigDict

from distill_jax.config import pretrained, recipes

SIZES = {"full": {}, **pretrained.sizes()}


def get_config(size: str = "full") -> ConfigDict:
  """Returns the config of the recipe in one of SIZES."""
  c = recipes.load("cot")
  c.recipe = "answer_only"
  c.format, c.demonstrate.source = "answer_only", "gold"
  c.update(SIZES[size])
  return c
