import pathlib
import re

import floors
import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "distill_jax"

BAD = [
  ("records.py", "from distill_jax import rounds", "higher layer"),
  ("data/x.py", "def later():\n  from distill_jax.phases import exam", "higher layer"),
  ("learning/x.py", "from .. import rounds", "higher layer"),
  ("runtime/x.py", "from distill_jax.phases import exam", "higher layer"),
  ("runtime/x.py", "from distill_jax.config import rules", "higher layer"),
  ("settings.py", "from distill_jax.learning import losses", "higher layer"),
  ("learning/x.py", "from ..run_dir import phase_dir", "device code must not import run directory"),
  ("teacher/store/x.py", "from distill_jax.teacher.client import client", "store may import only"),
  ("teacher/store/x.py", "from ..client import client", "store may import only"),
  ("teacher/client/x.py", "from distill_jax.teacher import pool", "client may import only"),
  ("teacher/batch/x.py", "from distill_jax.teacher.builtin import server", "batch may import only"),
  (
    "teacher/builtin/x.py",
    "from distill_jax.teacher.store import cache",
    "builtin may import only",
  ),
  ("teacher/prompts/x.py", "from distill_jax import errors", "prompts may import only"),
  ("phases/x.py", "from distill_jax.rounds import best_round", "higher layer"),
  ("rounds.py", "from distill_jax import cli", "higher layer"),
  ("data/x.py", "from distill_jax.learning import step", "host code must not import device"),
  ("students/x.py", "import distill_jax.tasks.answers", "device code must not import host"),
  ("students/x.py", "from distill_jax import tasks", "device code must not import host"),
  ("machine/x.py", "from distill_jax import students", "machine code must not import device"),
  ("machine/x.py", "from ..tasks import answers", "machine code must not import host"),
  ("teacher/x.py", "from ..machine import checkpoint", "host code must not import machine"),
  ("tasks/x.py", "import jax.numpy as jnp", "must not import jax"),
  ("data/x.py", "def f():\n  import flax", "must not import jax"),
  ("run_dir/x.py", "from orbax import checkpoint", "must not import jax"),
  ("config/x.py", "import jax", "must not import jax"),
  ("serving/x.py", "import http.server", "only teacher/"),
  ("serving/x.py", "from distill_jax.cli import main", "higher layer"),
  ("runtime/x.py", "from distill_jax.serving import engine", "higher layer"),
  ("report/x.py", "import jax", "must not import jax"),
  ("report/x.py", "from distill_jax.cli import show", "higher layer"),
  ("report/x.py", "import http.server", "only teacher/"),
  ("runtime/x.py", "from distill_jax.report import load", "higher layer"),
  ("console.py", "import optax", "must not import jax"),
  *[
    ("learning/x.py", f"import {effect}", "no side effects")
    for effect in ("os", "time", "logging", "random", "pathlib", "io")
  ],
  ("decoding/x.py", "from os import path", "no side effects"),
  ("decoding/x.py", "from distill_jax import console", "no side effects"),
  ("decoding/x.py", "print(1)", "no side effects"),
  ("students/x.py", "open('f')", "no side effects"),
  ("learning/x.py", "import urllib.request", "only teacher/"),
  ("data/x.py", "import openai", "only teacher/"),
  ("phases/x.py", "from urllib import request", "only teacher/"),
  ("machine/x.py", "import http.client", "only teacher/"),
  ("phases/x.py", "import transformers", "Hugging Face"),
  ("machine/x.py", "from safetensors import numpy", "Hugging Face"),
  ("tasks/x.py", "import datasets", "Hugging Face"),
  ("phases/hf_x.py", "import safetensors", "Hugging Face"),
  ("machine/hf_write.py", "def f():\n  import torch", "torch"),
  ("phases/x.py", "from torch import nn", "torch"),
  ("attic.py", "", "is in no layer"),
  ("phases/x.py", "from distill_jax import attic", "is in no layer"),
  ("phases/x.py", "import importlib\nimportlib.import_module('jax')", "by string"),
  ("phases/x.py", "import importlib\nimportlib.import_module(f'{__name__}.x')", "by string"),
  ("phases/__init__.py", "import importlib\nimportlib.import_module(f'{a}.x')", "by string"),
  ("phases/x.py", "ctx.settings.train.get('lr', 1)", ".get("),
  ("phases/x.py", "config['train'].get('lr')", ".get("),
  ("phases/x.py", "getattr(settings, 'lr', 1)", "getattr"),
  ("data/utils.py", "", "does not say"),
  ("data/helpers/x.py", "", "does not say"),
  ("tasks/x.py", "import types\nx = types.SimpleNamespace(a=1)", "SimpleNamespace"),
  ("tasks/x.py", "# like a SimpleNamespace", "SimpleNamespace"),
  ("machine/x.py", "def f(a: int, b): ...", "f: parameter b has no type"),
  ("console.py", "async def f(*, b): ...", "f: parameter b has no type"),
  ("errors.py", "def f(*rest): ...", "f: parameter rest has no type"),
  ("records.py", "def f(**rest): ...", "f: parameter rest has no type"),
  ("run_dir/x.py", "def f(self): ...", "f: parameter self has no type"),
  ("run_dir/x.py", "class A:\n  def f(self, a): ...", "f: parameter a has no type"),
  ("run_dir/x.py", "class A:\n  class B:\n    def f(self, a): ...", "f: parameter a has no type"),
  ("data/x.py", "x = 1\n" * 401, "401 lines"),
  ("data/x.py", "async def f():\n" + "  x = 1\n" * 80, "81 lines"),
]

