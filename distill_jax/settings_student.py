"""The settings of the student: weights, sizes, devices, sampling.

Declarations only; see `declare.py`.
"""

import dataclasses

from distill_jax.declare import Above, AnyOf, Table, Unless, When, group, key

ON_SCRATCH = When("student.init", ("scratch",))
ON_PRETRAINED = Unless("student.init", ("scratch",))
ON_LORA = Above("student.lora.rank")
# The formats whose attempts are one turn of several lines.
ON_ONE_TURN = (
  Unless("format", ("staged",)),
  AnyOf(
    (Unless("format", ("socratic",)), When("socratic.mode", ("unified",))),
    words="if format is not socratic or socratic.mode is unified",
  ),
)


@dataclasses.dataclass(frozen=True)
class Lora:
  """Low-rank adapters; the weights below them are frozen."""

  rank: int = key(0, "Rank of the adapters; 0 = train all weights.", ge=0)
  alpha: float = key(16.0, "Adapters are scaled by alpha / rank.", gt=0, when=(ON_LORA,))
  targets: tuple[str, ...] = key(
    ("q", "k", "v", "o"),
    "Which weights are adapted.",
    choices=("q", "k", "v", "o", "gate", "up", "down"),
    when=(ON_LORA,),
  )
  base: str = key(
    "",
    "Weights below the adapters: nf4 (4 bits, with a scale for each 64 inputs, as in QLoRA; needs"
    " the package qwix) | empty (in student.dtype). Embeddings and norms keep their dtype.",
    choices=("", "nf4"),
    when=(ON_LORA,),
  )


@dataclasses.dataclass(frozen=True)
class Scratch:
  """Sizes of a student from scratch."""

  vocab: int = key(
    512, "Vocabulary size, 260 or more; the tokenizer is trained on the task's text.", ge=260
  )
  width: int = key(96, "Width of the residual stream.", ge=1)
  layers: int = key(2, "Layers; an encoder-decoder has this many in each half.", ge=1)
  heads: int = key(4, "Attention heads.", ge=1)
  kv_heads: int = key(2, "Key and value heads, a divisor of heads.", ge=1)
  head_width: int = key(24, "Width of a head, even.", ge=2)
  mlp: int = key(256, "Width of the MLP.", ge=1)
  rope_theta: float = key(0.0, "RoPE base; 0 = the family's default.", ge=0)
  norm_eps: float = key(0.0, "Epsilon of the norms; 0 = the family's default.", ge=0)
  tied: bool = key(True, "Input and output embedding share their weights.")


@dataclasses.dataclass(frozen=True)
class Student:
  """The student: its initial weights, model family and numerics."""

  init: str = key(
    "scratch",
    "scratch | a Hugging Face directory | a name on the hub. The model may move, but not change.",
    mutable=True,
  )
  arch: str = key(
    "",
    "Model family; empty = llama from scratch, otherwise the family of the loaded model.",
    choices=Table("families.BY_TYPE", ("",)),
  )
  prompt: str = key(
    "auto",
    "Prompts of a pretrained student: plain (the text of the format) | chat (messages, laid out by"
    " its chat template) | auto (chat if its tokenizer has a template).",
    choices=("auto", "plain", "chat"),
    when=(ON_PRETRAINED,),
  )
  system: str = key(
    "",
    "System message of a chat; empty = the default of the chat template.",
    when=(ON_PRETRAINED, Unless("student.prompt", ("plain",))),
  )
  stop: str = key(
    "auto",
    "What ends an attempt besides its end token: none | blank_line | a text | auto (from scratch, a"
    " blank line; pretrained, the next question in a plain prompt and nothing in a chat).",
    when=ON_ONE_TURN,
  )
  dtype: str = key(
    "float32",
    "Dtype of matrix products; trained weights stay float32. auto = bfloat16 on an accelerator.",
    choices=("float32", "bfloat16", "auto"),
  )
  attention: str = key(
    "auto",
    "Attention implementation in training; cudnn needs an NVIDIA GPU, splash a TPU.",
    choices=("auto", "plain", "cudnn", "splash"),
  )
  lora: Lora = group(Lora, "Low-rank adapters.")
  scratch: Scratch = group(Scratch, "Sizes of a student from scratch.", when=(ON_SCRATCH,))


@dataclasses.dataclass(frozen=True)
class Mesh:
  """Devices along each mesh axis; at most one is -1, which stands for all remaining devices."""

  data: int = key(-1, "Devices for data parallelism; -1 (of one axis) = all remaining devices.")
  fsdp: int = key(1, "Devices for fully sharded data parallelism.")
  tensor: int = key(1, "Devices for tensor parallelism.")


@dataclasses.dataclass(frozen=True)
class Rollout:
  """Bulk sampling."""

  batch: int = key(
    0,
    "Rows decoded at a time; 0 = 256, or 32 on a CPU, where an unused row costs as much as a used"
    " one. A different number changes the rounding of matrix products.",
    ge=0,
    mutable=True,
  )
  refill: float = key(
    0.25,
    "Share of the rows that must be free before new prompts start in them.",
    gt=0,
    le=1,
    mutable=True,
  )
  weights: str = key(
    "",
    "Weights that decoding reads: int8 (layers and head, with a scale for each output, quantized"
    " once per rollout; needs the package qwix) | empty (in student.dtype).",
    choices=("", "int8"),
  )
  buckets: tuple[int, ...] = key(
    (),
    "Padded prompt lengths in tokens; longer prompts are cut. Empty (or auto) = from the data for"
    " a pretrained student; 32 to 1024 from scratch.",
  )
