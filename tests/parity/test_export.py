"""A student from scratch leaves as a directory; transformers computes and decodes the same from it,
and it comes back bit for bit.

bash launch/test.sh -m parity        (after: .venv/bin/pip install torch==2.13.0)
"""

import functools
import types

import jax
import numpy as np
import pytest

from distill_jax.cli import commands
from distill_jax.config.read import read_settings
from distill_jax.data import tokenizer
from distill_jax.decoding import rollout, sampling
from distill_jax.machine import hf_read, hf_write
from distill_jax.students import decoder, families
from distill_jax.students.families import layout
from tests import compilations, recipes
from tests.golden import cases
from tests.students import reading

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)

TIED = ("gpt2", "gpt_neo", "opt", "llama", "qwen3", "gemma2", "gemma3_text")  # usually

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("kind", [kind for kind in families.BY_TYPE if kind != "t5"])
def test_a_student_leaves_comes_back_and_writes_what_transformers_writes(kind, tmp_path):
  import transformers

  from tests.parity import reference

  words, out, family = tmp_path / "tokenizer", tmp_path / "out", families.of(kind)
  tokenizer.train(["Question: 12 + 3\nAnswer: 15"] * 3, vocab=300, path=words)
  config = family.scratch(
    types.SimpleNamespace(
      vocab=tokenizer.Tokenizer(words).vocab, width=24, layers=3, heads=4, kv_heads=4, head_width=6,
      mlp=40, rope_theta=0.0, norm_eps=0.0, tied=kind in TIED, positions=80,
    )
  )  # fmt: skip
  tensors = family.tensors(config)
  params = jax.jit(functools.partial(decoder.init, config))(jax.random.key(3))
  hf_write.export(
    out, fields=family.write(config), tensors=tensors, to_theirs=layout.to_theirs, params=params,
    tokenizer=words, bos=None, eos=1, pad=0, positions=80, card="",
  )  # fmt: skip
  back = hf_read.load(out, tensors, spare=family.spare(config), prefix=family.PREFIX, like=params)
  jax.tree.map(np.testing.assert_array_equal, back, params)
  model, report = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
  assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
  tokens, mask = cases.batch(kind)
  want = reference.logits(model, tokens, mask)
  got, _ = reading.logits(config, params, tokens, mask)
  np.testing.assert_allclose(np.asarray(got)[mask > 0], want[mask > 0], rtol=0, atol=1e-4)
  greedy, _ = reference.greedy(model, tokens, mask, cases.NEW)
  rows = rollout.Rollout(
    config, params, sampling.sampling(0.0), sizes=rollout.sizes(2, 0.5, 1, 1),
    bucket=max(cases.LENGTHS), max_new_tokens=cases.NEW, eos=(-1,), pad=0,
  )  # fmt: skip
  prompts = [row[:n].tolist() for row, n in zip(tokens, cases.LENGTHS, strict=True)]
  sampled = rollout.sample(rows, prompts, [np.zeros((1, 2), np.uint32)] * len(tokens))
  np.testing.assert_array_equal(greedy, sampled.tokens)


def test_a_decomposer_and_a_solver_are_each_what_transformers_computes(tmp_path):
  """A socratic run leaves as two directories, of which either loads."""
  import transformers

  _, folder = recipes.run(tmp_path / "run", "socratic", rounds=0)
  out = tmp_path / "out"
  commands.export(
    read_settings(recipes.config("socratic", rounds=0)), workdir=str(folder.path), round=0,
    out=str(out), dtype="float32", verify=True,
  )  # fmt: skip
  weights = []
  for name in ("decomposer", "solver"):
    model = transformers.AutoModelForCausalLM.from_pretrained(out / name)
    words = transformers.AutoTokenizer.from_pretrained(out / name)
    assert words("Question: 3 + 4\nSolution:\n")["input_ids"]
    weights.append(model.get_input_embeddings().weight.detach().numpy())
  assert (weights[0] != weights[1]).any()
