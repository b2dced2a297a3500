"""Tiny models of every family, as a config.json, with weights that need no file.

A weight is drawn from PCG64 seeded by the sha256 of its Hugging Face name. No weight keeps the
value of a new model.
"""

import hashlib
import json

import jax
import numpy as np

from distill_jax import students
from distill_jax.students import families
from distill_jax.students.families import layout

LENGTHS = (12, 7, 4)  # tokens of the rows of a batch
NEW = 64  # tokens generated
WINDOW = 5  # tokens, shorter than all but one row

_GPT = {"vocab_size": 40, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 96}
_OPT = {
  "model_type": "opt", "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "ffn_dim": 40,
  "num_attention_heads": 4, "max_position_embeddings": 96, "word_embed_proj_dim": 24,
}  # fmt: skip
_SIZES = {
  "vocab_size": 40, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
  "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
  "max_position_embeddings": 96,
}  # fmt: skip
_LLAMA3 = {
  "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
  "original_max_position_embeddings": 128,
}  # fmt: skip
_ALTERNATE = ["sliding_attention", "full_attention"]
_T5 = {
  "model_type": "t5", "vocab_size": 40, "d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 3,
  "num_decoder_layers": 2, "num_heads": 4, "relative_attention_num_buckets": 8,
  "relative_attention_max_distance": 8, "is_encoder_decoder": True, "decoder_start_token_id": 0,
}  # fmt: skip

CASES = {
  "gpt2": _GPT | {"model_type": "gpt2"},
  "gpt2_untied_relu_unscaled": _GPT
  | {"model_type": "gpt2", "n_inner": 40, "tie_word_embeddings": False, "scale_attn_weights": False}
  | {"activation_function": "relu"},
  "gptj": _GPT | {"model_type": "gptj", "rotary_dim": 4},
  "gptj_tied_gelu": _GPT
  | {"model_type": "gptj", "rotary_dim": 6, "tie_word_embeddings": True}
  | {"activation_function": "gelu", "n_inner": 40},
  "gpt_neo": {
    "model_type": "gpt_neo", "vocab_size": 40, "hidden_size": 24, "num_layers": 2, "num_heads": 4,
    "intermediate_size": 40, "attention_types": [[["global", "local"], 1]], "window_size": WINDOW,
    "max_position_embeddings": 96,
  },
  "gpt_neo_untied_local": {
    "model_type": "gpt_neo", "vocab_size": 40, "hidden_size": 16, "num_layers": 3, "num_heads": 2,
    "attention_types": [[["local"], 2], [["global"], 1]], "window_size": WINDOW,
    "max_position_embeddings": 96, "tie_word_embeddings": False,
  },
  "opt": _OPT,
  "opt_350m": _OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 16},
  "opt_untied_without_biases": _OPT
  | {"enable_bias": False, "_remove_final_layer_norm": True, "tie_word_embeddings": False}
  | {"word_embed_proj_dim": 16, "activation_function": "gelu"},
  "llama": _SIZES | {"model_type": "llama"},
  "llama_tied_biases_linear": _SIZES
  | {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
  | {"rope_theta": 500.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
  "llama3": _SIZES | {"model_type": "llama", "rope_theta": 10000.0, "rope_scaling": _LLAMA3}
  | {"max_position_embeddings": 512},
  "mistral": _SIZES | {"model_type": "mistral", "sliding_window": WINDOW},
  "mistral_global": _SIZES | {"model_type": "mistral", "sliding_window": None},
  "qwen2": _SIZES | {"model_type": "qwen2", "head_dim": 6, "rope_theta": 1e6},
  "qwen2_window": _SIZES
  | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": WINDOW}
  | {"max_window_layers": 1, "tie_word_embeddings": True, "num_hidden_layers": 3},
  "qwen3": _SIZES | {"model_type": "qwen3", "tie_word_embeddings": True},
  "qwen3_biases_window": _SIZES
  | {"model_type": "qwen3", "attention_bias": True, "layer_types": _ALTERNATE}
  | {"use_sliding_window": True, "sliding_window": WINDOW},
  "gemma2": _SIZES
  | {"model_type": "gemma2", "sliding_window": WINDOW, "query_pre_attn_scalar": 12}
  | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 6.0},
  "gemma2_untied_biases": _SIZES
  | {"model_type": "gemma2", "sliding_window": WINDOW, "tie_word_embeddings": False}
  | {"attention_bias": True, "attn_logit_softcapping": None, "final_logit_softcapping": None},
  "gemma3_text": _SIZES
  | {"model_type": "gemma3_text", "sliding_window": WINDOW, "query_pre_attn_scalar": 12}
  | {"rope_theta": 1e4, "rope_local_base_freq": 100.0, "layer_types": _ALTERNATE}
  | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
  "gemma3_text_pattern": _SIZES
  | {"model_type": "gemma3_text", "sliding_window": WINDOW, "sliding_window_pattern": 3}
  | {"num_hidden_layers": 4, "attention_bias": True, "final_logit_softcapping": 6.0},
}  # fmt: skip

