"""Gemma 2 and the text models of Gemma 3.

Norms before and after each part, with scale 1 + weight; an embedding times the root of the width;
local layers between global ones. Gemma 2 has soft-caps on scores and logits; Gemma 3 normalizes
queries and keys instead, and its local layers have their own rotary positions. Reference:
transformers' modeling_gemma2.py and modeling_gemma3.py.
"""

import dataclasses

from distill_jax.students import decoder
from distill_jax.students.families import hf_config, layout, llama
from distill_jax.students.families.hf_config import Fields, Sizes

BLOCK = (
  llama.ATTENTION
  | {
    "attention_post_norm": "post_attention_layernorm.weight",
    "mlp_norm": "pre_feedforward_layernorm.weight",
    "mlp_post_norm": "post_feedforward_layernorm.weight",
  }
  | llama.MLP
)


@dataclasses.dataclass(frozen=True)
class Family:
  """One of the two families; see families.Family."""

  name: str  # model_type
  architecture: str
  global_every: int  # default: one layer in so many is global
  theta: float  # default
  local_theta: float = 0.0  # of local layers, where it differs
  softcaps: tuple[float, float] = (0.0, 0.0)  # defaults: of scores, of logits
  qk_norm: bool = False
  PREFIX: str = "model."  # of tensor names

  def read(self, fields: Fields) -> decoder.Config:
    """Returns the config of a config.json. Raises UserError for what a student cannot compute."""
    hf_config.require_plain_decoder(fields)
    hf_config.require(fields, use_bidirectional_attention=False)
    if self.qk_norm:  # transformers reads this field but ignores it
      hf_config.require(fields, attn_logit_softcapping=())
    width, layers = (
      hf_config.integer(fields, "hidden_size"),
      hf_config.integer(fields, "num_hidden_layers"),
    )
    heads = hf_config.grouped_heads(fields, width, 256)
    biased = hf_config.flag(fields, "attention_bias", False)
    every = self.global_every
    if self.qk_norm:
      every = hf_config.integer(fields, "sliding_window_pattern", every)
    scores, logits = (
      self._softcap(fields, *pair) for pair in zip(SOFTCAPS, self.softcaps, strict=True)
    )
    windows = hf_config.windows({"sliding_window": 4096} | fields, _layer_types(layers, every))
    return decoder.Config(
      vocab=hf_config.integer(fields, "vocab_size"),
      width=width,
      layers=layers,
      **heads,
      mlp=hf_config.integer(fields, "intermediate_size"),
      norm_eps=hf_config.number(fields, "rms_norm_eps", 1e-6),
      tied=hf_config.flag(fields, "tie_word_embeddings", True),
      dtype="float32",
      activation=hf_config.activation(fields, "hidden_activation", "gelu_pytorch_tanh"),
      qkv_bias=biased,
      out_bias=biased,
      attention_scale=hf_config.integer(fields, "query_pre_attn_scalar", 256) ** -0.5,
      attention_softcap=scores,
      logit_softcap=logits,
      **windows,
      **self._rotary(fields, heads["head_width"], bool(windows)),
      **self._fixed_options(width),
    )

  def _softcap(self, fields: Fields, name: str, default: float) -> float:
    if name not in fields:
      return default
    return 0.0 if fields[name] is None else hf_config.number(fields, name)

  def _rotary(self, fields: Fields, width: int, windows: bool) -> Fields:
    params, scaling = (hf_config.mapping(fields, f"rope_{n}") for n in ("parameters", "scaling"))
    theta = hf_config.number(fields, "rope_theta", self.theta)
    if not self.local_theta:
      return {"rotary": hf_config.rotary(scaling or params, theta, fields, width)}
    global_params = hf_config.mapping(params, hf_config.GLOBAL) | scaling
    out = {"rotary": hf_config.rotary(global_params, theta, fields, width)}
    if windows:
      local_params = hf_config.mapping(params, hf_config.LOCAL)
      theta = hf_config.number(fields, "rope_local_base_freq", self.local_theta)
      out["local_rotary"] = hf_config.rotary(local_params, theta, fields, width)
    return out

  def _fixed_options(self, width: int) -> Fields:
    parts = {"norm": "rms_plus_one", "order": "sandwich", "qk_norm": self.qk_norm}
    return parts | {"embed_scale": width**0.5}

  def write(self, config: decoder.Config) -> Fields:
    """Returns the fields of a config.json."""
    types = hf_config.layer_types(config)
    softcaps = (config.attention_softcap or None, config.logit_softcap or None)
    out = {
      "architectures": [self.architecture],
      "model_type": self.name,
      **llama.sizes(config),
      "hidden_activation": hf_config.hf_activation(config.activation),
      "attention_bias": config.out_bias,
      "query_pre_attn_scalar": round(config.scale**-2),
      "sliding_window": config.window or 4096,
      "layer_types": types,
      **dict(zip(SOFTCAPS, softcaps, strict=True)),
    }
    return out | self._rope(config, types)

  def _rope(self, config: decoder.Config, types: list[str]) -> Fields:
    rope = hf_config.rope_of(config)
    params = hf_config.rope_parameters(rope)
    out: Fields = {"rope_theta": rope.theta, "rope_parameters": params}
    out["rope_scaling"] = hf_config.rope_scaling(rope)
    if self.local_theta:
      local = config.local_rotary or decoder.Rotary(self.local_theta, config.head_width)
      local_params = hf_config.rope_parameters(local)
      out["rope_parameters"] = {hf_config.GLOBAL: params, hf_config.LOCAL: local_params}
      out["rope_local_base_freq"] = local.theta
      out["sliding_window_pattern"] = [*types, hf_config.GLOBAL].index(hf_config.GLOBAL) + 1
    return out

  def tensors(self, config: decoder.Config) -> list[layout.Tensor]:
    """Returns the tensors of all parameters."""
    return hf_config.tensors(config, llama.TOP, BLOCK, llama.LAYER)

  def spare(self, config: decoder.Config) -> str:
    """Returns a pattern of tensor names that are ignored."""
    return llama.spare(config)

  def ties(self, config: decoder.Config) -> tuple[str, ...]:
    """Returns the names of an embedding that is also the head; () if it is not tied."""
    return hf_config.ties(config, llama.TOP)

  def scratch(self, sizes: Sizes) -> decoder.Config:
    """Returns a config of the given sizes. Raises UserError for those the family cannot have."""
    hf_config.require_even_heads(sizes)
    hf_config.require_divisible_width(sizes, self.name)
    theta = sizes.rope_theta or self.theta
    local = decoder.Rotary(self.local_theta, sizes.head_width) if self.local_theta else None
    kinds = _layer_types(sizes.layers, self.global_every)
    return hf_config.from_scratch(
      sizes,
      norm_eps=sizes.norm_eps or 1e-6,
      rotary=decoder.Rotary(theta, sizes.head_width),
      local_rotary=local,
      activation="gelu_tanh",
      attention_scale=sizes.head_width**-0.5,
      attention_softcap=self.softcaps[0],
      logit_softcap=self.softcaps[1],
      window=4096,
      local=tuple(kind == hf_config.LOCAL for kind in kinds),
      **self._fixed_options(sizes.width),
    )


SOFTCAPS = ("attn_logit_softcapping", "final_logit_softcapping")


def _layer_types(layers: int, every: int) -> list[str]:
  return [hf_config.LOCAL if (n + 1) % every else hf_config.GLOBAL for n in range(layers)]


GEMMA2 = Family("gemma2", "Gemma2ForCausalLM", 2, 10_000.0, softcaps=(50.0, 30.0))
GEMMA3_TEXT = Family(
  "gemma3_text", "Gemma3ForCausalLM", 6, 1_000_000.0, local_theta=10_000.0, qk_norm=True
)
