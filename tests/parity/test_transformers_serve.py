"""A teacher server of another project: `transformers serve`, with a tiny random model.

bash launch/test.sh -m parity
(after: .venv/bin/pip install torch==2.13.0 "transformers[serving]")
"""

import contextlib
import os
import sys

import pytest

from distill_jax.data import tokenizer
from distill_jax.teacher import types
from distill_jax.teacher.client import client
from distill_jax.teacher.prompts import messages
from tests import compilations, real_servers, recipes, scripted

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
ENDS = list(range(1, 40))  # end tokens: so many that most replies end
TERMS = {**scripted.CLIENT_OPTIONS, "max_tokens": 128, "timeout": 60.0, "max_concurrency": 2}


def make(path) -> None:
  """Writes a Llama of 2 layers with random weights, and a tokenizer of 320 entries."""
  import torch
  import transformers

  tokenizer.train(["Question: 12 + 3\nAnswer: 15"] * 3, vocab=320, path=path)
  words = transformers.AutoTokenizer.from_pretrained(path)
  words.chat_template = TEMPLATE
  words.save_pretrained(path)
  torch.manual_seed(0)
  config = transformers.LlamaConfig(
    vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096, pad_token_id=0,
    bos_token_id=None, eos_token_id=ENDS,
  )  # fmt: skip
  model = transformers.LlamaForCausalLM(config)
  model.generation_config.do_sample = True  # otherwise temperature is ignored
  model.save_pretrained(path)


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
  """(base URL, model name) of the server."""
  folder = tmp_path_factory.mktemp("serving")
  make(folder / "model")
  port = real_servers.free_port()
  words = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder / "model")]
  words += ["--host=127.0.0.1", f"--port={port}", "--device=cpu"]
  env = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
  with real_servers.process(words, f"http://127.0.0.1:{port}/health", folder / "log", env):
    yield f"http://127.0.0.1:{port}/v1", str(folder / "model")


def test_its_replies_are_counted_kept_and_paid_once(serving, tmp_path):
  url, model = serving
  terms = TERMS | {"model": model, "cache_path": str(tmp_path / "teacher.sqlite")}
  teacher = client.Client(base_url=url, **terms)
  wanted = [
    types.Request("annotate", f"q{k}", messages.annotate(f"What is {k} + 1?"), 3) for k in range(5)
  ]
  with contextlib.closing(teacher):
    answers = scripted.ask(teacher, wanted)
    replies = [reply for row in answers for reply in row if isinstance(reply, types.Reply)]
    assert len(replies) >= 10  # a reply may be empty or cut off
    assert len({reply.text for reply in replies}) > 2  # samples differ: it reads the seed
    assert all(reply.text.strip() and reply.model.startswith(model) for reply in replies)
    assert all(reply.tokens_in > 50 and 0 < reply.tokens_out <= 128 for reply in replies)
    sent = teacher.ledger.requests_sent()
    assert sent == 15  # it returns one choice a request, whatever n is
    again = scripted.ask(teacher, wanted)
    assert again == answers and teacher.ledger.requests_sent() == sent


def test_a_run_is_played_with_it_as_teacher(serving, tmp_path):
  """Nothing that a random model writes is kept; the round continues with gold demonstrations."""
  url, model = serving
  summary, _ = recipes.run(
    tmp_path / "run", "tailored", demonstrate__source="gold", teacher__kind="openai",
    teacher__base_url=url, teacher__model=model, teacher__max_tokens=128,
    teacher__max_concurrency=2,
    exam__questions=4, teacher__min_reply_rate=0.0,
  )  # fmt: skip
  row = summary["rounds"][1]
  assert row["teacher"]["calls"] > 0 and row["teacher"]["tokens"] > 0
  assert sum(row["dropped"].values()) >= row["teacher"]["calls"]
