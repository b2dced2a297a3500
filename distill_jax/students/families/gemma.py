"""Gemma 2 and the text models of Gemma 3: norms before and after each part, whose scale is
1 + weight; an embedding times the root of the width; local layers between global ones.

Gemma 2 bends scores and logits by soft-caps; Gemma 3 norms queries and keys instead, and its local
layers turn by positions of their own. Reference: transformers' modeling_gemma2.py and
modeling_gemma3.py.
"""

import dataclasses
from typing import ClassVar

from distill_jax.students import decoder
from distill_jax.students.families import fields as files
from distill_jax.students.families import layout, llama

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
  """One of the two, with what a family module offers (families/__init__.py)."""

  name: str  # model_type
  architecture: str
  every: int  # usually, every so many layers one is global
  theta: float  # usual
  local_theta: float = 0.0  # of local layers, where theirs is another
  softcaps: tuple[float, float] = (0.0, 0.0)  # usual: of scores, of logits
  qk_norm: bool = False

  PREFIX: ClassVar[str] = "model."

  def read(self, fields: dict) -> decoder.Config:
    files.supported(fields)
    files.only(fields, use_bidirectional_attention=False)
    if self.qk_norm:  # transformers reads it and does not compute it
      files.only(fields, attn_logit_softcapping=())
    width, layers = files.whole(fields, "hidden_size"), files.whole(fields, "num_hidden_layers")
    heads = files.grouped(fields, width, 256)
    biased = files.flag(fields, "attention_bias", False)
    every = (
      files.whole(fields, "sliding_window_pattern", self.every) if self.qk_norm else self.every
    )
    scores, logits = (
      self._softcap(fields, *pair) for pair in zip(SOFTCAPS, self.softcaps, strict=True)
    )
    windows = files.windows({"sliding_window": 4096} | fields, _kinds(layers, every))
    return decoder.Config(
      vocab=files.whole(fields, "vocab_size"),
      width=width,
      layers=layers,
      **heads,
      mlp=files.whole(fields, "intermediate_size"),
      norm_eps=files.number(fields, "rms_norm_eps", 1e-6),
      tied=files.flag(fields, "tie_word_embeddings", True),
      dtype="float32",
      activation=files.activation(fields, "hidden_activation", "gelu_pytorch_tanh"),
      qkv_bias=biased,
      out_bias=biased,
      attention_scale=files.whole(fields, "query_pre_attn_scalar", 256) ** -0.5,
      attention_softcap=scores,
      logit_softcap=logits,
      **windows,
      **self._rotary(fields, heads["head_width"], bool(windows)),
      **self._always(width),
    )

  def _softcap(self, fields: dict, name: str, usual: float) -> float:
    if name not in fields:
      return usual
    return 0.0 if fields[name] is None else files.number(fields, name)

  def _rotary(self, fields: dict, width: int, windows: bool) -> dict:
    params, scaling = (files.mapping(fields, f"rope_{n}") for n in ("parameters", "scaling"))
    theta = files.number(fields, "rope_theta", self.theta)
    if not self.local_theta:
      return {"rotary": files.rotary(scaling or params, theta, fields, width)}
    far = files.mapping(params, files.GLOBAL) | scaling
    out = {"rotary": files.rotary(far, theta, fields, width)}
    if windows:
      near = files.mapping(params, files.LOCAL)
      theta = files.number(fields, "rope_local_base_freq", self.local_theta)
      out["local_rotary"] = files.rotary(near, theta, fields, width)
    return out

  def _always(self, width: int) -> dict:
    parts = {"norm": "rms_plus_one", "order": "sandwich", "qk_norm": self.qk_norm}
    return parts | {"embed_scale": width**0.5}

  def write(self, config: decoder.Config) -> dict:
    types = files.layer_types(config)
    softcaps = (config.attention_softcap or None, config.logit_softcap or None)
    out = {
      "architectures": [self.architecture],
      "model_type": self.name,
      **llama.sizes(config),
      "hidden_activation": files.theirs(config.activation),
      "attention_bias": config.out_bias,
      "query_pre_attn_scalar": round(config.scale**-2),
      "sliding_window": config.window or 4096,
      "layer_types": types,
      **dict(zip(SOFTCAPS, softcaps, strict=True)),
    }
    return out | self._rope(config, types)

  def _rope(self, config: decoder.Config, types: list[str]) -> dict:
    far = files.rope(config.rotary)
    out = {"rope_theta": config.rotary.theta, "rope_parameters": far}
    out["rope_scaling"] = files.rope_scaling(config.rotary)
    if self.local_theta:
      near = config.local_rotary or decoder.Rotary(self.local_theta, config.head_width)
      out["rope_parameters"] = {files.GLOBAL: far, files.LOCAL: files.rope(near)}
      out["rope_local_base_freq"] = near.theta
      out["sliding_window_pattern"] = [*types, files.GLOBAL].index(files.GLOBAL) + 1
    return out

  def tensors(self, config: decoder.Config) -> list[layout.Tensor]:
    return files.tensors(config, llama.TOP, BLOCK, llama.LAYER)

  def spare(self, config: decoder.Config) -> str:
    return llama.spare(config)

  def scratch(self, sizes) -> decoder.Config:
    files.even_heads(sizes)
    files.divided(sizes, self.name)
    theta = sizes.rope_theta or self.theta
    local = decoder.Rotary(self.local_theta, sizes.head_width) if self.local_theta else None
    kinds = _kinds(sizes.layers, self.every)
    return files.scratch(
      sizes,
      norm_eps=sizes.norm_eps or 1e-6,
      rotary=decoder.Rotary(theta, sizes.head_width),
      local_rotary=local,
      activation="gelu_tanh",
      attention_scale=sizes.head_width**-0.5,
      attention_softcap=self.softcaps[0],
      logit_softcap=self.softcaps[1],
      window=4096,
      local=tuple(kind == files.LOCAL for kind in kinds),
      **self._always(sizes.width),
    )


SOFTCAPS = ("attn_logit_softcapping", "final_logit_softcapping")


def _kinds(layers: int, every: int) -> list[str]:
  return [files.LOCAL if (n + 1) % every else files.GLOBAL for n in range(layers)]


GEMMA2 = Family("gemma2", "Gemma2ForCausalLM", 2, 10_000.0, softcaps=(50.0, 30.0))
GEMMA3_TEXT = Family(
  "gemma3_text", "Gemma3ForCausalLM", 6, 1_000_000.0, local_theta=10_000.0, qk_norm=True
)
