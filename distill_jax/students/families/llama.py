"""Llama and its closest relatives: Mistral, Qwen2, Qwen3. (SmolLM2 and many others are Llamas.)

One decoder without extras; what departs from it stands in the table below. Reference:
transformers' modeling_llama.py, modeling_mistral.py, modeling_qwen2.py, modeling_qwen3.py.
"""

import dataclasses
from typing import ClassVar

from distill_jax.students import decoder
from distill_jax.students.families import fields as files
from distill_jax.students.families import layout

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
  """One of the relatives, with what a family module offers (families/__init__.py)."""

  name: str  # model_type
  architecture: str
  theta: float  # usual, from scratch
  eps: float
  biases: bool = False  # attention_bias is a choice (of all four)
  mlp_biases: bool = False  # mlp_bias is a choice
  qkv_bias: bool = False  # always on queries, keys and values alone
  qk_norm: bool = False
  windows: str = "none"  # which layers can be local: none | all (where sliding_window) | some
  head_width: int = 0  # what a missing head_dim means; 0 = width / heads

  PREFIX: ClassVar[str] = "model."

  def read(self, fields: dict) -> decoder.Config:
    files.supported(fields)
    width, layers = files.whole(fields, "hidden_size"), files.whole(fields, "num_hidden_layers")
    heads = files.grouped(fields, width, self.head_width, optional=self.name == "llama")
    biased = self.biases and files.flag(fields, "attention_bias", False)
    params = files.mapping(fields, "rope_scaling") or files.mapping(fields, "rope_parameters")
    theta = files.number(fields, "rope_theta", 10_000.0)
    return decoder.Config(
      vocab=files.whole(fields, "vocab_size"),
      width=width,
      layers=layers,
      **heads,
      mlp=files.whole(fields, "intermediate_size"),
      norm_eps=files.number(fields, "rms_norm_eps", 1e-6),
      tied=files.flag(fields, "tie_word_embeddings", False),
      dtype="float32",
      rotary=files.rotary(params, theta, fields, heads["head_width"]),
      activation=files.activation(fields, "hidden_act", "silu"),
      qkv_bias=self.qkv_bias or biased,
      out_bias=biased,
      mlp_bias=self.mlp_biases and files.flag(fields, "mlp_bias", False),
      qk_norm=self.qk_norm,
      **self._windows(fields, layers),
    )

  def _windows(self, fields: dict, layers: int) -> dict:
    if self.windows == "none":
      return {}
    fields = {"sliding_window": 4096} | fields
    slides = fields["sliding_window"] is not None
    if self.windows == "all":
      files.only(fields, layer_types=())  # transformers warns, and slides in every layer
      return files.windows(fields, [files.LOCAL if slides else files.GLOBAL] * layers)
    if not (slides and files.flag(fields, "use_sliding_window", False)):
      return files.windows(fields | {"sliding_window": None}, [files.GLOBAL] * layers)
    first = files.whole(fields, "max_window_layers", 28, least=0)
    kinds = [files.LOCAL if n >= first else files.GLOBAL for n in range(layers)]
    return files.windows(fields, kinds)

  def write(self, config: decoder.Config) -> dict:
    out = {
      "architectures": [self.architecture],
      "model_type": self.name,
      **sizes(config),
      "rope_theta": config.rotary.theta,
      "rope_scaling": files.rope_scaling(config.rotary),
      "rope_parameters": files.rope(config.rotary),
    }
    if self.biases:
      out["attention_bias"] = config.out_bias
    if self.mlp_biases:
      out["mlp_bias"] = config.mlp_bias
    if self.windows != "none":
      out["sliding_window"] = config.window or None
    if self.windows == "some":
      types = files.layer_types(config)
      out |= {"use_sliding_window": files.LOCAL in types, "layer_types": types}
      out["max_window_layers"] = [*types, files.LOCAL].index(files.LOCAL)
    return out

  def tensors(self, config: decoder.Config) -> list[layout.Tensor]:
    return files.tensors(config, TOP, BLOCK, LAYER)

  def spare(self, config: decoder.Config) -> str:
    return spare(config)

  def scratch(self, sizes) -> decoder.Config:
    files.even_heads(sizes)
    if self.name == "llama":
      files.divided(sizes, self.name)
    return files.scratch(
      sizes,
      norm_eps=sizes.norm_eps or self.eps,
      rotary=decoder.Rotary(sizes.rope_theta or self.theta, sizes.head_width),
      qkv_bias=self.qkv_bias,
      qk_norm=self.qk_norm,
    )


def sizes(config: decoder.Config) -> dict:
  """What the relatives' files, and Gemma's, have in common."""
  return {
    "vocab_size": config.vocab,
    "hidden_size": config.width,
    "intermediate_size": config.mlp,
    "num_hidden_layers": config.layers,
    "num_attention_heads": config.heads,
    "num_key_value_heads": config.kv_heads,
    "head_dim": config.head_width,
    "hidden_act": files.theirs(config.activation),
    "rms_norm_eps": config.norm_eps,
    "tie_word_embeddings": config.tied,
  }


def spare(config: decoder.Config) -> str:
  """Buffers of older files, and the head that is the embedding."""
  tied = r"|lm_head\.weight" if config.tied else ""
  return r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq" + tied


LLAMA = Family("llama", "LlamaForCausalLM", 10_000.0, 1e-5, biases=True, mlp_biases=True)
MISTRAL = Family("mistral", "MistralForCausalLM", 10_000.0, 1e-5, windows="all")
QWEN2 = Family("qwen2", "Qwen2ForCausalLM", 1e6, 1e-6, qkv_bias=True, windows="some")
QWEN3 = Family(
  "qwen3", "Qwen3ForCausalLM", 1e6, 1e-6, biases=True, qk_norm=True, windows="some", head_width=128
)
