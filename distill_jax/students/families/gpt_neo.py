"""GPT-Neo: GPT-2 whose every other layer is local, whose scores are not scaled, and whose queries,
keys and values have no bias. Reference: transformers' modeling_gpt_neo.py."""

from distill_jax.students import decoder
from distill_jax.students.families import fields as files
from distill_jax.students.families import gpt2, layout

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


def read(fields: dict) -> decoder.Config:
  files.supported(fields)
  width, layers = files.whole(fields, "hidden_size"), files.whole(fields, "num_layers")
  return decoder.Config(
    vocab=files.whole(fields, "vocab_size"),
    width=width,
    layers=layers,
    **files.whole_heads(width, "num_heads", files.whole(fields, "num_heads")),
    mlp=files.whole(fields, "intermediate_size", 4 * width),
    norm_eps=files.number(fields, "layer_norm_epsilon", 1e-5),
    tied=files.flag(fields, "tie_word_embeddings", True),
    dtype="float32",
    learned=files.whole(fields, "max_position_embeddings", 2048),
    activation=files.activation(fields, "activation_function", "gelu_new"),
    **_windows(fields, layers),
    **PARTS,
  )


def _windows(fields: dict, layers: int) -> dict:
  """attention_types is a list of (kinds, how often they are repeated)."""
  types = fields.get("attention_types") or [[["global", "local"], 12]]
  try:
    kinds = [kind for repeated, times in types for kind in repeated * times]
  except (TypeError, ValueError):
    kinds = []
  if len(kinds) != layers or not {*kinds} <= {"global", "local"}:
    raise files.refusal("attention_types", types, f"{layers} times global or local")
  if "local" not in kinds:
    return {}
  local = tuple(kind == "local" for kind in kinds)
  return {"window": files.whole(fields, "window_size", 256), "local": local}


def write(config: decoder.Config) -> dict:
  local = config.local or (False,) * config.layers
  return {
    "architectures": ["GPTNeoForCausalLM"],
    "model_type": "gpt_neo",
    "vocab_size": config.vocab,
    "hidden_size": config.width,
    "num_layers": config.layers,
    "num_heads": config.heads,
    "intermediate_size": config.mlp,
    "max_position_embeddings": config.learned,
    "attention_types": [[["local" if here else "global"], 1] for here in local],
    "attention_layers": ["local" if here else "global" for here in local],
    "window_size": config.window or 256,
    "layer_norm_epsilon": config.norm_eps,
    "activation_function": files.theirs(config.activation),
    "tie_word_embeddings": config.tied,
  }


def tensors(config: decoder.Config) -> list[layout.Tensor]:
  return files.tensors(config, gpt2.TOP, BLOCK, "transformer.h.{}.")


def spare(config: decoder.Config) -> str:
  """The masks of older files, and the head that is the embedding."""
  tied = r"|lm_head\.weight" if config.tied else ""
  return r"(transformer\.)?h\.\d+\.attn\.attention\.(bias|masked_bias)" + tied


def scratch(sizes) -> decoder.Config:
  files.fixed(sizes, "rope_theta", 0.0, "gpt_neo")
  local = tuple(n % 2 == 1 for n in range(sizes.layers))
  return files.scratch_whole(
    sizes,
    "gpt_neo",
    norm_eps=sizes.norm_eps or 1e-5,
    learned=sizes.positions,
    activation="gelu_tanh",
    **({"window": 256, "local": local} if any(local) else {}),
    **PARTS,
  )
