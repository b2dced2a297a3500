"""litellm's proxy between the teacher client and a scripted server.

python -m venv LITELLM_VENV && LITELLM_VENV/bin/pip install "litellm[proxy]==1.108.7"
LITELLM=LITELLM_VENV/bin/litellm .venv/bin/python -m pytest -m heavy tests/parity/test_litellm.py

The proxy needs its own environment, apart from the project's. About 2 minutes on 2 cores.
"""

import json
import os

import pytest

from distill_jax import errors
from distill_jax.config.read import read_settings
from distill_jax.runtime import context
from distill_jax.teacher import types
from distill_jax.teacher.builtin import teacher as builtin
from tests import compilations, real_servers, recipes, scripted, teacher_faults, teacher_server

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)

PROGRAM = os.environ.get("LITELLM", "")

pytestmark = [
  pytest.mark.heavy,
  pytest.mark.skipif(not PROGRAM, reason="needs LITELLM, the program of litellm[proxy]"),
]

KEY = "sk-of-the-tests"
PRICED = {"input_cost_per_token": 1e-3, "output_cost_per_token": 1e-3}
MODELS = {  # what the proxy serves, all by one upstream server
  "plain": {},
  "two_a_minute": {"rpm": 2},
  "budget": {**PRICED, "max_budget": 1e-9, "budget_duration": "1d"},
}
CHANGES = {"demonstrate__rationales": 3, "teacher__kind": "openai", "teacher__model": "plain"}


class Script:
  """The faults of the upstream server, which each test sets."""

  def __init__(self):
    self.faults: list[str] = []
    self.then = ""

  def pick(self, number: int) -> teacher_faults.Fault | None:
    del number
    fault = self.faults.pop(0) if self.faults else self.then
    return teacher_faults.parse(fault) if fault else None


@pytest.fixture(scope="module")
def upstream():
  world = context.open_task(
    read_settings(recipes.config("tailored", teacher__kind="builtin"))
  ).world
  answer = builtin.BuiltinTeacher(world, error_rate=0.05, seed=0)
  server = teacher_server.Server(
    answer, port=0, model="up", latency=0.0, script=Script(), log="", idempotent=False
  )
  with server.running() as url:
    server.url = url
    yield server


@pytest.fixture(scope="module")
def proxy(upstream, tmp_path_factory):
  """Base URL of the proxy."""
  folder, port = tmp_path_factory.mktemp("litellm"), real_servers.free_port()
  base = {"model": "openai/up", "api_base": upstream.url, "api_key": "sk-of-the-upstream"}
  config = {
    "model_list": [{"model_name": n, "litellm_params": {**base, **p}} for n, p in MODELS.items()],
    "litellm_settings": {"num_retries": 0},
    "router_settings": {
      "num_retries": 0,
      "disable_cooldowns": True,
      "optional_pre_call_checks": ["enforce_model_rate_limits"],
    },
    "general_settings": {"master_key": KEY},
  }
  (folder / "config.yaml").write_text(json.dumps(config))
  command = [
    *(PROGRAM, "--config", str(folder / "config.yaml"), "--host", "127.0.0.1"),
    *("--port", str(port), "--telemetry", "False"),
  ]
  env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
  health = f"http://127.0.0.1:{port}/health/liveliness"
  with real_servers.process(command, health, folder / "log", env):
    yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(autouse=True)
def script(upstream, monkeypatch):
  """The upstream's script, without faults."""
  monkeypatch.setenv("LITELLM_KEY", KEY)
  found = upstream._script
  found.faults, found.then = [], ""
  return found


@pytest.mark.parametrize("structured", [False, True])
def test_every_sample_gets_one_reply_and_nothing_is_paid_twice(
  proxy, upstream, script, tmp_path, structured
):
  script.faults = ["429:retry_after=1", "500", "", "429", "503"]
  before = upstream.stats.completed
  changes = CHANGES | {
    "teacher__base_url": proxy, "teacher__key_env": "LITELLM_KEY",
    "teacher__structured": structured,
  }  # fmt: skip
  with pytest.raises(errors.UserError) as stopped:
    recipes.run(tmp_path / "run", "tailored", teacher__max_requests=12, **changes)
  assert stopped.value.code == errors.BUDGET
  summary, run_dir = recipes.run(tmp_path / "run", "tailored", **changes)
  calls = sum(row["teacher"]["calls"] for row in summary["rounds"])
  assert upstream.stats.completed - before == calls > 36
  assert upstream.stats.paid_twice == 0
  requests = upstream.stats.requests
  assert recipes.run(tmp_path / "run", "tailored", **changes)[0] == summary
  changes["teacher__cache"] = str(run_dir.path / "teacher.sqlite")
  recipes.run(tmp_path / "again", "tailored", **changes)
  assert upstream.stats.requests == requests


def stop(connect, proxy, requests=12, **options):
  """The error that ends a call of the teacher."""
  options = {"key_env": "LITELLM_KEY", "model": "plain", **options}
  with pytest.raises(errors.UserError) as stopped:
    scripted.ask(connect(proxy, **options), scripted.wanted(requests, samples=2))
  assert stopped.value.code == errors.TEACHER
  return str(stopped.value)


@pytest.mark.parametrize(
  ("fault", "words"),
  [
    ("429:code=insufficient_quota:say=You exceeded your current quota", "no credit or quota left"),
    ("401:code=invalid_api_key:say=Incorrect API key provided", "key is missing or wrong"),
    ("402:say=Insufficient Balance", "no credit or quota left"),
    ("404:code=model_not_found:say=The model has been deprecated", "config.teacher.model"),
  ],
)
def test_a_refusal_of_the_upstream_stops_the_run_at_once(
  connect, proxy, upstream, script, fault, words
):
  script.then, before = fault, upstream.stats.requests
  assert words in stop(connect, proxy)
  assert upstream.stats.requests - before <= scripted.CLIENT_OPTIONS["max_concurrency"]


def test_a_wrong_key_and_an_unknown_model_stop_at_once(connect, proxy, upstream, monkeypatch):
  before = upstream.stats.requests
  assert "name another model" in stop(connect, proxy, model="none")
  monkeypatch.setenv("LITELLM_KEY", "sk-wrong")
  assert "key is missing or wrong" in stop(connect, proxy)
  assert upstream.stats.requests == before


def test_a_spent_budget_stops_the_run(connect, proxy):
  message = stop(connect, proxy, model="budget", requests=200)
  assert "no credit or quota left" in message


def test_the_wait_of_a_rate_limit_is_the_proxys(connect, proxy):
  assert "asks to wait 60 s" in stop(connect, proxy, model="two_a_minute")


def test_a_filtered_question_is_a_failure_of_its_own(connect, proxy, script):
  script.then = "400:code=content_filter:say=filtered by the content management policy"
  teacher = connect(proxy, key_env="LITELLM_KEY", model="plain")
  (first, *_), *_ = outcomes = scripted.ask(teacher, scripted.wanted(12))
  assert isinstance(first, types.Failure)
  assert {outcome.kind for row in outcomes for outcome in row} == {"filtered"}
