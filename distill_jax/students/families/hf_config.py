"""What families share: fields of a config.json, names of tensors, sizes from scratch.

A field that is missing or null has the value transformers gives it. One that a student cannot
follow is rejected by name, never ignored. Dropout is not read, because students have none.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from distill_jax import errors
from distill_jax.students import decoder
from distill_jax.students.families import layout

Fields = dict[str, Any]  # of a config.json

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

# How many leading dimensions of our weight are inputs, where theirs are [out, in]; else they agree.
_ONE_INPUT = ("q", "k", "v", "gate", "up", "down", "head", "widen", "narrow")
INPUT_DIMENSIONS = {"o": 2} | dict.fromkeys(_ONE_INPUT, 1)


class Sizes(Protocol):
  """Sizes of a student from scratch: settings.Scratch, with the length of its position table."""

  @property
  def vocab(self) -> int:
    """Entries of the vocabulary."""
    ...

  @property
  def width(self) -> int:
    """Width of the residual stream."""
    ...

  @property
  def layers(self) -> int:
    """Layers of each stack."""
    ...

  @property
  def heads(self) -> int:
    """Attention heads."""
    ...

  @property
  def kv_heads(self) -> int:
    """Key and value heads."""
    ...

  @property
  def head_width(self) -> int:
    """Width of a head."""
    ...

  @property
  def mlp(self) -> int:
    """Width of the MLP."""
    ...

  @property
  def rope_theta(self) -> float:
    """RoPE base; 0 is the family's default."""
    ...

  @property
  def norm_eps(self) -> float:
    """Epsilon of the norms; 0 is the family's default."""
    ...

  @property
  def tied(self) -> bool:
    """Whether the head is the transposed embedding."""
    ...

  @property
  def positions(self) -> int:
    """Entries of a learned position table."""
    ...


def unsupported(name: str, value: object, allowed: str) -> errors.UserError:
  """Returns the error for a field that a student cannot follow."""
  shown = repr(value)[:200]
  return errors.data(f"config.json: {name} is {shown}, but a student can only have {allowed}")


def require(fields: Mapping[str, Any], **allowed: Any) -> None:
  """Rejects fields that are present and do not have the allowed value, or one of a tuple."""
  for name, values in allowed.items():
    values = values if isinstance(values, tuple) else (values,)
    value = fields.get(name)
    typed = [(isinstance(x, bool), x) for x in values]  # 0 is not false
    if value is not None and (isinstance(value, bool), value) not in typed:
      raise unsupported(name, value, " or ".join(map(repr, values)) or "none")


def require_plain_decoder(fields: Fields) -> None:
  """Rejects what no decoder family can have."""
  require(fields, quantization_config=(), is_encoder_decoder=False, add_cross_attention=False)
  require(fields, num_local_experts=(), num_experts=())


def first(*values: Any) -> Any:
  """Returns the first value that is not null; an empty or a false one counts."""
  return next((value for value in values if value is not None), None)


def integer(
  fields: Mapping[str, Any], name: str, default: int | None = None, minimum: int = 1
) -> int:
  """Returns a size; a missing one is `default`, or rejected if there is none."""
  value = fields.get(name)
  if value is None and default is not None:
    return default
  if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
    raise unsupported(name, value, f"integers of {minimum} or more")
  return value


def number(fields: Mapping[str, Any], name: str, default: float | None = None) -> float:
  """Returns a number above 0; a missing one is `default`, or rejected if there is none."""
  value = fields.get(name)
  if value is None and default is not None:
    return default
  if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e300:
    raise unsupported(name, value, "numbers above 0")
  return float(value)


def flag(fields: Mapping[str, Any], name: str, default: bool) -> bool:
  """Returns true or false."""
  value = fields.get(name)
  if value is not None and not isinstance(value, bool):
    raise unsupported(name, value, "true or false")
  return default if value is None else value


def activation(fields: Mapping[str, Any], name: str, default: str) -> str:
  """Returns our name of an activation; `default` is theirs."""
  value = first(fields.get(name), default)
  if not isinstance(value, str) or value not in ACTIVATIONS:
    raise unsupported(name, value, ", ".join(ACTIVATIONS))
  return ACTIVATIONS[value]


def hf_activation(activation: str) -> str:
  """Returns the name of our activation in a config.json."""
  return next(name for name, ours in ACTIVATIONS.items() if ours == activation)


