"""T5 v1.0, T5 v1.1 and Flan-T5. Reference: transformers' modeling_t5.py.

v1.0: relu; the head is the embedding, and what it reads is scaled. v1.1: gated gelu; a head of its
own, nothing is scaled. transformers 4 tells them apart by tie_word_embeddings; 5 writes it as true
whatever it has, and tells them apart by scale_decoder_outputs.
"""

from distill_jax import errors
from distill_jax.students import t5
from distill_jax.students.families import fields as files
from distill_jax.students.families import layout

PREFIX = ""
FEED_FORWARD = {"relu": ("relu", False), "gated-gelu": ("gelu_tanh", True)}
RELATIVE = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
TOP = {
  "embed": "shared.weight",
  "encoder_relative": f"encoder.{RELATIVE}",
  "encoder_norm": "encoder.final_layer_norm.weight",
  "decoder_relative": f"decoder.{RELATIVE}",
  "norm": "decoder.final_layer_norm.weight",
  "head": "lm_head.weight",
}
PARTS = {"encoder": ("attention", "mlp"), "decoder": ("attention", "cross", "mlp")}
THEIRS = {"attention": "SelfAttention", "cross": "EncDecAttention", "mlp": "DenseReluDense"}
MLP = {"gate": "wi_0", "up": "wi_1", "down": "wo"}


def read(fields: dict) -> t5.Config:
  files.only(fields, quantization_config=(), is_encoder_decoder=True, is_decoder=False)
  tied = files.flag(fields, "tie_word_embeddings", True)
  scaled = files.flag(fields, "scale_decoder_outputs", tied)
  if scaled and not tied:
    raise files.refusal("scale_decoder_outputs", True, "false where the head is not the embedding")
  kind, known = fields.get("feed_forward_proj") or "relu", " or ".join(FEED_FORWARD)
  if not isinstance(kind, str) or kind not in FEED_FORWARD:
    raise files.refusal("feed_forward_proj", kind, known)
  activation, gated = FEED_FORWARD[kind]
  layers = files.whole(fields, "num_layers")
  buckets = files.whole(fields, "relative_attention_num_buckets", 32, least=4)
  return t5.Config(
    vocab=files.whole(fields, "vocab_size"),
    width=files.whole(fields, "d_model"),
    layers=layers,
    decoder_layers=files.whole(fields, "num_decoder_layers", layers),
    heads=files.whole(fields, "num_heads"),
    head_width=files.whole(fields, "d_kv"),
    mlp=files.whole(fields, "d_ff"),
    buckets=buckets,
    distance=files.whole(fields, "relative_attention_max_distance", 128, least=buckets // 2 + 1),
    norm_eps=files.number(fields, "layer_norm_epsilon", 1e-6),
    activation=activation,
    gated=gated,
    tied=scaled,
    start=files.whole(fields, "decoder_start_token_id", least=0),
    dtype="float32",
  )


def write(config: t5.Config) -> dict:
  spelled = {ours: theirs for theirs, ours in FEED_FORWARD.items()}
  return {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "is_encoder_decoder": True,
    "vocab_size": config.vocab,
    "d_model": config.width,
    "num_layers": config.layers,
    "num_decoder_layers": config.decoder_layers,
    "num_heads": config.heads,
    "d_kv": config.head_width,
    "d_ff": config.mlp,
    "relative_attention_num_buckets": config.buckets,
    "relative_attention_max_distance": config.distance,
    "layer_norm_epsilon": config.norm_eps,
    "feed_forward_proj": spelled[config.activation, config.gated],
    "tie_word_embeddings": config.tied,
    "scale_decoder_outputs": config.tied,
    "decoder_start_token_id": config.start,
  }


def tensors(config: t5.Config) -> list[layout.Tensor]:
  shapes, numbers = t5.shapes(config), {"encoder": config.layers, "decoder": config.decoder_layers}
  mlp = MLP if config.gated else MLP | {"up": "wi"}

  def name(part: str, ours: str) -> str:
    if ours == "norm":
      return "layer_norm.weight"
    return f"{THEIRS[part]}.{mlp[ours] if part == 'mlp' else ours}.weight"

  top = [n for n in shapes if n not in PARTS]
  return [files.tensor(TOP[n], (n,), None, shapes[n].shape) for n in top] + [
    files.tensor(
      f"{stack}.block.{n}.layer.{place}.{name(part, ours)}", (stack, part, ours), n, array.shape[1:]
    )
    for stack, parts in PARTS.items()
    for n in range(numbers[stack])
    for place, part in enumerate(parts)
    for ours, array in shapes[stack][part].items()
  ]


def spare(config: t5.Config) -> str:
  """The embedding under its other names, and a table of older files that nobody reads."""
  other = r"(encoder|decoder)\.embed_tokens\.weight"
  other += r"|decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
  return other + (r"|lm_head\.weight" if config.tied else "")


def scratch(sizes) -> t5.Config:
  """v1.1, but for the head where it shall be tied."""
  files.fixed(sizes, "rope_theta", 0.0, "t5")
  if sizes.kv_heads != sizes.heads:
    at, do = "student.scratch.kv_heads", f"--config.student.scratch.kv_heads={sizes.heads}"
    raise errors.config(at, sizes.kv_heads, f"heads ({sizes.heads}) in t5", do)
  return t5.Config(
    vocab=sizes.vocab,
    width=sizes.width,
    layers=sizes.layers,
    decoder_layers=sizes.layers,
    heads=sizes.heads,
    head_width=sizes.head_width,
    mlp=sizes.mlp,
    buckets=32,
    distance=128,
    norm_eps=sizes.norm_eps or 1e-6,
    activation="gelu_tanh",
    gated=True,
    tied=sizes.tied,
    start=0,  # the padding token of every tokenizer we train
    dtype="float32",
  )
