"""Llama and its closest relatives: Mistral, Qwen2 and Qwen3.

SmolLM2 and many others are Llamas, too. A decoder with default options; the table below lists what
departs from it. Reference: transformers' modeling_llama.py, modeling_mistral.py, modeling_qwen2.py,
modeling_qwen3.py.
"""

import dataclasses

from distill_jax.students import decoder
from distill_jax.students.families import hf_config, layout
from distill_jax.students.families.hf_config import Fields, Sizes

TOP = {"embed": "model.embed_tokens.weight", "norm": "model.norm.weight", "head": "lm_head.weight"}
ATTENTION = {
  "attention_norm": "input_layernorm.weight",
  "q": "self_attn.q_proj.weight",
  "k": "self_attn.k_proj.weight",
  "v": "self_attn.v_proj.weight",
  "o": "self_attn.o_proj.weight",
  "q_bias": "self_attn.q_proj.bias",
  "k_bias": "self_attn.k_proj.bias",
  "v_bias": "self_attn.v_proj.bias",
  "o_bias": "self_attn.o_proj.bias",
  "q_norm": "self_attn.q_norm.weight",
  "k_norm": "self_attn.k_norm.weight",
}
MLP = {
  "gate": "mlp.gate_proj.weight",
  "up": "mlp.up_proj.weight",
  "down": "mlp.down_proj.weight",
  "gate_bias": "mlp.gate_proj.bias",
  "up_bias": "mlp.up_proj.bias",
  "down_bias": "mlp.down_proj.bias",
}
BLOCK = ATTENTION | {"mlp_norm": "post_attention_layernorm.weight"} | MLP
LAYER = "model.layers.{}."