def full_heads(width: int, name: str, heads: int) -> dict[str, int]:
  """Returns the sizes of heads with their own keys that together are as wide as the model.

  `name` is the field that an error names.
  """
  if width % heads:
    raise unsupported(name, heads, f"divisors of the width ({width})")
  return {"heads": heads, "kv_heads": heads, "head_width": width // heads}


def grouped_heads(
  fields: Fields, width: int, head_width: int = 0, optional: bool = False
) -> dict[str, int]:
  """Returns the sizes of heads, from the fields of Llama and its relatives.

  Args:
    fields: The fields.
    width: The width of the model.
    head_width: What a missing head_dim means; 0 is width / heads.
    optional: Whether the number of key-value heads may be missing.
  """
  heads = integer(fields, "num_attention_heads")
  may_default = optional or "num_key_value_heads" in fields
  kv_heads = integer(fields, "num_key_value_heads", heads if may_default else None)
  if heads % kv_heads:
    raise unsupported("num_key_value_heads", kv_heads, f"divisors of num_attention_heads ({heads})")
  if not head_width and fields.get("head_dim") is None:
    head_width = full_heads(width, "num_attention_heads", heads)["head_width"]
  head_width = integer(fields, "head_dim", head_width)
  return {"heads": heads, "kv_heads": kv_heads, "head_width": head_width}


def mapping(fields: Mapping[str, Any], name: str) -> Fields:
  """Returns a nested mapping; a missing one is empty."""
  value = fields.get(name)
  if value is not None and not isinstance(value, dict):
    raise unsupported(name, value, "named parameters")
  return value or {}


def rotary(params: Fields, theta: float, fields: Fields, width: int) -> decoder.Rotary:
  """Returns the rotary positions of a dict of rope parameters.

  Args:
    params: The rope parameters.
    theta: The base where they have none.
    fields: All fields of the file.
    width: The width of a head.
  """
  kind = first(params.get("rope_type"), params.get("type"), "default")
  factor = first(*(x.get("partial_rotary_factor") for x in (params, fields)))
  require({"partial_rotary_factor": factor}, partial_rotary_factor=1)
  if nested := {GLOBAL, LOCAL} & params.keys():
    raise unsupported(
      f"rope_parameters.{min(nested)}", params[min(nested)], "one rope for all layers"
    )
  if width % 2:
    raise unsupported("head_dim", width, "even numbers")
  out = decoder.Rotary(number(params, "rope_theta", theta), width)
  if kind == "default":
    return out
  if kind not in ("linear", "llama3"):
    raise unsupported("rope_type", kind, "default, linear or llama3")
  out = dataclasses.replace(out, scaling=kind, factor=number(params, "factor"))
  if kind == "linear":
    return out
  name = "original_max_position_embeddings"
  longest = first(params.get(name), fields.get("max_position_embeddings"))
  return dataclasses.replace(
    out,
    low=number(params, "low_freq_factor"),
    high=number(params, "high_freq_factor"),
    original=integer({name: longest}, name),
  )


def rope_of(config: decoder.Config) -> decoder.Rotary:
  """Returns the rotary positions of a config whose family always has them."""
  if config.rotary is None:
    raise ValueError("this config has no rotary positions")
  return config.rotary


def rope_parameters(rotary: decoder.Rotary) -> Fields:
  """Returns the dict of rope parameters, as transformers 5 writes it."""
  out: Fields = {"rope_type": rotary.scaling or "default", "rope_theta": rotary.theta}
  if rotary.scaling:
    out["factor"] = rotary.factor
  if rotary.scaling == "llama3":
    out |= {"low_freq_factor": rotary.low, "high_freq_factor": rotary.high}
    out["original_max_position_embeddings"] = rotary.original
  return out


def rope_scaling(rotary: decoder.Rotary) -> Fields | None:
  """Returns the same as transformers 4 writes it, beside rope_theta."""
  params = rope_parameters(rotary)
  del params["rope_theta"]
  return params if rotary.scaling else None


def windows(fields: Mapping[str, Any], kinds: Sequence[str]) -> Fields:
  """Returns which layers are local and how far they see.

  Args:
    fields: The fields; layer_types, if there, says which layers are local.
    kinds: GLOBAL or LOCAL for each layer, where it does not.
  """
  types, layers = fields.get("layer_types"), len(kinds)
  if types is None:
    types = kinds
  if not isinstance(types, list) or len(types) != layers or not {*types} <= {GLOBAL, LOCAL}:
    raise unsupported("layer_types", types, f"{layers} times {GLOBAL} or {LOCAL}")
  if LOCAL not in types:
    return {}
  window = integer(fields, "sliding_window")
  return {"window": window, "local": tuple(kind == LOCAL for kind in types)}


def layer_types(config: decoder.Config) -> list[str]:
  """Returns GLOBAL or LOCAL for each layer."""
  return [LOCAL if is_local else GLOBAL for is_local in config.is_local]


def tensors(
  config: decoder.Config, top: Mapping[str, str], block: Mapping[str, str], prefix: str
) -> list[layout.Tensor]:
  """Returns every array of ours with its name in a file.

  Args:
    config: The config.
    top: Names of arrays outside of layers.
    block: Names of the arrays of a layer, behind `prefix`.
    prefix: Of a layer, with {} for its number.
  """
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


def ties(config: decoder.Config, top: Mapping[str, str]) -> tuple[str, ...]:
  """Returns the names in a file of an embedding that is also the head; () if it is not tied."""
  return (top["embed"], top["head"]) if config.tied else ()


def tensor(
  name: str, path: tuple[str, ...], layer: int | None, shape: tuple[int, ...]
) -> layout.Tensor:
  """Returns one whole tensor of a file: torch's [out, in], a flat bias, or the layout of ours.

  Args:
    name: In the file.
    path: In our tree.
    layer: Index into our stacked array; None if it is not stacked.
    shape: Of ours, without layers.
  """
  inputs = INPUT_DIMENSIONS.get(path[-1], 0)
  if inputs:
    order = (*range(len(shape) - inputs, len(shape)), *range(len(shape) - inputs))
    return layout.Tensor(name, path, layer, (shape[inputs:], shape[:inputs]), order)
  split = (shape,) if path[-1].endswith("_bias") else tuple((size,) for size in shape)
  return layout.Tensor(name, path, layer, split, tuple(range(len(shape))))


def from_scratch(sizes: Sizes, **options: Any) -> decoder.Config:
  """Returns a Config of the given sizes and options."""
  if sizes.heads % sizes.kv_heads:
    raise errors.config(
      "student.scratch.kv_heads", sizes.kv_heads, f"a divisor of heads ({sizes.heads})"
    )
  return decoder.Config(
    vocab=sizes.vocab,
    width=sizes.width,
    layers=sizes.layers,
    heads=sizes.heads,
    kv_heads=sizes.kv_heads,
    head_width=sizes.head_width,
    mlp=sizes.mlp,
    tied=sizes.tied,
    dtype="float32",
    **options,
  )


def from_scratch_full_heads(sizes: Sizes, family: str, **options: Any) -> decoder.Config:
  """Like `from_scratch`, for families whose heads are `full_heads`."""
  require_own_keys(sizes, family)
  if sizes.heads * sizes.head_width != sizes.width:
    raise errors.config(
      "student.scratch.head_width",
      sizes.head_width,
      f"width / heads ({sizes.width} / {sizes.heads}) in {family}",
    )
  return from_scratch(sizes, **options)


def require_own_keys(sizes: Sizes, family: str) -> None:
  """Rejects heads that share keys."""
  if sizes.kv_heads != sizes.heads:
    raise errors.config(
      "student.scratch.kv_heads",
      sizes.kv_heads,
      f"heads ({sizes.heads}) in {family}",
      f"--config.student.scratch.kv_heads={sizes.heads}",
    )


def require_default(name: str, value: float, default: float, family: str) -> None:
  """Rejects a size that the family does not let one choose; 0 is the family's default."""
  if value not in (0, default):
    raise errors.config(f"student.scratch.{name}", value, f"0, because {family} has no other")


def require_even_heads(sizes: Sizes) -> None:
  """Rejects heads that rotary positions cannot pair."""
  if sizes.head_width % 2:
    raise errors.config(
      "student.scratch.head_width", sizes.head_width, "even, for rotary positions"
    )


def require_divisible_width(sizes: Sizes, family: str) -> None:
  """Rejects heads that do not divide the width."""
  if sizes.width % sizes.heads:
    raise errors.config(
      "student.scratch.heads", sizes.heads, f"a divisor of width ({sizes.width}) in {family}"
    )
