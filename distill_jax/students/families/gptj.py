"""GPT-J: attention and MLP beside each other behind one layer norm, rotary positions in neighbour
pairs on the first part of each head, an output matrix with a bias. Reference: transformers'
modeling_gptj.py."""

from distill_jax.students import decoder
from distill_jax.students.families import fields as files
from distill_jax.students.families import gpt2, layout

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


def read(fields: dict) -> decoder.Config:
  files.supported(fields)
  sizes = gpt2.sizes(fields, tied=False)
  if "rotary_dim" in fields and fields["rotary_dim"] is None:
    raise files.refusal("rotary_dim", None, "a part of the head")
  turned = files.whole(fields, "rotary_dim", 64)
  if turned % 2 or turned > sizes["head_width"]:
    raise files.refusal("rotary_dim", turned, f"even numbers up to {sizes['head_width']}")
  return decoder.Config(**sizes, rotary=decoder.Rotary(THETA, turned, adjacent=True), **PARTS)


def write(config: decoder.Config) -> dict:
  return {
    "architectures": ["GPTJForCausalLM"],
    "model_type": "gptj",
    "vocab_size": config.vocab,
    "n_embd": config.width,
    "n_layer": config.layers,
    "n_head": config.heads,
    "n_inner": config.mlp,
    "rotary_dim": config.rotary.width,
    "layer_norm_epsilon": config.norm_eps,
    "activation_function": files.theirs(config.activation),
    "tie_word_embeddings": config.tied,
  }


def tensors(config: decoder.Config) -> list[layout.Tensor]:
  return files.tensors(config, TOP, BLOCK, "transformer.h.{}.")


def spare(config: decoder.Config) -> str:
  """Buffers of older files, and the head that is the embedding."""
  tied = r"|lm_head\.weight" if config.tied else ""
  return r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias|embed_positions)" + tied


def scratch(sizes) -> decoder.Config:
  files.even_heads(sizes)
  files.fixed(sizes, "rope_theta", THETA, "gptj")
  return files.scratch_whole(
    sizes,
    "gptj",
    norm_eps=sizes.norm_eps or 1e-5,
    rotary=decoder.Rotary(THETA, min(64, sizes.head_width), adjacent=True),
    activation="gelu_tanh",
    **PARTS,
  )