ENCODER_DECODERS = {
  "t5": _T5,
  "t5_v1_1": _T5 | {"feed_forward_proj": "gated-gelu", "d_ff": 96, "tie_word_embeddings": False},
}

# Seeds of prompts after which no second token comes near the best one; the others use 0.
SEEDS = {
  "gptj": 1, "gpt_neo": 1, "gpt_neo_untied_local": 1, "mistral": 3, "qwen2": 5, "qwen2_window": 1,
  "gemma3_text_pattern": 1, "t5": 1, "t5_v1_1": 1,
}  # fmt: skip


def _generator(name: str) -> np.random.Generator:
  digest = hashlib.sha256(name.encode()).digest()
  return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def weight(name: str, shape) -> np.ndarray:
  """Returns the tensor `name` of a file.

  Matrices keep the scale of activations, biases are small, scales of norms are around 1.
  """
  draw = _generator(name).normal(size=shape)
  if len(shape) > 1:
    return np.float32(draw * 1.5 * shape[-1] ** -0.5)
  return np.float32(0.3 * draw + name.endswith("weight"))


def batch(case: str):
  """Returns tokens and mask, int32 [B, L]: rows of LENGTHS, padded on the right with token 0."""
  rng, longest = _generator(f"{case} {SEEDS[case] if case in SEEDS else 0}"), max(LENGTHS)
  mask = np.int32(np.arange(longest)[None] < np.array(LENGTHS)[:, None])
  return rng.integers(0, 40, mask.shape, dtype=np.int32) * mask, mask


def targets(case: str):
  """Returns tokens and mask, int32 [B, L], of a decoder, padded on the right.

  They begin with the start token; the shortest row belongs to the longest source.
  """
  tokens, mask = batch(f"{case} targets")
  tokens[:, 0] = ENCODER_DECODERS[case]["decoder_start_token_id"]
  return np.flip(tokens, 0).copy(), np.flip(mask, 0).copy()


def read(fields: dict):
  return families.of(fields["model_type"]).read(json.loads(json.dumps(fields)))


def by_name(model_type: str, config) -> dict[str, list[layout.Tensor]]:
  """Returns the tensors of a file, each with the arrays of ours that it holds."""
  out = {}
  for tensor in families.of(model_type).tensors(config):
    out.setdefault(tensor.name, []).append(tensor)
  return out


def ours(model_type: str, config, array_of):
  """Returns parameters from the arrays of a file: array_of(name, shape)."""
  params = jax.tree.map(
    lambda x: np.full(x.shape, np.nan, x.dtype), students.of(config).shapes(config)
  )
  for name, tensors in by_name(model_type, config).items():
    array = array_of(name, tensors[0].shape)
    for tensor in tensors:
      target = params
      for key in tensor.path:
        target = target[key]
      target[... if tensor.layer is None else tensor.layer] = layout.to_ours(tensor, array)
  return params


def theirs(model_type: str, config, params) -> dict[str, np.ndarray]:
  """Returns the arrays of a file from parameters."""
  out = {}
  for name, tensors in by_name(model_type, config).items():
    arrays = []
    for tensor in tensors:
      array = params
      for key in tensor.path:
        array = array[key]
      arrays.append(np.asarray(array if tensor.layer is None else array[tensor.layer]))
    out[name] = layout.to_theirs(tensors, arrays)
  return out
