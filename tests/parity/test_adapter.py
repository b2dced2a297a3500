"""LoRA adapters in peft: on the base, they compute what the merged export computes.

bash launch/test.sh -m parity        (after: .venv/bin/pip install torch==2.13.0 peft)
"""

import numpy as np
import pytest

from distill_jax.cli import commands
from distill_jax.config.read import read_settings
from tests import compilations, recipes

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(
  ("arch", "targets"),
  [
    ("llama", ("q", "k", "o", "gate", "down")),
    ("gpt2", ("q", "v", "o", "up", "down")),  # q and v are parts of one stored tensor
    ("t5", ("q", "v", "o", "down")),
  ],
)
def test_peft_computes_what_the_merged_student_computes(arch, targets, tmp_path):
  peft = pytest.importorskip("peft")
  import torch
  import transformers

  scratch = {"student__arch": arch, "student__scratch__kv_heads": 4}
  _, base_run = recipes.run(tmp_path / "base_run", "cot", **scratch)
  base, merged, adapter = (str(tmp_path / name) for name in ("base", "merged", "adapter"))
  options = {"round": 0, "dtype": "float32", "verify": False}
  commands.export(
    read_settings(recipes.config("cot", **scratch)), workdir=str(base_run.path), out=base, **options
  )
  lora = {"student__init": base, "student__lora__rank": 2, "student__lora__targets": targets}
  _, run_dir = recipes.run(tmp_path / "run", "cot", train__lr=1e-2, **lora)
  settings = read_settings(recipes.config("cot", train__lr=1e-2, **lora))
  commands.export(settings, workdir=str(run_dir.path), out=merged, **options)
  commands.export(settings, workdir=str(run_dir.path), out=adapter, adapter=True, **options)
  kind = "AutoModelForSeq2SeqLM" if arch == "t5" else "AutoModelForCausalLM"
  load = getattr(transformers, kind).from_pretrained
  adapted = peft.PeftModel.from_pretrained(load(base), adapter).eval()
  tokens = torch.arange(2, 22)[None]
  inputs = {"input_ids": tokens}
  if arch == "t5":
    inputs["decoder_input_ids"] = torch.arange(0, 9)[None]
  with torch.no_grad():
    got, want, before = (
      model(**inputs).logits.numpy() for model in (adapted, load(merged).eval(), load(base).eval())
    )
  assert np.abs(want - before).max() > 1e-2
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
