"""Students whose programs can be compiled: named sizes, or a directory with a config.json."""

import dataclasses
import json
import pathlib
from typing import Any

from benchmarks import measure
from distill_jax.students import families

_QWEN = {"model_type": "qwen2", "vocab_size": 151936, "tie_word_embeddings": True}
_QWEN |= {"rope_theta": 1e6, "rms_norm_eps": 1e-6, "use_sliding_window": False}
_LLAMA3 = {
  "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
  "original_max_position_embeddings": 8192,
}  # fmt: skip


def _sizes(width: int, layers: int, heads: int, groups: int, mlp: int) -> dict[str, int]:
  return {
    "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
    "num_key_value_heads": groups, "intermediate_size": mlp,
  }  # fmt: skip


# config.json of published models, as far as it decides the programs.
PUBLISHED: dict[str, dict[str, Any]] = {
  "smollm2-135m": {
    "model_type": "llama", "vocab_size": 49152, "tie_word_embeddings": True, "rope_theta": 1e5,
    "rms_norm_eps": 1e-5, **_sizes(576, 30, 9, 3, 1536),
  },
  "qwen2.5-0.5b": _QWEN | _sizes(896, 24, 14, 2, 4864),
  "llama3.2-1b": {
    "model_type": "llama", "vocab_size": 128256, "tie_word_embeddings": True, "rope_theta": 5e5,
    "rms_norm_eps": 1e-5, "rope_scaling": _LLAMA3, "head_dim": 64,
    **_sizes(2048, 16, 32, 8, 8192),
  },
  "qwen2.5-1.5b": _QWEN | _sizes(1536, 28, 12, 2, 8960),
  "qwen2.5-3b": _QWEN | _sizes(2048, 36, 16, 2, 11008),
  "flan-t5-base": {
    "model_type": "t5", "vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 2048,
    "num_layers": 12, "num_decoder_layers": 12, "num_heads": 12, "is_encoder_decoder": True,
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "decoder_start_token_id": 0,
  },
  "tiny": {
    "model_type": "llama", "vocab_size": 8960, "tie_word_embeddings": True, "head_dim": 64,
    **_sizes(512, 6, 8, 4, 1408),
  },
}  # fmt: skip
NAMES = (*PUBLISHED, *measure.SIZES)


def read(name: str, dtype: str) -> Any:
  """Returns the config of a student that computes in `dtype`.

  Args:
    name: One of NAMES, or a directory with a config.json.
    dtype: The compute dtype.

  Raises:
    ValueError: It is neither.
  """
  if name in measure.SIZES:
    return measure.student(name, dtype)
  file = pathlib.Path(name) / "config.json"
  if name not in PUBLISHED and not file.exists():
    raise ValueError(
      f"student is {name}, but must be a directory with a config.json or one of {', '.join(NAMES)}"
    )
  fields = PUBLISHED.get(name) or json.loads(file.read_bytes())
  return dataclasses.replace(families.of(fields["model_type"]).read(fields), dtype=dtype)
