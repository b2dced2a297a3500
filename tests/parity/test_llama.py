"""The exported student computes in transformers and torch what it computes here.

bash launch/test.sh -m parity        (after: .venv/bin/pip install torch==2.13.0)
"""

import jax
import numpy as np
import pytest

from distill_jax.data import tokenizer
from distill_jax.decoding import choice, rollout
from distill_jax.machine import hf
from distill_jax.students import decoder

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_logits_and_greedy_tokens_are_those_of_transformers(tied, tmp_path):
  import torch
  import transformers

  words = tmp_path / "tokenizer"
  tokenizer.train(["Question: 12 + 3\nAnswer: 15"] * 3, vocab=300, path=words)
  config = decoder.Config(
    vocab=tokenizer.Tokenizer(words).vocab, width=24, layers=2, heads=4, kv_heads=2, head_width=6,
    mlp=40, rope_theta=5000.0, norm_eps=1e-5, dtype="float32", tied=tied,
  )  # fmt: skip
  params = decoder.init(config, jax.random.key(3))
  out = tmp_path / "out"
  hf.export(config, params, tokenizer=words, end=1, pad=0, positions=128, card="", out=out)
  theirs, report = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
  assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
  rng = np.random.Generator(np.random.PCG64(0))
  tokens = rng.integers(2, config.vocab, (3, 12), dtype=np.int32)
  line = np.broadcast_to(np.arange(12, dtype=np.int32), tokens.shape)
  ones = np.ones_like(tokens)
  states = decoder.hidden(config, params, decoder.Rows(tokens, line, ones, ones, 0 * ones))
  ours = np.asarray(states @ decoder.head(config, params))
  with torch.no_grad():
    np.testing.assert_allclose(theirs(torch.tensor(tokens)).logits.numpy(), ours, atol=1e-4)
    greedy = theirs.generate(
      torch.tensor(tokens), max_new_tokens=64, min_new_tokens=64, do_sample=False,
      eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
  sampled = rollout.sample(
    config, params, tokens.tolist(), [np.zeros((1, 2), np.uint32)] * 3, choice.sampling(0.0),
    sizes=rollout.sizes(2, 0.5, 1, 1), bucket=12, new_tokens=64, eos=(-1,), pad=0,
  )  # fmt: skip
  np.testing.assert_array_equal(greedy[:, 12:].numpy(), sampled.tokens)
