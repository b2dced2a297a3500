"""What families have in common: fields of a config.json, names of tensors, sizes from scratch.

A field that is missing or null has the value transformers gives it; one that we cannot follow is
refused by its name, never ignored. Dropout is not read: a student has none.
"""

import dataclasses

from distill_jax import errors
from distill_jax.students import decoder
from distill_jax.students.families import layout

ACTIVATIONS = {
  "gelu_pytorch_tanh": "gelu_tanh",
  "gelu_new": "gelu_tanh",
  "gelu_fast": "gelu_tanh",
  "gelu": "gelu",
  "relu": "relu",
  "silu": "silu",
  "swish": "silu",
}
GLOBAL, LOCAL = "full_attention", "sliding_attention"

# How many of our leading dimensions a weight reads; theirs are [out, in]. What is not here, lies as
# ours does.
READS = {"o": 2} | dict.fromkeys("q k v gate up down head widen narrow".split(), 1)


def refusal(name: str, value, allowed: str) -> errors.UserError:
  return errors.data(f"config.json: {name} is {value!r}, but a student can only have {allowed}")


def only(fields: dict, **allowed) -> None:
  """Refuses fields whose value is not the one (or one of the tuple) that is allowed."""
  for name, values in allowed.items():
    values = values if isinstance(values, tuple) else (values,)
    value = fields.get(name)
    if value is not None and value not in values:
      raise refusal(name, value, " or ".join(map(repr, values)) or "none")


def supported(fields: dict) -> None:
  """Refuses what no family of ours can have."""
  only(fields, quantization_config=(), is_encoder_decoder=False, add_cross_attention=False)
  only(fields, num_local_experts=(), num_experts=())


def whole(fields: dict, name: str, usual: int | None = None, least: int = 1) -> int:
  """A size; `usual` is what a missing one means."""
  value = fields.get(name)
  if value is None and usual is not None:
    return usual
  if isinstance(value, bool) or not isinstance(value, int) or value < least:
    raise refusal(name, value, f"whole numbers from {least} on")
  return value


def number(fields: dict, name: str, usual: float | None = None) -> float:
  value = fields.get(name)
  if value is None and usual is not None:
    return usual
  if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e300:
    raise refusal(name, value, "numbers above 0")
  return float(value)


def flag(fields: dict, name: str, usual: bool) -> bool:
  value = fields.get(name)
  if value is not None and not isinstance(value, bool):
    raise refusal(name, value, "true or false")
  return usual if value is None else value


def activation(fields: dict, name: str, usual: str) -> str:
  value = fields.get(name) or usual
  if not isinstance(value, str) or value not in ACTIVATIONS:
    raise refusal(name, value, ", ".join(ACTIVATIONS))
  return ACTIVATIONS[value]


def theirs(activation: str) -> str:
  """The activation's name in a config.json."""
  return next(name for name, ours in ACTIVATIONS.items() if ours == activation)


