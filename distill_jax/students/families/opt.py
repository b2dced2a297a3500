"""OPT: learned positions that start at entry 2, relu. The one of 350M norms after each part, has no
final norm, and its embeddings are narrower than the model. Reference: transformers'
modeling_opt.py."""

from distill_jax.students import decoder
from distill_jax.students.families import fields as files
from distill_jax.students.families import layout

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
EPS = 1e-5  # torch's, not in the file
PARTS = {"norm": "layer", "gated": False, "learned_offset": OFFSET, "norm_eps": EPS}


def read(fields: dict) -> decoder.Config:
  files.supported(fields)
  files.only(fields, layer_norm_elementwise_affine=True)
  width = files.whole(fields, "hidden_size")
  heads = files.whole(fields, "num_attention_heads")
  narrow = files.whole(fields, "word_embed_proj_dim", width)
  biased = files.flag(fields, "enable_bias", True)
  before = files.flag(fields, "do_layer_norm_before", True)
  return decoder.Config(
    vocab=files.whole(fields, "vocab_size"),
    width=width,
    layers=files.whole(fields, "num_hidden_layers"),
    **files.whole_heads(width, "num_attention_heads", heads),
    mlp=files.whole(fields, "ffn_dim"),
    tied=files.flag(fields, "tie_word_embeddings", True),
    dtype="float32",
    learned=files.whole(fields, "max_position_embeddings", 2048) + OFFSET,
    order="pre" if before else "post",
    final_norm=before and not files.flag(fields, "_remove_final_layer_norm", False),
    activation=files.activation(fields, "activation_function", "relu"),
    qkv_bias=biased,
    out_bias=biased,
    mlp_bias=biased,
    embed_width=0 if narrow == width else narrow,
    **PARTS,
  )


def write(config: decoder.Config) -> dict:
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
    "activation_function": files.theirs(config.activation),
    "tie_word_embeddings": config.tied,
  }


def tensors(config: decoder.Config) -> list[layout.Tensor]:
  return files.tensors(config, TOP, BLOCK, "model.decoder.layers.{}.")


def spare(config: decoder.Config) -> str:
  """The head that is the embedding."""
  return r"lm_head\.weight" if config.tied else r"(?!)"


def scratch(sizes) -> decoder.Config:
  files.fixed(sizes, "rope_theta", 0.0, "opt")
  files.fixed(sizes, "norm_eps", EPS, "opt")
  return files.scratch_whole(
    sizes,
    "opt",
    learned=sizes.positions + OFFSET,
    activation="relu",
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    **PARTS,
  )
