"""Shared by the tests of recipes: complete runs of a tiny student, and readers of their output."""

import importlib
import json
import math

import numpy as np
import pytest
from ml_collections import config_dict

from distill_jax import records
from distill_jax.cli import commands
from distill_jax.config import values
from distill_jax.config.read import read_settings
from distill_jax.phases import exam, pair, train
from distill_jax.run_dir import phase_dir
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import fit
from tests import compilations

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)


def config(recipe: str, **changes) -> dict:
  c = importlib.import_module(f"configs.{recipe}").get_config()
  for world in (c.world, c.taxonomy):
    world.train, world.test, world.out_of_domain = 16, 4, 0
  c.world.operand_max, c.world.steps_max, c.task.validation = 8, 2, 4
  c.rounds = min(c.rounds, 1)
  c.feedback.cut = True  # students as small as these hardly ever end an answer
  sizes = c.student.scratch
  sizes.width, sizes.head_width, sizes.mlp, sizes.vocab, sizes.layers = 32, 8, 64, 320, 1
  c.taxonomy.options, c.exam.questions = 3, 8
  c.exam.samples = min(c.exam.samples, 2)
  c.exam.max_new_tokens = c.evaluate.max_new_tokens = 12
  c.demonstrate.rationales, c.demonstrate.passes = 1, 1
  c.rollout.batch, c.rollout.buckets, c.train.buckets = 16, (192,), (256,)
  for rates in (c.train, c.prefer):
    rates.epochs, rates.steps, rates.batch, rates.warmup = 0, 4, 8, 0
  c.train.log_every = 1
  return override(c, changes)


def override(c: config_dict.ConfigDict, changes: dict) -> dict:
  """Applies overrides ("train__steps": 4) to a config and returns it as a dict.

  Values of the config that nothing reads after that become defaults again; overrides stay.
  """
  paths = {name.replace("__", "."): value for name, value in changes.items()}
  c.update_from_flattened_dict(paths)
  unread = [key for key in values.KEYS if values.unread(c.to_dict(), key)]
  c.update_from_flattened_dict({key.path: key.default for key in unread if key.path not in paths})
  return c.to_dict()


def run(workdir, recipe, **changes) -> tuple[dict, RunDir]:
  c = config(recipe, **changes)
  return commands.run(read_settings(c), c, str(workdir)), RunDir(workdir)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
  """Overrides that make all runs share one cache of the teacher's replies."""
  return {"teacher__cache": str(tmp_path_factory.mktemp("shared") / "teacher.sqlite")}


def recipe_run(recipe, name="run", **changes):
  """Returns a module fixture: a complete run of a recipe."""

  @pytest.fixture(scope="module")
  def fixture(tmp_path_factory, shared):
    return run(tmp_path_factory.mktemp(recipe) / name, recipe, **shared, **changes)

  return fixture


# A student with some training, so some of its answers are correct.
LEARNED = {
  "student__arch": "llama", "student__scratch__vocab": 512, "taxonomy__train": 30,
  "train__steps": 100, "train__lr": 1e-2, "train__batch": 16, "train__buckets": (192,),
  "staged__interval": 1, "exam__questions": 20, "exam__samples": 3, "exam__temperature": 1.0,
  "exam__max_new_tokens": 28, "evaluate__max_new_tokens": 28,
}  # fmt: skip
# Pairs exist whether answers are correct or not: of 32 chains of thought, some are not cut off.
PAIRED = {"pair__policy": "cot_over_plain", "exam__samples": 4, "exam__max_new_tokens": 80}


def rows(run_dir, number, phase, name, kind):
  return run_dir.find(number, phase).rows(name, kind)


def metrics(run_dir, number, phase):
  return rows(run_dir, number, phase, fit.METRICS, records.Metrics)


def pairs(run_dir, number=1):
  return rows(run_dir, number, "pair", pair.PAIRS, records.PreferencePair)


def attempts(run_dir, number=1, phase="exam"):
  return rows(run_dir, number, phase, phase_dir.ATTEMPTS, records.Attempt)


def examples(run_dir, number=0):
  return rows(run_dir, number, "train", train.EXAMPLES, records.Example)


LOG2 = math.log(2)


def assert_begins_at_log_2(run_dir):
  first = metrics(run_dir, 1, "prefer")[0]
  np.testing.assert_allclose(first.preference, LOG2, rtol=0, atol=2e-6)
  np.testing.assert_allclose(first.margin, 0, atol=2e-6)
  np.testing.assert_allclose(first.kl, 0, atol=1e-6)


def evaluate(run_dir, recipe, capsys, **changes):
  """Evaluates the best round on the test split and checks what is printed."""
  capsys.readouterr()
  options = {"workdir": str(run_dir.path), "round": -1, "split": "test"}
  facts = commands.evaluate(read_settings(config(recipe, **changes), teacher=False), **options)
  printed = json.loads(capsys.readouterr().out)
  assert printed["accuracy"] == facts["accuracy"]
  return facts


def record_attempts(monkeypatch) -> list:
  """Returns a list that collects all attempts from now on."""
  taken, original = [], exam.sample_attempts

  def sample_attempts(*args, **more):
    attempts = original(*args, **more)
    taken.extend(attempts)
    return attempts

  monkeypatch.setattr(exam, "sample_attempts", sample_attempts)
  return taken
