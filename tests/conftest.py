"""Environment for jax, set before it is imported, and fixtures for scripted teacher servers."""

import atexit
import os
import pathlib
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Compiles three times as fast, with the same results. Flags of the caller stay, for example
# --xla_cpu_max_isa=AVX2 to test as on an older CPU.
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "")
  + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
# All tests and the commands that they start share their compiled programs. The first process, which
# starts the workers, makes the directory.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled = tempfile.mkdtemp(prefix="compiled-")
  atexit.register(shutil.rmtree, compiled, ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import contextlib

import pytest
import scripted

from distill_jax.teacher.client import client
from tests import teacher_faults as faults
from tests import teacher_server as server

# Files with long tests. They run first: at the end, no process is left alone with one of them.
LONG = (
  "faults/test_kill.py",
  "test_pretrained.py",
  "test_ablations.py",
  "faults/test_disk_full.py",
  "faults/test_mistakes.py",
  "test_rounds.py",
  "test_recipes.py",
  "learning/test_every_family.py",
  "test_extend.py",
  "test_add_a_recipe.py",
  "test_tinythinker.py",
  "students/test_lora.py",
)


def pytest_collection_modifyitems(items):
  order = {pathlib.Path(__file__).parent / name: n for n, name in enumerate(LONG)}
  items.sort(key=lambda item: order.get(item.path, len(LONG)))


@pytest.fixture
def serve():
  """serve(faults, ...) -> a running server with a `url`; the faults are a list or a script."""
  with contextlib.ExitStack() as stack:

    def start(script=(), *, answer=scripted.echo, latency=0.0, log="", idempotent=True):
      parsed = faults.Script(script, 0) if isinstance(script, str) else faults.Sequence(script)
      running = server.Server(
        answer,
        port=0,
        model="echo-1",
        latency=latency,
        script=parsed,
        log=log,
        idempotent=idempotent,
      )
      running.url = stack.enter_context(running.running())
      return running

    yield start


@pytest.fixture
def connect(tmp_path):
  """connect(url, **options) -> a client with a cache under tmp_path."""
  with contextlib.ExitStack() as stack:

    def start(url, **options):
      cache_path = str(tmp_path / "teacher.sqlite")
      options = {"cache_path": cache_path, **scripted.CLIENT_OPTIONS, **options}
      return stack.enter_context(contextlib.closing(client.Client(base_url=url, **options)))

    yield start
