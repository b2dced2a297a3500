"""The wheel: what is in it, and that its command runs a recipe from any directory."""

import email
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
EXTRAS = {
  "gpu": ["requirements-gpu.txt"],
  "tpu": ["requirements-tpu.txt"],
  "quantized": ["requirements-quantized.txt"],
  "docs": ["requirements-docs.txt"],
  "dev": ["requirements-dev.txt", "requirements-docs.txt"],
}
TINY = """
  rounds=0 task.validation=4 world.train=16 world.test=4 world.out_of_domain=0 world.steps_max=1
  demonstrate.questions=8 exam.questions=4 exam.samples=1 exam.max_new_tokens=8
  evaluate.max_new_tokens=8 student.scratch.layers=1 student.scratch.width=32
  student.scratch.head_width=8 student.scratch.mlp=64 student.scratch.vocab=320
  train.steps=1 train.batch=4 train.warmup=0 train.buckets=192 rollout.buckets=128 rollout.batch=4
""".split()


def run(*words, cwd: pathlib.Path, **extra) -> str:
  environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  done = subprocess.run(
    [*map(str, words)], cwd=cwd, env={**environment, **extra}, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
  return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
  """The wheel of a copy of the repository, since building leaves files behind."""
  copy = tmp_path_factory.mktemp("source")
  for name in ("distill_jax", "configs"):
    shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
  for file in (
    "pyproject.toml",
    "setup.py",
    "README.md",
    *map(str, ROOT.glob("requirements*.txt")),
  ):
    shutil.copy(ROOT / file, copy)
  options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir=out")
  run(sys.executable, "-m", "pip", "wheel", *options, ".", cwd=copy)
  return next((copy / "out").glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> pathlib.Path:
  """An empty virtual environment with the wheel; the requirements come from this one."""
  root = tmp_path_factory.mktemp("environment")
  venv.create(root)
  packages = next((root / "lib").glob("python*/site-packages"))
  (packages / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
  python = ("--python", root / "bin/python")
  options = ("--quiet", "--no-deps", "--no-index")
  run(sys.executable, "-m", "pip", *python, "install", *options, wheel, cwd=root)
  return root


def requirements(file: str) -> set[str]:
  lines = (line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
  return {line for line in lines if line}


def normal(requirement: str) -> tuple[str, frozenset[str]]:
  """(name with extras, bounds): metadata sorts the bounds in its own way."""
  name = requirement.replace(">", "<").split("<")[0]
  return name, frozenset(requirement.removeprefix(name).split(","))


def test_the_wheel_has_every_module_every_config_and_its_types(wheel):
  names = set(zipfile.ZipFile(wheel).namelist())
  modules = {
    f"distill_jax/{file.relative_to(ROOT / 'distill_jax').as_posix()}"
    for file in (ROOT / "distill_jax").rglob("*.py")
  }
  configs = {
    f"distill_jax/configs/{file.relative_to(ROOT / 'configs').as_posix()}"
    for file in (ROOT / "configs").rglob("*.py")
  }
  data = {
    f"distill_jax/{name}"
    for name in ("py.typed", "report/browser.js", "report/page.css", "teacher/prices.csv")
  }
  installed = {name for name in names if ".dist-info/" not in name}
  assert installed == modules | configs | data


def test_the_metadata_asks_for_what_the_requirements_files_say(wheel):
  archive = zipfile.ZipFile(wheel)
  file = next(name for name in archive.namelist() if name.endswith("/METADATA"))
  metadata = email.message_from_bytes(archive.read(file))
  asked = {}
  for line in metadata.get_all("Requires-Dist"):
    requirement, _, condition = line.partition("; ")
    extra = condition.partition("== ")[2].strip('"')
    asked.setdefault(extra, set()).add(normal(requirement))
  assert asked.pop("") == set(map(normal, requirements("requirements.txt")))
  assert asked == {
    extra: {normal(line) for file in files for line in requirements(file)}
    for extra, files in EXTRAS.items()
  }
  assert set(metadata.get_all("Provides-Extra")) == set(EXTRAS)


def test_the_version_has_an_entry_in_the_changelog():
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  headings = [
    line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")
  ]
  released = [heading for heading in headings if heading != "## Unreleased"]
  assert released[0].startswith(f"## {project['version']} - ")


def test_the_installed_command_runs_a_recipe_by_name_from_any_directory(environment, tmp_path):
  where = run(
    environment / "bin/python",
    "-c",
    "import distill_jax; print(distill_jax.__file__)",
    cwd=tmp_path,
  )
  assert where.startswith(str(environment))
  words = ["--config=quickstart", "--workdir=first", *(f"--config.{word}" for word in TINY)]
  run(
    environment / "bin/distill-jax",
    "run",
    *words,
    cwd=tmp_path,
    JAX_NUM_CPU_DEVICES="1",
    JAX_DISABLE_MOST_OPTIMIZATIONS="1",
  )
  assert (tmp_path / "first/summary.json").exists()