@dataclasses.dataclass(frozen=True)
class Family:
  """One of these families; see families.Family."""

  name: str  # model_type
  architecture: str
  theta: float  # default from scratch
  eps: float  # default from scratch
  biases: bool = False  # whether attention_bias can be set (for q, k, v and o together)
  mlp_biases: bool = False  # whether mlp_bias can be set
  qkv_bias: bool = False  # whether q, k and v always have a bias
  qk_norm: bool = False
  windows: str = "none"  # which layers can be local: none | all (where sliding_window) | some
  head_width: int = 0  # default of head_dim; 0 = width / heads
  PREFIX: str = "model."  # of tensor names

  def read(self, fields: Fields) -> decoder.Config:
    """Returns the config of a config.json. Raises UserError for what a student cannot compute."""
    hf_config.require_plain_decoder(fields)
    width, layers = (
      hf_config.integer(fields, "hidden_size"),
      hf_config.integer(fields, "num_hidden_layers"),
    )
    heads = hf_config.grouped_heads(fields, width, self.head_width, optional=self.name == "llama")
    biased = self.biases and hf_config.flag(fields, "attention_bias", False)
    params, scaling = (hf_config.mapping(fields, f"rope_{n}") for n in ("parameters", "scaling"))
    theta = hf_config.number(fields, "rope_theta", 10_000.0)
    return decoder.Config(
      vocab=hf_config.integer(fields, "vocab_size"),
      width=width,
      layers=layers,
      **heads,
      mlp=hf_config.integer(fields, "intermediate_size"),
      norm_eps=hf_config.number(fields, "rms_norm_eps", 1e-6),
      tied=hf_config.flag(fields, "tie_word_embeddings", False),
      dtype="float32",
      rotary=hf_config.rotary(scaling or params, theta, fields, heads["head_width"]),
      activation=hf_config.activation(fields, "hidden_act", "silu"),
      qkv_bias=self.qkv_bias or biased,
      out_bias=biased,
      mlp_bias=self.mlp_biases and hf_config.flag(fields, "mlp_bias", False),
      qk_norm=self.qk_norm,
      **self._windows(fields, layers),
    )

  def _windows(self, fields: Fields, layers: int) -> Fields:
    if self.windows == "none":
      return {}
    fields = {"sliding_window": 4096} | fields
    has_window = fields["sliding_window"] is not None
    if self.windows == "all":
      hf_config.require(fields, layer_types=())  # transformers warns, and makes every layer local
      kind = hf_config.LOCAL if has_window else hf_config.GLOBAL
      return hf_config.windows(fields, [kind] * layers)
    if not (has_window and hf_config.flag(fields, "use_sliding_window", False)):
      return hf_config.windows(fields | {"sliding_window": None}, [hf_config.GLOBAL] * layers)
    first = hf_config.integer(fields, "max_window_layers", 28, minimum=0)
    kinds = [hf_config.LOCAL if n >= first else hf_config.GLOBAL for n in range(layers)]
    return hf_config.windows(fields, kinds)

  def write(self, config: decoder.Config) -> Fields:
    """Returns the fields of a config.json."""
    rope = hf_config.rope_of(config)
    out = {
      "architectures": [self.architecture],
      "model_type": self.name,
      **sizes(config),
      "rope_theta": rope.theta,
      "rope_scaling": hf_config.rope_scaling(rope),
      "rope_parameters": hf_config.rope_parameters(rope),
    }
    if self.biases:
      out["attention_bias"] = config.out_bias
    if self.mlp_biases:
      out["mlp_bias"] = config.mlp_bias
    if self.windows != "none":
      out["sliding_window"] = config.window or None
    if self.windows == "some":
      types = hf_config.layer_types(config)
      out |= {"use_sliding_window": hf_config.LOCAL in types, "layer_types": types}
      out["max_window_layers"] = [*types, hf_config.LOCAL].index(hf_config.LOCAL)
    return out

  def tensors(self, config: decoder.Config) -> list[layout.Tensor]:
    """Returns the tensors of all parameters."""
    return hf_config.tensors(config, TOP, BLOCK, LAYER)

  def spare(self, config: decoder.Config) -> str:
    """Returns a pattern of tensor names that are ignored."""
    return spare(config)

  def ties(self, config: decoder.Config) -> tuple[str, ...]:
    """Returns the names of an embedding that is also the head; () if it is not tied."""
    return hf_config.ties(config, TOP)

  def scratch(self, sizes: Sizes) -> decoder.Config:
    """Returns a config of the given sizes. Raises UserError for those the family cannot have."""
    hf_config.require_even_heads(sizes)
    if self.name == "llama":
      hf_config.require_divisible_width(sizes, self.name)
    return hf_config.from_scratch(
      sizes,
      norm_eps=sizes.norm_eps or self.eps,
      rotary=decoder.Rotary(sizes.rope_theta or self.theta, sizes.head_width),
      qkv_bias=self.qkv_bias,
      qk_norm=self.qk_norm,
    )


def sizes(config: decoder.Config) -> Fields:
  """Returns the fields that these families and Gemma share."""
  return {
    "vocab_size": config.vocab,
    "hidden_size": config.width,
    "intermediate_size": config.mlp,
    "num_hidden_layers": config.layers,
    "num_attention_heads": config.heads,
    "num_key_value_heads": config.kv_heads,
    "head_dim": config.head_width,
    "hidden_act": hf_config.hf_activation(config.activation),
    "rms_norm_eps": config.norm_eps,
    "tie_word_embeddings": config.tied,
  }


def spare(config: decoder.Config) -> str:
  """Returns a pattern for the buffers of older files, and for a tied head."""
  tied = r"|lm_head\.weight" if config.tied else ""
  of_layer = r"(layers\.\d+\.self_attn\.)?"  # later files have one for all layers
  return r"(model\.)?" + of_layer + r"rotary_emb(_local)?\.(original_)?inv_freq" + tied


LLAMA = Family("llama", "LlamaForCausalLM", 10_000.0, 1e-5, biases=True, mlp_biases=True)
MISTRAL = Family("mistral", "MistralForCausalLM", 10_000.0, 1e-5, windows="all")
QWEN2 = Family("qwen2", "Qwen2ForCausalLM", 1e6, 1e-6, qkv_bias=True, windows="some")
QWEN3 = Family(
  "qwen3", "Qwen3ForCausalLM", 1e6, 1e-6, biases=True, qk_norm=True, windows="some", head_width=128
)
