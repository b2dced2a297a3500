"""Every recipe and every sweep has valid settings in every size, and every setting is used."""

import dataclasses
import importlib
import inspect
import pathlib
import re

import pytest

from configs import base
from distill_jax import settings
from distill_jax.ablations import sweep
from distill_jax.config.read import read_settings

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(
  p.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
  for p in (ROOT / "configs").glob("*.py")
  if p.name != "__init__.py"
)
SWEEPS = sorted(p.stem for p in (ROOT / "configs/sweeps").glob("*.py") if p.name != "__init__.py")


def sizes(module) -> list[str]:
  """The sizes of a recipe; [] if it has only one."""
  if not inspect.signature(module.get_config).parameters:
    return []
  return list(getattr(module, "SIZES", {}))


def test_there_are_configs():
  assert {"configs.base", "configs.quickstart", "configs.tailored"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_config_is_valid_in_every_size(name):
  module = importlib.import_module(name)
  read_settings(module.get_config().to_dict())
  for size in sizes(module):
    read_settings(module.get_config(size).to_dict())
    with pytest.raises(KeyError):
      module.get_config(size + "x")


@pytest.mark.parametrize("name", [n for n in FILES if n != "configs.base"])
def test_the_docstring_of_a_config_has_the_command_that_runs_it(name):
  command = f"distill-jax run --config={name.removeprefix('configs.')}"
  assert command in importlib.import_module(name).__doc__


@pytest.mark.parametrize("name", SWEEPS)
def test_every_row_of_every_sweep_is_valid_and_a_run_of_its_own(name, monkeypatch, tmp_path):
  monkeypatch.chdir(ROOT)
  file = f"configs/sweeps/{name}.py"
  module = importlib.import_module(f"configs.sweeps.{name}")
  assert f"distill-jax ablate --config=sweeps/{name}" in module.__doc__
  assert module.get_sweep() == module.get_sweep("claims")
  for which in module.ROWS:
    made = sweep.load_sweep(f"{file}:{which}")
    planned = sweep.plan_runs(made, tmp_path)
    assert len({repr(p.config) for p in planned}) == len(made.rows) * len(made.seeds)


def leaves(kind, path=""):
  for field in dataclasses.fields(kind):
    key = f"{path}.{field.name}"
    if dataclasses.is_dataclass(field.type):
      yield from leaves(field.type, key)
    else:
      yield key[1:]


def test_the_settings_are_the_keys_of_the_base_config():
  def keys(config, path=""):
    for name, value in config.items():
      key = f"{path}.{name}"
      group = hasattr(value, "items") and len(value)  # teachers, which is empty, is a leaf
      yield from keys(value, key) if group else [key[1:]]

  assert sorted(keys(base.get_config())) == sorted(leaves(settings.Settings))


def unread(names, sources: str) -> list[str]:
  """Settings whose name occurs nowhere in `sources`."""
  return [n for n in names if not re.search(rf"\b{n.split('.')[-1]}\b", sources)]


def test_every_setting_is_read_somewhere():
  package = ROOT / "distill_jax"
  declared = {*package.glob("settings*.py"), *(package / "config").glob("*.py")}
  files = set(package.rglob("*.py")) - declared
  assert unread(leaves(settings.Settings), "\n".join(f.read_text() for f in files)) == []


def test_an_unread_setting_is_detected():
  assert unread(["train.lr", "train.never_read"], "s.lr") == ["train.never_read"]
