"""The main job on its embedded default: a student made from nothing learns word problems in a few
minutes on two cores.

  bash launch/local.sh
  python -m distill_jax run --config=configs/quickstart.py --workdir=runs/quickstart

The recipe is tailored learning (configs/tailored.py); the questions come from the built-in world,
the teacher is a local server that answers from it (5 % of its replies are wrong), the student has a
quarter of a million parameters.
"""

from ml_collections import ConfigDict

from distill_jax.config import recipes


def get_config() -> ConfigDict:
  c = recipes.load("tailored")
  c.recipe = "quickstart"
  c.rounds = 3
  c.task.validation = 300
  c.world.train, c.world.test, c.world.out_of_domain = 4000, 300, 300
  c.world.operand_max, c.world.steps_max = 10, 2
  c.demonstrate.questions = 1000  # so that the first student has something left to be taught
  c.exam.questions, c.exam.samples, c.exam.max_new_tokens = 0, 2, 56
  c.evaluate.max_new_tokens = 80
  c.feedback.rationales = 1
  c.train.epochs, c.train.steps = 0, 350
  c.train.batch, c.train.lr, c.train.warmup = 32, 4e-3, 30
  c.train.schedule, c.train.beta2 = "cosine", 0.95
  c.train.buckets, c.rollout.buckets = (64, 96, 128, 192), (64, 128)
  c.sft.prompt_weight, c.sft.denominator = 0.0, "weights"
  c.triplet.detach_prompt = False
  return c
