"""A real pretrained model, where it is available: ../shared/models/stories260k-hf (Llama, 260k).

It continues its story, learns arithmetic with all weights and with LoRA, and its export generates
the same tokens in transformers.
"""

import pathlib

import numpy as np
import pytest

from distill_jax import records
from distill_jax.cli import commands
from distill_jax.config.read import read_settings
from distill_jax.console import Console
from distill_jax.run_dir import run_dir
from distill_jax.runtime import context, fit
from tests import test_rounds

MODEL = pathlib.Path(__file__).parents[3] / "shared/models/stories260k-hf"
THERE = [MODEL] if MODEL.exists() else []
STORY = (
  "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
)
CHANGES = {
  "rounds": 0, "train__buckets": (320,), "rollout__buckets": (192,), "train__steps": 30,
  "train__log_every": 5, "train__lr": 3e-3,
}  # fmt: skip


def opened(folder, **changes) -> context.RunContext:
  return context.RunContext(read_settings(test_rounds.config(**changes)), folder, Console())


@pytest.mark.parametrize("model", THERE)
def test_it_continues_its_story(model, tmp_path):
  with opened(run_dir.RunDir(tmp_path), **CHANGES, student__init=str(model)) as ctx:
    student, weights = ctx.students(-1)["student"]
    reply = student.generate(weights, [("", "story")], temperature=0.0, max_new_tokens=64)[0]
  assert reply.text.startswith(STORY)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("model", THERE)
def test_it_learns_arithmetic_and_its_export_generates_the_same(model, rank, tmp_path):
  import torch
  import transformers

  changes = CHANGES | {"student__init": str(model), "student__lora__rank": rank}
  _, folder = test_rounds.run(tmp_path / "run", **changes)
  losses = [
    m.loss for m in test_rounds.records_of(folder, 0, "train", fit.METRICS, records.Metrics)
  ]
  assert losses[-1] < 0.8 * losses[0]
  out = tmp_path / "out"
  commands.export(
    read_settings(test_rounds.config(**changes)), workdir=str(folder.path), round=0, out=str(out),
    dtype="float32", verify=True,
  )  # fmt: skip
  theirs = transformers.AutoModelForCausalLM.from_pretrained(out)
  words = transformers.AutoTokenizer.from_pretrained(out)
  with opened(folder, **changes) as ctx:
    student, weights = ctx.students(0)["student"]
    problems = ctx.task.problems("test")[:4]
    prompts = [ctx.prompt(p) for p in problems]
    requests = [(prompt, f"{n}") for n, prompt in enumerate(prompts)]
    ours = student.generate(weights, requests, temperature=0.0, max_new_tokens=64)
  for prompt, answer in zip(prompts, ours, strict=True):
    ids = torch.tensor([words(prompt)["input_ids"]])
    assert ids[0].tolist() == student.encode_prompt(prompt)
    with torch.no_grad():
      text = theirs.generate(ids, max_new_tokens=64, do_sample=False)[0, ids.shape[1] :]
    assert len(text) == answer.tokens
    assert student.tokenizer.decode(text.tolist()) == answer.text
  assert np.isfinite(losses).all()
