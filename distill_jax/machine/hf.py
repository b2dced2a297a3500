"""A student as a Hugging Face directory: what transformers, vLLM and the rest of the world load.

  config.json  generation_config.json  model.safetensors  tokenizer files  README.md (model card)

Written under a temporary name, read back and compared bit for bit, then renamed: what has the name
is whole and right. The decoder is Llama's, so its tensors carry Llama's names (theirs: [out, in]).
"""

import json
import os
import pathlib
import shutil

import numpy as np
import safetensors.numpy

from distill_jax import errors

WEIGHTS = "model.safetensors"


def tensors(config, params) -> dict[str, np.ndarray]:
  """Llama's tensors by name, float32, from the tree of parameters (students/decoder.py)."""
  array = lambda x: np.asarray(x, np.float32)
  out = {"model.embed_tokens.weight": array(params["embed"])}
  blocks = {name: array(x) for name, x in params["blocks"].items()}
  for n in range(config.layers):
    block = {name: x[n] for name, x in blocks.items()}
    flat = lambda x: x.reshape(config.width, -1).T  # [D, heads, K] to [heads * K, D]
    layer = {
      "input_layernorm": block["attention_norm"],
      "self_attn.q_proj": flat(block["q"]),
      "self_attn.k_proj": flat(block["k"]),
      "self_attn.v_proj": flat(block["v"]),
      "self_attn.o_proj": block["o"].reshape(-1, config.width).T,
      "post_attention_layernorm": block["mlp_norm"],
      "mlp.gate_proj": block["gate"].T,
      "mlp.up_proj": block["up"].T,
      "mlp.down_proj": block["down"].T,
    }
    out |= {f"model.layers.{n}.{name}.weight": x for name, x in layer.items()}
  out["model.norm.weight"] = array(params["norm"])
  if not config.tied:
    out["lm_head.weight"] = array(params["head"]).T
  # safetensors writes the memory of a transposed array as if it were not transposed.
  return {name: np.ascontiguousarray(x) for name, x in out.items()}


def model_config(config, *, end: int, pad: int, positions: int) -> dict:
  """config.json, as transformers 4 and 5 spell it. `positions`: the longest row it is made for."""
  return {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": config.vocab,
    "hidden_size": config.width,
    "intermediate_size": config.mlp,
    "num_hidden_layers": config.layers,
    "num_attention_heads": config.heads,
    "num_key_value_heads": config.kv_heads,
    "head_dim": config.head_width,
    "hidden_act": "silu",
    "rms_norm_eps": config.norm_eps,
    "rope_theta": config.rope_theta,
    "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
    "tie_word_embeddings": config.tied,
    "attention_bias": False,
    "mlp_bias": False,
    "max_position_embeddings": positions,
    "bos_token_id": None,
    "eos_token_id": end,
    "pad_token_id": pad,
    "torch_dtype": "float32",
    "dtype": "float32",
  }


def export(
  config, params, *, tokenizer, end: int, pad: int, positions: int, card: str, out
) -> None:
  """Writes the directory `out`. `tokenizer` is the directory of the student's tokenizer.

  Raises Refusal if `out` exists, cannot be written, or does not read back as it was written.
  """
  out = pathlib.Path(out)
  if out.exists():
    raise errors.usage(f"--out={out} is there already: remove it, or name another")
  part = out.with_name(out.name + ".part")
  arrays = tensors(config, params)
  try:
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for file in pathlib.Path(tokenizer).iterdir():
      shutil.copy(file, part)
    texts = {
      "config.json": _json(model_config(config, end=end, pad=pad, positions=positions)),
      "generation_config.json": _json(
        {"do_sample": False, "eos_token_id": end, "pad_token_id": pad}
      ),
      "README.md": card,
    }
    for name, text in texts.items():
      (part / name).write_text(text, encoding="utf-8")
    safetensors.numpy.save_file(arrays, part / WEIGHTS, metadata={"format": "pt"})
    _compare(part / WEIGHTS, arrays)
    for file in (*part.iterdir(), part):
      _sync(file)
    os.rename(part, out)
  except OSError as error:
    raise errors.data(f"{out} could not be written ({error.strerror}); nothing is there") from error


def _json(value: dict) -> str:
  return json.dumps(value, indent=2, sort_keys=True) + "\n"


def _compare(file, arrays) -> None:
  again = safetensors.numpy.load_file(file)
  for name, wanted in arrays.items():
    found = again.pop(name, None)
    same = found is not None and found.shape == wanted.shape and found.tobytes() == wanted.tobytes()
    if not same:
      raise errors.data(f"{file}: tensor {name} did not read back as it was written")
  if again:
    raise errors.data(f"{file}: holds tensors nobody wrote: {', '.join(again)}")


def _sync(path) -> None:
  fd = os.open(path, os.O_RDONLY)
  os.fsync(fd)
  os.close(fd)
