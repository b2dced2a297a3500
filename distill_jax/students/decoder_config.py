"""The config of a decoder-only student."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Rotary:
  """Rotary positions: angles position * theta^(-2i/width) for the first `width` of a head."""

  theta: float
  width: int
  adjacent: bool = False  # pairs (2i, 2i+1), as in GPT-J, instead of (i, i + width/2)
  scaling: str = ""  # "" | linear (all angles / factor) | llama3 (only slow angles / factor)
  factor: float = 1.0
  low: float = 1.0  # llama3: an angle with fewer rotations within the original context is slow,
  high: float = 4.0  # and one with more is fast
  original: int = 8192  # llama3: the original context, tokens


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes and options of a decoder. `dtype` is the compute dtype; parameters stay float32."""

  vocab: int
  width: int
  layers: int
  heads: int
  kv_heads: int
  head_width: int
  mlp: int
  norm_eps: float
  tied: bool  # the head is the transposed embedding
  dtype: str
  rotary: Rotary | None = None
  learned: int = 0  # entries of a learned position table
  learned_offset: int = 0  # the entry of position 0 (OPT: 2)
  norm: str = "rms"  # rms | rms_plus_one (its scale is 1 + weight) | layer
  # pre | sandwich (norms after each part, too) | parallel (attention beside MLP) | post (OPT 350M)
  order: str = "pre"
  final_norm: bool = True
  activation: str = "silu"  # silu | relu | gelu | gelu_tanh
  gated: bool = True
  qkv_bias: bool = False
  out_bias: bool = False
  mlp_bias: bool = False
  head_bias: bool = False
  qk_norm: bool = False  # queries and keys are normalized within each head
  attention_scale: float = 0.0  # factor of the attention scores; 0 = head_width^-0.5
  attention_softcap: float = 0.0
  logit_softcap: float = 0.0
  embed_scale: float = 1.0
  embed_width: int = 0  # width of embedding and head where it is not `width` (OPT 350M)
  window: int = 0  # how far back local layers see, tokens
  local: tuple[bool, ...] = ()  # which layers are local; () = none
  local_rotary: Rotary | None = None  # of local layers, where it differs (Gemma 3)

  @property
  def scale(self) -> float:
    """The factor of the attention scores."""
    return self.attention_scale or self.head_width**-0.5

  @property
  def is_local(self) -> tuple[bool, ...]:
    """Whether each layer is local."""
    return self.local or (False,) * self.layers

  @property
  def layer_kinds(self) -> tuple[tuple[int, Rotary | None], ...]:
    """(window, rotary) of each layer; window 0 sees everything before it."""
    local = (self.window, self.local_rotary or self.rotary)
    return tuple(local if is_local else (0, self.rotary) for is_local in self.is_local)
