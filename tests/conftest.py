"""Eight CPU devices and strict ranks, set before jax is imported; a scripted teacher server."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Compiles in a third of the time, and computes the same.
os.environ["XLA_FLAGS"] = (
  "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import contextlib

import pytest
import scripted

from distill_jax.teacher.builtin import faults, server
from distill_jax.teacher.client import client


@pytest.fixture
def serve():
  """serve(faults, ...) -> a running server with its `url`; faults is a list, or a script."""
  with contextlib.ExitStack() as stack:

    def start(script=(), *, answer=scripted.echo, latency=0.0, log="", idempotent=True):
      kind = faults.Script(script, 0) if isinstance(script, str) else faults.Sequence(script)
      made = server.Server(
        answer, port=0, model="echo-1", latency=latency, script=kind, log=log, idempotent=idempotent
      )
      made.url = stack.enter_context(made.running())
      return made

    yield start


@pytest.fixture
def connect(tmp_path):
  """connect(url, **terms) -> a client with a cache under tmp_path."""
  with contextlib.ExitStack() as stack:

    def start(url, **terms):
      terms = {"cache_path": str(tmp_path / "teacher.sqlite"), **scripted.TERMS, **terms}
      return stack.enter_context(contextlib.closing(client.Client(base_url=url, **terms)))

    yield start
