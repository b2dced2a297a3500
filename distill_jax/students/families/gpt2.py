"""GPT-2: layer norms, a learned position table, biases everywhere.

Its weights are stored as [in, out], those of queries, keys and values as one tensor. Reference:
transformers' modeling_gpt2.py.
"""

from distill_jax.students import decoder
from distill_jax.students.families import hf_config, layout
from distill_jax.students.families.hf_config import Fields, Sizes

PREFIX = "transformer."
TOP = {
  "embed": "transformer.wte.weight",
  "positions": "transformer.wpe.weight",
  "norm": "transformer.ln_f.weight",
  "norm_bias": "transformer.ln_f.bias",
  "head": "lm_head.weight",
}
BLOCK = {
  "attention_norm": "ln_1.weight",
  "attention_norm_bias": "ln_1.bias",
  "q": "attn.c_attn.weight",
  "k": "attn.c_attn.weight",
  "v": "attn.c_attn.weight",
  "q_bias": "attn.c_attn.bias",
  "k_bias": "attn.c_attn.bias",
  "v_bias": "attn.c_attn.bias",
  "o": "attn.c_proj.weight",
  "o_bias": "attn.c_proj.bias",
  "mlp_norm": "ln_2.weight",
  "mlp_norm_bias": "ln_2.bias",
  "up": "mlp.c_fc.weight",
  "up_bias": "mlp.c_fc.bias",
  "down": "mlp.c_proj.weight",
  "down_bias": "mlp.c_proj.bias",
}
PARTS = {"norm": "layer", "gated": False, "qkv_bias": True, "out_bias": True, "mlp_bias": True}


def read(fields: Fields) -> decoder.Config:
  """Returns the config of a config.json. Raises UserError for what a student cannot compute."""
  hf_config.require_plain_decoder(fields)
  hf_config.require(fields, scale_attn_by_inverse_layer_idx=False)
  return decoder.Config(
    **sizes(fields, tied=True),
    learned=hf_config.integer(fields, "n_positions", 1024),
    attention_scale=0.0 if hf_config.flag(fields, "scale_attn_weights", True) else 1.0,
    **PARTS,
  )


def sizes(fields: Fields, *, tied: bool) -> Fields:
  """Returns what GPT-2 and GPT-J read from the same fields.

  `tied` is the default of tie_word_embeddings.
  """
  width = hf_config.integer(fields, "n_embd")
  return {
    "vocab": hf_config.integer(fields, "vocab_size"),
    "width": width,
    "layers": hf_config.integer(fields, "n_layer"),
    **hf_config.full_heads(width, "n_head", hf_config.integer(fields, "n_head")),
    "mlp": hf_config.integer(fields, "n_inner", 4 * width),
    "norm_eps": hf_config.number(fields, "layer_norm_epsilon", 1e-5),
    "tied": hf_config.flag(fields, "tie_word_embeddings", tied),
    "dtype": "float32",
    "activation": hf_config.activation(fields, "activation_function", "gelu_new"),
  }


def write(config: decoder.Config) -> Fields:
  """Returns the fields of a config.json."""
  return {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "vocab_size": config.vocab,
    "n_embd": config.width,
    "n_layer": config.layers,
    "n_head": config.heads,
    "n_inner": config.mlp,
    "n_positions": config.learned,
    "layer_norm_epsilon": config.norm_eps,
    "activation_function": hf_config.hf_activation(config.activation),
    "scale_attn_weights": config.attention_scale == 0.0,
    "tie_word_embeddings": config.tied,
  }


def tensors(config: decoder.Config) -> list[layout.Tensor]:
  """Returns the tensors of all parameters."""
  out = hf_config.tensors(config, TOP, BLOCK, "transformer.h.{}.")
  return [tensor if tensor.layer is None else _as_stored(tensor) for tensor in out]


def _as_stored(tensor: layout.Tensor) -> layout.Tensor:
  """Weights have our layout, and queries, keys and values are thirds of one tensor."""
  kind = tensor.path[-1]
  if kind in ("q", "k", "v"):
    out, into = tensor.split
    return tensor._replace(split=(into, (3, *out)), order=(0, 2, 3), part=(1, "qkv".index(kind)))
  if kind in ("q_bias", "k_bias", "v_bias"):
    (out,) = tensor.split
    return tensor._replace(split=((3, *out),), order=(1, 2), part=(0, "qkv".index(kind[0])))
  if kind in ("o", "up", "down"):
    return tensor._replace(split=tensor.split[::-1], order=tuple(range(len(tensor.order))))
  return tensor


def spare(config: decoder.Config) -> str:
  """Returns a pattern for the masks of older files, and for a tied head."""
  tied = r"|lm_head\.weight" if config.tied else ""
  return r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)" + tied


def ties(config: decoder.Config) -> tuple[str, ...]:
  """Returns the names of one tensor: the embedding that is also the head. () if it is not tied."""
  return hf_config.ties(config, TOP)


def scratch(sizes: Sizes) -> decoder.Config:
  """Returns a config of the given sizes. Raises UserError for those the family cannot have."""
  hf_config.require_default("rope_theta", sizes.rope_theta, 0.0, "gpt2")
  return hf_config.from_scratch_full_heads(
    sizes,
    "gpt2",
    norm_eps=sizes.norm_eps or 1e-5,
    learned=sizes.positions,
    activation="gelu_tanh",
    **PARTS,
  )
