"""T5 v1.0, T5 v1.1 and Flan-T5. Reference: transformers' modeling_t5.py.

v1.0: relu; the head is the embedding, and its input is scaled. v1.1: gated gelu; a separate head,
without scaling. transformers 4 tells them apart by tie_word_embeddings; transformers 5 always
writes that as true and tells them apart by scale_decoder_outputs.
"""

from distill_jax.students import t5
from distill_jax.students.families import hf_config, layout
from distill_jax.students.families.hf_config import Fields, Sizes

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


def read(fields: Fields) -> t5.Config:
  """Returns the config of a config.json. Raises UserError for what a student cannot compute."""
  hf_config.require(fields, quantization_config=(), is_encoder_decoder=True, is_decoder=False)
  tied = hf_config.flag(fields, "tie_word_embeddings", True)
  scaled = hf_config.flag(fields, "scale_decoder_outputs", tied)
  if scaled and not tied:
    raise hf_config.unsupported(
      "scale_decoder_outputs", True, "false where the head is not the embedding"
    )
  kind, known = hf_config.first(fields.get("feed_forward_proj"), "relu"), " or ".join(FEED_FORWARD)
  if not isinstance(kind, str) or kind not in FEED_FORWARD:
    raise hf_config.unsupported("feed_forward_proj", kind, known)
  activation, gated = FEED_FORWARD[kind]
  layers = hf_config.integer(fields, "num_layers")
  buckets = hf_config.integer(fields, "relative_attention_num_buckets", 32, minimum=4)
  return t5.Config(
    vocab=hf_config.integer(fields, "vocab_size"),
    width=hf_config.integer(fields, "d_model"),
    layers=layers,
    decoder_layers=hf_config.integer(fields, "num_decoder_layers", layers),
    heads=hf_config.integer(fields, "num_heads"),
    head_width=hf_config.integer(fields, "d_kv"),
    mlp=hf_config.integer(fields, "d_ff"),
    buckets=buckets,
    distance=hf_config.integer(
      fields, "relative_attention_max_distance", 128, minimum=buckets // 2 + 1
    ),
    norm_eps=hf_config.number(fields, "layer_norm_epsilon", 1e-6),
    activation=activation,
    gated=gated,
    tied=scaled,
    start=hf_config.integer(fields, "decoder_start_token_id", minimum=0),
    dtype="float32",
  )


def write(config: t5.Config) -> Fields:
  """Returns the fields of a config.json."""
  feed_forward = {ours: theirs for theirs, ours in FEED_FORWARD.items()}
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
    "feed_forward_proj": feed_forward[config.activation, config.gated],
    "tie_word_embeddings": config.tied,
    "scale_decoder_outputs": config.tied,
    "decoder_start_token_id": config.start,
  }


def tensors(config: t5.Config) -> list[layout.Tensor]:
  """Returns the tensors of all parameters."""
  shapes, counts = t5.shapes(config), {"encoder": config.layers, "decoder": config.decoder_layers}
  mlp = MLP if config.gated else MLP | {"up": "wi"}

  def name(part: str, ours: str) -> str:
    if ours == "norm":
      return "layer_norm.weight"
    return f"{THEIRS[part]}.{mlp[ours] if part == 'mlp' else ours}.weight"

  outside = [n for n in shapes if n not in PARTS]
  return [hf_config.tensor(TOP[n], (n,), None, shapes[n].shape) for n in outside] + [
    hf_config.tensor(
      f"{stack}.block.{n}.layer.{index}.{name(part, ours)}", (stack, part, ours), n, array.shape[1:]
    )
    for stack, parts in PARTS.items()
    for n in range(counts[stack])
    for index, part in enumerate(parts)
    for ours, array in shapes[stack][part].items()
  ]


def spare(config: t5.Config) -> str:
  """Returns a pattern for other names of the embedding, and an unused table of older files."""
  other = r"(encoder|decoder)\.embed_tokens\.weight"
  other += r"|decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
  return other + (r"|lm_head\.weight" if config.tied else "")


def ties(config: t5.Config) -> tuple[str, ...]:
  """Returns the names in a file of the embedding, which both stacks share, and the tied head."""
  embeddings = (TOP["embed"], "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
  return (*embeddings, TOP["head"]) if config.tied else embeddings


def scratch(sizes: Sizes) -> t5.Config:
  """Returns a v1.1 config, apart from the head if it is tied.

  Raises UserError for sizes the family cannot have.
  """
  hf_config.require_default("rope_theta", sizes.rope_theta, 0.0, "t5")
  hf_config.require_own_keys(sizes, "t5")
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
