"""Quickstart: tailored learning on the built-in arithmetic world, in minutes on two CPU cores.

  bash launch/local.sh
  distill-jax run --config=quickstart --workdir=runs/quickstart

Needs no API key, GPU or download. The recipe is tailored learning (configs/tailored.py). The
teacher is a local server that answers from the world; 5 % of its replies are wrong on purpose. The
student has 250,000 parameters and is trained from scratch.
"""

from ml_collections import ConfigDict

from distill_jax.config import recipes


def get_config() -> ConfigDict:
  """Returns the config of the recipe."""
  c = recipes.load("tailored")
  c.recipe = "quickstart"
  c.rounds = 3
  c.task.validation = 300
  c.world.train, c.world.test, c.world.out_of_domain = 4000, 300, 300
  c.world.operand_max, c.world.steps_max = 10, 2
  c.demonstrate.questions = 1000  # of 4,000, so later rounds have something left to teach
  c.exam.questions, c.exam.samples, c.exam.max_new_tokens = 0, 2, 56
  c.evaluate.max_new_tokens = 80
  c.feedback.rationales = 1
  c.train.epochs, c.train.steps = 0, 350
  c.train.batch, c.train.lr, c.train.warmup = 32, 4e-3, 30
  c.train.schedule, c.train.beta2 = "cosine", 0.95
  c.train.buckets, c.rollout.buckets = (64, 96, 128, 192), (64, 128)
  c.rollout.batch = 256
  c.sft.prompt_weight, c.sft.denominator = 0.0, "weights"
  c.triplet.detach_prompt = False
  return c
