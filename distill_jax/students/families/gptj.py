"""GPT-J: attention and MLP in parallel behind one layer norm, and a head with a bias.

Rotary positions rotate adjacent pairs of the first part of each head. Reference: transformers'
modeling_gptj.py.
"""

from distill_jax.students import decoder
from distill_jax.students.families import gpt2, hf_config, layout
from distill_jax.students.families.hf_config import Fields, Sizes

PREFIX = "transformer."
TOP = {
  "embed": "transformer.wte.weight",
  "norm": "transformer.ln_f.weight",
  "norm_bias": "transformer.ln_f.bias",
  "head": "lm_head.weight",
  "head_bias": "lm_head.bias",
}
BLOCK = {
  "attention_norm": "ln_1.weight",
  "attention_norm_bias": "ln_1.bias",
  "q": "attn.q_proj.weight",
  "k": "attn.k_proj.weight",
  "v": "attn.v_proj.weight",
  "o": "attn.out_proj.weight",
  "up": "mlp.fc_in.weight",
  "up_bias": "mlp.fc_in.bias",
  "down": "mlp.fc_out.weight",
  "down_bias": "mlp.fc_out.bias",
}
PARTS = {"norm": "layer", "order": "parallel", "gated": False, "mlp_bias": True, "head_bias": True}
THETA = 10_000.0


def read(fields: Fields) -> decoder.Config:
  """Returns the config of a config.json. Raises UserError for what a student cannot compute."""
  hf_config.require_plain_decoder(fields)
  sizes = gpt2.sizes(fields, tied=False)
  if "rotary_dim" in fields and fields["rotary_dim"] is None:
    raise hf_config.unsupported("rotary_dim", None, "a part of the head")
  width = hf_config.integer(fields, "rotary_dim", 64)
  if width % 2 or width > sizes["head_width"]:
    raise hf_config.unsupported("rotary_dim", width, f"even numbers up to {sizes['head_width']}")
  return decoder.Config(**sizes, rotary=decoder.Rotary(THETA, width, adjacent=True), **PARTS)


def write(config: decoder.Config) -> Fields:
  """Returns the fields of a config.json."""
  return {
    "architectures": ["GPTJForCausalLM"],
    "model_type": "gptj",
    "vocab_size": config.vocab,
    "n_embd": config.width,
    "n_layer": config.layers,
    "n_head": config.heads,
    "n_inner": config.mlp,
    "rotary_dim": hf_config.rope_of(config).width,
    "layer_norm_epsilon": config.norm_eps,
    "activation_function": hf_config.hf_activation(config.activation),
    "tie_word_embeddings": config.tied,
  }


def tensors(config: decoder.Config) -> list[layout.Tensor]:
  """Returns the tensors of all parameters."""
  return hf_config.tensors(config, TOP, BLOCK, "transformer.h.{}.")


def spare(config: decoder.Config) -> str:
  """Returns a pattern for the buffers of older files, and for a tied head."""
  tied = r"|lm_head\.weight" if config.tied else ""
  return r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias|embed_positions)" + tied


def ties(config: decoder.Config) -> tuple[str, ...]:
  """Returns the names of one tensor: the embedding that is also the head. () if it is not tied."""
  return hf_config.ties(config, TOP)


def scratch(sizes: Sizes) -> decoder.Config:
  """Returns a config of the given sizes. Raises UserError for those the family cannot have."""
  hf_config.require_even_heads(sizes)
  hf_config.require_default("rope_theta", sizes.rope_theta, THETA, "gptj")
  return hf_config.from_scratch_full_heads(
    sizes,
    "gptj",
    norm_eps=sizes.norm_eps or 1e-5,
    rotary=decoder.Rotary(THETA, min(64, sizes.head_width), adjacent=True),
    activation="gelu_tanh",
    **PARTS,
  )
