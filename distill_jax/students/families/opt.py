"""OPT: a learned position table whose entries start at 2, and relu.

OPT 350M normalizes after each part, has no final norm, and its embeddings are narrower than the
model. Reference: transformers' modeling_opt.py.
"""

from distill_jax.students import decoder
from distill_jax.students.families import hf_config, layout
from distill_jax.students.families.hf_config import Fields, Sizes

PREFIX = "model."
TOP = {
  "embed": "model.decoder.embed_tokens.weight",
  "positions": "model.decoder.embed_positions.weight",
  "widen": "model.decoder.project_in.weight",
  "narrow": "model.decoder.project_out.weight",
  "norm": "model.decoder.final_layer_norm.weight",
  "norm_bias": "model.decoder.final_layer_norm.bias",
  "head": "lm_head.weight",
}
BLOCK = {
  "attention_norm": "self_attn_layer_norm.weight",
  "attention_norm_bias": "self_attn_layer_norm.bias",
  "q": "self_attn.q_proj.weight",
  "k": "self_attn.k_proj.weight",
  "v": "self_attn.v_proj.weight",
  "o": "self_attn.out_proj.weight",
  "q_bias": "self_attn.q_proj.bias",
  "k_bias": "self_attn.k_proj.bias",
  "v_bias": "self_attn.v_proj.bias",
  "o_bias": "self_attn.out_proj.bias",
  "mlp_norm": "final_layer_norm.weight",
  "mlp_norm_bias": "final_layer_norm.bias",
  "up": "fc1.weight",
  "up_bias": "fc1.bias",
  "down": "fc2.weight",
  "down_bias": "fc2.bias",
}
OFFSET = 2
EPS = 1e-5  # torch's default; not in the file
PARTS = {"norm": "layer", "gated": False, "learned_offset": OFFSET, "norm_eps": EPS}


def read(fields: Fields) -> decoder.Config:
  """Returns the config of a config.json. Raises UserError for what a student cannot compute."""
  hf_config.require_plain_decoder(fields)
  hf_config.require(fields, layer_norm_elementwise_affine=True)
  width = hf_config.integer(fields, "hidden_size")
  heads = hf_config.integer(fields, "num_attention_heads")
  narrow = hf_config.integer(fields, "word_embed_proj_dim", width)
  biased = hf_config.flag(fields, "enable_bias", True)
  before = hf_config.flag(fields, "do_layer_norm_before", True)
  bare = hf_config.flag(fields, "_remove_final_layer_norm", False)
  return decoder.Config(
    vocab=hf_config.integer(fields, "vocab_size"),
    width=width,
    layers=hf_config.integer(fields, "num_hidden_layers"),
    **hf_config.full_heads(width, "num_attention_heads", heads),
    mlp=hf_config.integer(fields, "ffn_dim"),
    tied=hf_config.flag(fields, "tie_word_embeddings", True),
    dtype="float32",
    learned=hf_config.integer(fields, "max_position_embeddings", 2048) + OFFSET,
    order="pre" if before else "post",
    final_norm=before and not bare,
    activation=hf_config.activation(fields, "activation_function", "relu"),
    qkv_bias=biased,
    out_bias=biased,
    mlp_bias=biased,
    embed_width=0 if narrow == width else narrow,
    **PARTS,
  )


def write(config: decoder.Config) -> Fields:
  """Returns the fields of a config.json."""
  before = config.order == "pre"
  return {
    "architectures": ["OPTForCausalLM"],
    "model_type": "opt",
    "vocab_size": config.vocab,
    "hidden_size": config.width,
    "num_hidden_layers": config.layers,
    "num_attention_heads": config.heads,
    "ffn_dim": config.mlp,
    "max_position_embeddings": config.learned - OFFSET,
    "word_embed_proj_dim": config.embed_width or config.width,
    "do_layer_norm_before": before,
    "_remove_final_layer_norm": before and not config.final_norm,
    "enable_bias": config.qkv_bias,
    "layer_norm_elementwise_affine": True,
    "activation_function": hf_config.hf_activation(config.activation),
    "tie_word_embeddings": config.tied,
  }


def tensors(config: decoder.Config) -> list[layout.Tensor]:
  """Returns the tensors of all parameters."""
  return hf_config.tensors(config, TOP, BLOCK, "model.decoder.layers.{}.")


def spare(config: decoder.Config) -> str:
  """Returns a pattern for a tied head; it matches nothing if the head is not tied."""
  return r"lm_head\.weight" if config.tied else r"(?!)"


def ties(config: decoder.Config) -> tuple[str, ...]:
  """Returns the names of one tensor: the embedding that is also the head. () if it is not tied."""
  return hf_config.ties(config, TOP)


def scratch(sizes: Sizes) -> decoder.Config:
  """Returns a config of the given sizes. Raises UserError for those the family cannot have."""
  hf_config.require_default("rope_theta", sizes.rope_theta, 0.0, "opt")
  hf_config.require_default("norm_eps", sizes.norm_eps, EPS, "opt")
  return hf_config.from_scratch_full_heads(
    sizes,
    "opt",
    learned=sizes.positions + OFFSET,
    activation="relu",
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    **PARTS,
  )
