"""The config of an encoder-decoder student."""

import dataclasses
from typing import ClassVar


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes and options of a T5. `dtype` is the compute dtype; parameters stay float32."""

  vocab: int
  width: int
  layers: int  # of the encoder
  decoder_layers: int
  heads: int
  head_width: int
  mlp: int
  buckets: int  # of the relative bias; each stack has a table of them
  distance: int  # tokens; all keys from this distance on share the last bucket
  norm_eps: float
  activation: str  # relu | gelu_tanh
  gated: bool
  tied: bool  # the head is the transposed embedding, and its input is scaled by width^-0.5
  start: int  # the decoder's first token
  dtype: str

  logit_softcap: ClassVar[float] = 0.0  # no T5 has one
