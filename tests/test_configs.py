"""Every recipe and every row of every sweep loads, in each size, and passes all checks."""

import importlib
import inspect
import pathlib

import pytest

from distill_jax import errors
from distill_jax.ablations import sweep
from distill_jax.config import recipes
from distill_jax.config.read import read_settings

ROOT = pathlib.Path(__file__).parents[1]
SWEEPS = sorted(p.stem for p in (ROOT / "configs/sweeps").glob("*.py") if p.name != "__init__.py")


def sizes(name: str) -> list[str]:
  module = importlib.import_module(f"configs.{name}")
  return list(module.SIZES) if inspect.signature(module.get_config).parameters else []


def test_there_are_recipes():
  assert {"quickstart", "tailored", "self_refine", "tinythinker", "socratic"} < set(recipes.names())


@pytest.mark.parametrize("name", ["base", *recipes.names()])
def test_every_recipe_passes_the_checks_in_every_size(name):
  read_settings(recipes.load(name).to_dict())
  for size in sizes(name):
    config = recipes.load(f"{name}:{size}")
    config.student.init = config.student.init or "a/model"  # which the user names
    read_settings(config.to_dict())
    with pytest.raises(errors.UserError, match="has no size"):
      recipes.load(f"{name}:{size}x")


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_says_how_to_run_it(name):
  text = importlib.import_module(f"configs.{name}").__doc__
  assert f"distill-jax run --config={name} --workdir=runs/{name}" in text
  for size in set(sizes(name)) - {"full"}:
    assert f"distill-jax run --config={name}:{size}" in text


@pytest.mark.parametrize("name", SWEEPS)
def test_every_row_of_every_sweep_passes_the_checks_and_is_a_run_of_its_own(name, tmp_path):
  module = importlib.import_module(f"configs.sweeps.{name}")
  assert f"distill-jax ablate --config=sweeps/{name} --workdir=" in module.__doc__
  assert module.get_sweep() == module.get_sweep("claims")
  for which in module.ROWS:
    made = sweep.load_sweep(f"sweeps/{name}:{which}")
    planned = sweep.plan_runs(made, tmp_path)
    assert len({repr(p.config) for p in planned}) == len(made.rows) * len(made.seeds)