GOOD = [
  (
    "phases/x.py",
    "from distill_jax import records\nfrom distill_jax.learning import step\nimport jax",
  ),
  (
    "phases/x.py",
    "from distill_jax.phases import exam\nfrom distill_jax.machine import checkpoint",
  ),
  ("teacher/x.py", "import openai\nimport os\nfrom distill_jax.worlds import arithmetic"),
  (
    "learning/x.py",
    "import jax\nfrom distill_jax.students import decoder\nfrom distill_jax import errors",
  ),
  ("machine/hf.py", "import safetensors\nimport jax"),
  ("teacher/client/x.py", "from distill_jax.teacher.store import cache\nfrom . import verdicts"),
  ("rounds.py", "from distill_jax import settings"),
  ("teacher/x.py", "from distill_jax import settings"),
  ("machine/hf_verify.py", "def f():\n  import torch\n  import transformers"),
  ("data/x.py", "import tokenizers\nfrom urllib import parse"),
  ("tasks/x.py", "{}.get('a', 1)\nfound.get('a', 1)"),
  ("data/x.py", "x = 1\n" * 400),
  ("machine/x.py", "def _f(a): ...\ndef f(a: int, *b: int):\n  def g(c): ..."),
  ("machine/x.py", "class A:\n  def f(self, a: int): ...\n  def _g(self, a): ..."),
  ("machine/x.py", "class A:\n  @classmethod\n  def f(cls): ...\n  def __init__(self, a): ..."),
  ("machine/x.py", "class _A:\n  def f(self, a): ..."),
  ("phases/__init__.py", "import importlib\nimportlib.import_module(f'{__name__}.{name}')"),
]


def write(root: pathlib.Path, file: str, source: str) -> None:
  (root / file).parent.mkdir(parents=True, exist_ok=True)
  (root / file).write_text(source)


def test_the_package_keeps_its_laws():
  assert len(list(PACKAGE.rglob("*.py"))) > 40
  assert floors.breaches(PACKAGE) == []


@pytest.mark.parametrize(("file", "source", "message"), BAD)
def test_every_breach_is_found(tmp_path, file, source, message):
  write(tmp_path, file, source)
  found = floors.breaches(tmp_path)
  assert len(found) == 1 and found[0].startswith(f"{file}:") and message in found[0]


@pytest.mark.parametrize(("file", "source"), GOOD)
def test_allowed_code_is_no_breach(tmp_path, file, source):
  write(tmp_path, file, source)
  assert floors.breaches(tmp_path) == []


def test_every_room_is_on_exactly_one_floor():
  rooms = [room for rooms in floors.FLOORS.values() for room in rooms]
  assert len(rooms) == len(set(rooms))


def test_the_layers_of_the_documentation_are_those_that_are_enforced():
  page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
  table = page.partition("## Import layers")[2].split("```")[1]
  layers = re.findall(r"^(\d)  (.+)$", table, re.MULTILINE)
  written = {int(floor): set(re.split(r", | \| ", rooms)) for floor, rooms in layers}
  enforced = {
    floor: {"settings*" if room.startswith("settings") else room for room in rooms}
    for floor, rooms in floors.FLOORS.items()
  }
  assert written == enforced


def test_the_layout_of_the_documentation_is_that_of_the_tree():
  root = PACKAGE.parent
  page = (root / "docs" / "architecture.md").read_text()
  around, _, inside = page.partition("## Layout")[2].split("```")[1].partition("distill_jax/\n")
  rooms = {"settings*" if room.startswith("settings") else room for room in floors.FLOOR_OF}
  assert set(re.findall(r"([\w*]+)(?:/|\.py)", inside)) == rooms
  written = set(re.findall(r"(\w+)/", around))
  assert written >= {"configs", "launch", "docs", "tests"}
  assert written >= {path.parent.name for path in root.glob("benchmarks/**/__init__.py")}
