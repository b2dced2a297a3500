import pathlib

import floors
import pytest

HOUSE = pathlib.Path(__file__).parents[1] / "distill_jax"

BAD = [
  ("records.py", "from distill_jax import rounds", "stands above"),
  ("data/x.py", "def later():\n  from distill_jax.phases import exam", "stands above"),
  ("learning/x.py", "from .. import rounds", "stands above"),
  ("runtime/x.py", "from distill_jax.phases import exam", "stands above"),
  ("runtime/x.py", "from distill_jax.config import rules", "stands above"),
  ("settings.py", "from distill_jax.learning import losses", "stands above"),
  ("learning/x.py", "from ..run_dir import phase_dir", "device wing must not see the run dir"),
  ("teacher/store/x.py", "from distill_jax.teacher.client import client", "store sees only"),
  ("teacher/store/x.py", "from ..client import client", "store sees only"),
  ("teacher/client/x.py", "from distill_jax.teacher import pool", "client sees only"),
  ("teacher/batch/x.py", "from distill_jax.teacher.builtin import server", "batch sees only"),
  ("teacher/builtin/x.py", "from distill_jax.teacher.store import cache", "builtin sees only"),
  ("teacher/prompts/x.py", "from distill_jax import errors", "prompts sees only"),
  ("phases/x.py", "from distill_jax.rounds import best_round", "stands above"),
  ("rounds.py", "from distill_jax import cli", "stands above"),
  ("data/x.py", "from distill_jax.learning import step", "host wing must not see the device"),
  ("students/x.py", "import distill_jax.tasks.answers", "device wing must not see the host"),
  ("students/x.py", "from distill_jax import tasks", "device wing must not see the host"),
  ("machine/x.py", "from distill_jax import students", "machine wing must not see the device"),
  ("machine/x.py", "from ..tasks import answers", "machine wing must not see the host"),
  ("teacher/x.py", "from ..machine import checkpoint", "host wing must not see the machine"),
  ("tasks/x.py", "import jax.numpy as jnp", "does not know jax"),
  ("data/x.py", "def f():\n  import flax", "does not know jax"),
  ("run_dir/x.py", "from orbax import checkpoint", "does not know jax"),
  ("config/x.py", "import jax", "does not know jax"),
  ("console.py", "import optax", "does not know jax"),
  *[
    ("learning/x.py", f"import {effect}", "no effects")
    for effect in ("os", "time", "logging", "random", "pathlib", "io")
  ],
  ("decoding/x.py", "from os import path", "no effects"),
  ("decoding/x.py", "from distill_jax import console", "no effects"),
  ("decoding/x.py", "print(1)", "no effects"),
  ("students/x.py", "open('f')", "no effects"),
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
  ("attic.py", "", "stands on no floor"),
  ("phases/x.py", "from distill_jax import attic", "stands on no floor"),
  ("phases/x.py", "import importlib\nimportlib.import_module('jax')", "by string"),
  ("phases/x.py", "import importlib\nimportlib.import_module(f'{__name__}.x')", "by string"),
  ("phases/__init__.py", "import importlib\nimportlib.import_module(f'{a}.x')", "by string"),
  ("phases/x.py", "run.settings.train.get('lr', 1)", ".get("),
  ("phases/x.py", "config['train'].get('lr')", ".get("),
  ("phases/x.py", "getattr(settings, 'lr', 1)", "getattr"),
  ("data/utils.py", "", "says nothing"),
  ("data/helpers/x.py", "", "says nothing"),
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
  ("phases/__init__.py", "import importlib\nimportlib.import_module(f'{__name__}.{name}')"),
]


def write(root: pathlib.Path, place: str, source: str) -> None:
  (root / place).parent.mkdir(parents=True, exist_ok=True)
  (root / place).write_text(source)


def test_the_house_keeps_its_laws():
  assert len(list(HOUSE.rglob("*.py"))) > 40
  assert floors.breaches(HOUSE) == []


@pytest.mark.parametrize(("place", "source", "why"), BAD)
def test_the_laws_have_teeth(tmp_path, place, source, why):
  write(tmp_path, place, source)
  found = floors.breaches(tmp_path)
  assert len(found) == 1 and found[0].startswith(f"{place}:") and why in found[0]


@pytest.mark.parametrize(("place", "source"), GOOD)
def test_what_is_allowed_is_let_be(tmp_path, place, source):
  write(tmp_path, place, source)
  assert floors.breaches(tmp_path) == []


def test_every_room_stands_on_one_floor():
  rooms = [room for rooms in floors.FLOORS.values() for room in rooms]
  assert len(rooms) == len(set(rooms))
