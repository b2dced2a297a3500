"""GPT-Neo: like GPT-2, but every other layer is local, and scores are not scaled.

Queries, keys and values have no bias. Reference: transformers' modeling_gpt_neo.py.
"""

from distill_jax.students import decoder
from distill_jax.students.families import gpt2, hf_config, layout
from distill_jax.students.families.hf_config import Fields, Sizes

PREFIX = gpt2.PREFIX
BLOCK = gpt2.BLOCK | {
  "q": "attn.attention.q_proj.weight",
  "k": "attn.attention.k_proj.weight",
  "v": "attn.attention.v_proj.weight",
  "o": "attn.attention.out_proj.weight",
  "o_bias": "attn.attention.out_proj.bias",
}
PARTS = {
  "norm": "layer",
  "gated": False,
  "out_bias": True,
  "mlp_bias": True,
  "attention_scale": 1.0,
}


def read(fields: Fields) -> decoder.Config:
  """Returns the config of a config.json. Raises UserError for what a student cannot compute."""
  hf_config.require_plain_decoder(fields)
  width, layers = hf_config.integer(fields, "hidden_size"), hf_config.integer(fields, "num_layers")
  return decoder.Config(
    vocab=hf_config.integer(fields, "vocab_size"),
    width=width,
    layers=layers,
    **hf_config.full_heads(width, "num_heads", hf_config.integer(fields, "num_heads")),
    mlp=hf_config.integer(fields, "intermediate_size", 4 * width),
    norm_eps=hf_config.number(fields, "layer_norm_epsilon", 1e-5),
    tied=hf_config.flag(fields, "tie_word_embeddings", True),
    dtype="float32",
    learned=hf_config.integer(fields, "max_position_embeddings", 2048),
    activation=hf_config.activation(fields, "activation_function", "gelu_new"),
    **_windows(fields, layers),
    **PARTS,
  )


def _windows(fields: Fields, layers: int) -> Fields:
  """Returns which layers are local. attention_types is a list of (kinds, times repeated)."""
  types = hf_config.first(fields.get("attention_types"), [[["global", "local"], 12]])
  try:
    kinds = [kind for repeated, times in types for kind in repeated * times]
  except (TypeError, ValueError):
    kinds = []
  if len(kinds) != layers or not {*kinds} <= {"global", "local"}:
    raise hf_config.unsupported("attention_types", types, f"{layers} times global or local")
  if "local" not in kinds:
    return {}
  local = tuple(kind == "local" for kind in kinds)
  return {"window": hf_config.integer(fields, "window_size", 256), "local": local}


def write(config: decoder.Config) -> Fields:
  """Returns the fields of a config.json."""
  kinds = ["local" if is_local else "global" for is_local in config.is_local]
  return {
    "architectures": ["GPTNeoForCausalLM"],
    "model_type": "gpt_neo",
    "vocab_size": config.vocab,
    "hidden_size": config.width,
    "num_layers": config.layers,
    "num_heads": config.heads,
    "intermediate_size": config.mlp,
    "max_position_embeddings": config.learned,
    "attention_types": [[[kind], 1] for kind in kinds],
    "attention_layers": kinds,
    "window_size": config.window or 256,
    "layer_norm_epsilon": config.norm_eps,
    "activation_function": hf_config.hf_activation(config.activation),
    "tie_word_embeddings": config.tied,
  }


def tensors(config: decoder.Config) -> list[layout.Tensor]:
  """Returns the tensors of all parameters."""
  return hf_config.tensors(config, gpt2.TOP, BLOCK, "transformer.h.{}.")


def spare(config: decoder.Config) -> str:
  """Returns a pattern for the masks of older files, and for a tied head."""
  tied = r"|lm_head\.weight" if config.tied else ""
  return r"(transformer\.)?h\.\d+\.attn\.attention\.(bias|masked_bias)" + tied


def ties(config: decoder.Config) -> tuple[str, ...]:
  """Returns the names of one tensor: the embedding that is also the head. () if it is not tied."""
  return hf_config.ties(config, gpt2.TOP)


def scratch(sizes: Sizes) -> decoder.Config:
  """Returns a config of the given sizes. Raises UserError for those the family cannot have."""
  hf_config.require_default("rope_theta", sizes.rope_theta, 0.0, "gpt_neo")
  local = tuple(n % 2 == 1 for n in range(sizes.layers))
  return hf_config.from_scratch_full_heads(
    sizes,
    "gpt_neo",
    norm_eps=sizes.norm_eps or 1e-5,
    learned=sizes.positions,
    activation="gelu_tanh",
    **({"window": 256, "local": local} if any(local) else {}),
    **PARTS,
  )