def whole_heads(width: int, name: str, heads: int) -> dict:
  """Heads that have their own keys and together are as wide as the model; `name` is the field."""
  if width % heads:
    raise refusal(name, heads, f"divisors of the width ({width})")
  return {"heads": heads, "kv_heads": heads, "head_width": width // heads}


def grouped(fields: dict, width: int, head_width: int = 0, optional: bool = False) -> dict:
  """Heads, as Llama and its relatives say them; `head_width` is what a missing head_dim means, 0
  for width / heads. `optional`: groups need not be said."""
  heads = whole(fields, "num_attention_heads")
  said = optional or "num_key_value_heads" in fields
  kv_heads = whole(fields, "num_key_value_heads", heads if said else None)
  if heads % kv_heads:
    raise refusal("num_key_value_heads", kv_heads, f"divisors of num_attention_heads ({heads})")
  if not head_width and fields.get("head_dim") is None:
    head_width = whole_heads(width, "num_attention_heads", heads)["head_width"]
  head_width = whole(fields, "head_dim", head_width)
  return {"heads": heads, "kv_heads": kv_heads, "head_width": head_width}


def mapping(fields: dict, name: str) -> dict:
  value = fields.get(name)
  if value is not None and not isinstance(value, dict):
    raise refusal(name, value, "named parameters")
  return value or {}


def rotary(params: dict, theta: float, fields: dict, width: int) -> decoder.Rotary:
  """From one dict of rope parameters; `theta` where it has none. `fields` of the whole file."""
  kind = params.get("rope_type") or params.get("type") or "default"
  factor = fields.get("partial_rotary_factor")
  only(
    {"partial_rotary_factor": params.get("partial_rotary_factor", factor)}, partial_rotary_factor=1
  )
  if nested := {GLOBAL, LOCAL} & params.keys():
    raise refusal(f"rope_parameters.{min(nested)}", params[min(nested)], "one rope for all layers")
  if width % 2:
    raise refusal("head_dim", width, "even numbers")
  out = decoder.Rotary(number(params, "rope_theta", theta), width)
  if kind == "default":
    return out
  if kind not in ("linear", "llama3"):
    raise refusal("rope_type", kind, "default, linear or llama3")
  out = dataclasses.replace(out, scaling=kind, factor=number(params, "factor"))
  if kind == "linear":
    return out
  name = "original_max_position_embeddings"
  longest = params.get(name) or fields.get("max_position_embeddings")
  return dataclasses.replace(
    out,
    low=number(params, "low_freq_factor"),
    high=number(params, "high_freq_factor"),
    original=whole({name: longest}, name),
  )


def rope(rotary: decoder.Rotary) -> dict:
  """The dict of rope parameters."""
  out = {"rope_type": rotary.scaling or "default", "rope_theta": rotary.theta}
  if rotary.scaling:
    out["factor"] = rotary.factor
  if rotary.scaling == "llama3":
    out |= {"low_freq_factor": rotary.low, "high_freq_factor": rotary.high}
    out["original_max_position_embeddings"] = rotary.original
  return out


def rope_scaling(rotary: decoder.Rotary) -> dict | None:
  """The same as transformers 4 has it, beside rope_theta."""
  params = rope(rotary)
  del params["rope_theta"]
  return params if rotary.scaling else None


def windows(fields: dict, kinds: list[str]) -> dict:
  """Which layers are local and how far they see; layer_types if the file has them, else `kinds`."""
  types, layers = fields.get("layer_types"), len(kinds)
  if types is None:
    types = kinds
  if not isinstance(types, list) or len(types) != layers or not {*types} <= {GLOBAL, LOCAL}:
    raise refusal("layer_types", types, f"{layers} times {GLOBAL} or {LOCAL}")
  if LOCAL not in types:
    return {}
  window = whole(fields, "sliding_window")
  return {"window": window, "local": tuple(kind == LOCAL for kind in types)}


def layer_types(config: decoder.Config) -> list[str]:
  return [LOCAL if here else GLOBAL for here in config.local or (False,) * config.layers]


def tensors(config: decoder.Config, top: dict, block: dict, prefix: str) -> list[layout.Tensor]:
  """Every array of ours under its name: `top` and, for every layer, `block` behind `prefix`."""
  shapes = decoder.shapes(config)
  out = [
    tensor(top[name], (name,), None, array.shape)
    for name, array in shapes.items()
    if name != "blocks"
  ]
  return out + [
    tensor(prefix.format(n) + block[name], ("blocks", name), n, array.shape[1:])
    for n in range(config.layers)
    for name, array in shapes["blocks"].items()
  ]


def tensor(name: str, path, layer, ours) -> layout.Tensor:
  """One whole tensor of theirs: torch's [out, in], a bias in one dimension, or as ours lies."""
  reads = READS[path[-1]] if path[-1] in READS else 0
  if reads:
    order = (*range(len(ours) - reads, len(ours)), *range(len(ours) - reads))
    return layout.Tensor(name, path, layer, (ours[reads:], ours[:reads]), order)
  split = (ours,) if path[-1].endswith("_bias") else tuple((size,) for size in ours)
  return layout.Tensor(name, path, layer, split, tuple(range(len(ours))))


def scratch(sizes, **parts) -> decoder.Config:
  """A Config of the given sizes, which every family has, and parts."""
  if sizes.heads % sizes.kv_heads:
    raise errors.config(
      "student.scratch.kv_heads", sizes.kv_heads, f"a divisor of heads ({sizes.heads})"
    )
  names = ("vocab", "width", "layers", "heads", "kv_heads", "head_width", "mlp", "tied")
  return decoder.Config(**{name: getattr(sizes, name) for name in names}, dtype="float32", **parts)


def scratch_whole(sizes, family: str, **parts) -> decoder.Config:
  """The same for families whose heads have their own keys and are as wide as the model together."""
  if sizes.kv_heads != sizes.heads:
    raise errors.config(
      "student.scratch.kv_heads",
      sizes.kv_heads,
      f"heads ({sizes.heads}) in {family}",
      f"--config.student.scratch.kv_heads={sizes.heads}",
    )
  if sizes.heads * sizes.head_width != sizes.width:
    raise errors.config(
      "student.scratch.head_width", sizes.head_width,
      f"width / heads ({sizes.width} / {sizes.heads}) in {family}",
    )  # fmt: skip
  return scratch(sizes, **parts)


def fixed(sizes, name: str, value: float, family: str) -> None:
  """Refuses a size that the family does not let one choose; 0 is the family's usual."""
  if getattr(sizes, name) not in (0, value):
    raise errors.config(
      f"student.scratch.{name}", getattr(sizes, name), f"0 ({family} has no other)"
    )


def even_heads(sizes) -> None:
  if sizes.head_width % 2:
    raise errors.config(
      "student.scratch.head_width", sizes.head_width, "even, for rotary positions"
    )


def divided(sizes, family: str) -> None:
  if sizes.width % sizes.heads:
    raise errors.config(
      "student.scratch.heads", sizes.heads, f"a divisor of width ({sizes.width}) in {family}"
    )
