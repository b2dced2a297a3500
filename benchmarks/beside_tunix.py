"""Compares the same work in this package and in Tunix, on the CPU.

  pip install google-tunix==0.1.7     (in addition to the packages of this project)
  python -m benchmarks.beside_tunix step       one training step: 8 rows of 256
  python -m benchmarks.beside_tunix sampling   32 prompts of 64 tokens, 128 new, greedy

A Qwen2 of 4 layers, width 256 and vocabulary 8192 with random weights, in float32. Tunix's
PeftTrainer takes its default loss with AdamW and clipping, its Sampler has no tokenizer to wait
for: prompts are numbers, and no row ends early. Measured as in beside_transformers.py, with a line
of JSON.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import beside_transformers

QWEN = dict(
  model_type="qwen2", vocab_size=8192, hidden_size=256, num_hidden_layers=4, num_attention_heads=4,
  num_key_value_heads=2, intermediate_size=704, rms_norm_eps=1e-6, rope_theta=1e6,
  tie_word_embeddings=True, use_sliding_window=False, max_position_embeddings=512,
)  # fmt: skip


class Numbers:
  """A tokenizer of texts that are numbers."""

  def encode(self, text: str, **_: Any) -> list[int]:
    return [int(word) for word in text.split()]

  def decode(self, ids: list[int], **_: Any) -> str:
    return " ".join(map(str, ids))

  def bos_id(self) -> None:
    return None

  def eos_id(self) -> int:
    return -1

  def pad_id(self) -> int:
    return 0


def their_model() -> Any:
  from flax import nnx
  from tunix.models.qwen2 import model as qwen2

  config = qwen2.ModelConfig(
    num_layers=QWEN["num_hidden_layers"], vocab_size=QWEN["vocab_size"],
    embed_dim=QWEN["hidden_size"], hidden_dim=QWEN["intermediate_size"],
    num_heads=QWEN["num_attention_heads"],
    head_dim=QWEN["hidden_size"] // QWEN["num_attention_heads"],
    num_kv_heads=QWEN["num_key_value_heads"], rope_theta=int(QWEN["rope_theta"]),
    norm_eps=QWEN["rms_norm_eps"], use_tied_embedding=True,
  )  # fmt: skip
  return qwen2.Qwen2(config, rngs=nnx.Rngs(0))


def step(rows: int = 8, length: int = 256) -> tuple[Callable[[], Any], Callable[[], Any], int]:
  """Returns a training step on both sides, and the number of tokens."""
  from tunix.sft import peft_trainer

  ids = beside_transformers.tokens(QWEN, rows, length)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4, weight_decay=0.01))
  trainer = peft_trainer.PeftTrainer(
    their_model(), optimizer, peft_trainer.TrainingConfig(eval_every_n_steps=10**9)
  )
  train_step, _ = trainer.jit_train_and_eval_step()
  positions = np.broadcast_to(np.arange(length), ids.shape)
  causal = np.broadcast_to(np.tri(length, dtype=bool), (rows, length, length))
  batch = {
    "input_tokens": ids, "input_mask": np.ones(ids.shape, bool), "positions": positions,
    "attention_mask": causal,
  }  # fmt: skip
  batch = jax.tree.map(jnp.asarray, batch)
  return (
    beside_transformers.our_step(QWEN, "float32", ids),
    lambda: train_step(batch),
    rows * length,
  )


def sampling(
  rows: int = 32, prompt: int = 64, new: int = 128
) -> tuple[Callable[[], Any], Callable[[], Any], int]:
  """Returns greedy decoding on both sides, and the number of new tokens."""
  from tunix.generate import sampler

  cache = sampler.CacheConfig(
    cache_size=prompt + new, num_layers=QWEN["num_hidden_layers"],
    num_kv_heads=QWEN["num_key_value_heads"],
    head_dim=QWEN["hidden_size"] // QWEN["num_attention_heads"],
  )  # fmt: skip
  theirs = sampler.Sampler(their_model(), Numbers(), cache)
  ids = beside_transformers.tokens(QWEN, rows, prompt)
  texts = [" ".join(map(str, row)) for row in ids]

  def run_theirs() -> Any:
    out = theirs(texts, max_generation_steps=new, max_prompt_length=prompt, eos_tokens=[-1])
    return np.stack(out.tokens)

  ours = beside_transformers.our_sampling(QWEN, "float32", rows=rows, prompt=prompt, new=new)
  return ours, run_theirs, rows * new


WORKS = {"step": step, "sampling": sampling}


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("work", choices=WORKS)
  parser.add_argument("--repeats", type=int, default=7)
  args = parser.parse_args()
  beside_transformers.compare(f"{args.work} beside Tunix", WORKS[args.work](), args.repeats)


if __name__ == "__main__":
  main()
