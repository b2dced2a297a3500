"""Weights in few bits, quantized by qwix, an optional package.

int8 is for decoding: a scale for each output, and products of values that are cast to the compute
dtype. nf4 is for frozen weights below LoRA adapters (QLoRA, Dettmers et al. 2023): 4-bit
NormalFloat, with a scale for each block of inputs.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

PACKAGE = "qwix"

# The weights of a layer that are quantized: those of products. Embeddings and norms never are.
NAMES = ("q", "k", "v", "o", "gate", "up", "down")
# The levels of nf4: quantiles of the normal distribution (Dettmers et al. 2023, appendix E).
LEVELS = (
  -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
  -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
  0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
  0.7229568362236023, 1.0,
)  # fmt: skip
BLOCKS = (64, 32, 16)  # inputs that share a scale of nf4: the largest that divides them


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Int8:
  """A weight [in..., out...] as int8 values, times a float32 scale for each output [out...]."""

  values: jax.Array
  scale: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Nf4:
  """A weight as numbers of levels and float32 scales, one for each block of inputs.

  Both have the axes of the weight. Along the last input axis, `scale` counts blocks, and `values`
  holds two numbers a byte, uint8: the first half of a block in the low bits, the second in the high
  ones. (Compiled programs of jax 0.10 reject arguments of its own 4-bit types.)
  """

  values: Any  # an array, or its shape
  scale: Any


def int8(weight: jax.Array, axes: int = 1) -> Int8:
  """Returns a weight, whose first `axes` dimensions are inputs, in 8 bits."""
  import qwix  # pyright: ignore[reportMissingImports] (an optional package)

  outputs = range(axes, weight.ndim)
  found = qwix.quantize(weight.astype(jnp.float32), jnp.int8, channelwise_axes=outputs)
  return Int8(found.qvalue, found.scale.reshape(weight.shape[axes:]))


def int8_product(x: jax.Array, weight: Int8, axes: int = 1) -> jax.Array:
  """Contracts x's last `axes` dimensions with the weight's inputs; returns float32."""
  values = weight.values.astype(x.dtype)  # exact: 8 bits hold integers up to 256
  numbers = ((*range(x.ndim - axes, x.ndim),), (*range(axes),)), ((), ())
  out = jax.lax.dot_general(x, values, numbers, preferred_element_type=jnp.float32)
  return out * weight.scale[(None,) * (x.ndim - axes)]


def covers(name: str, weight_axes: Sequence[str | None]) -> bool:
  """Returns whether nf4 quantizes a weight: one of the products of stacked layers."""
  return name in NAMES and weight_axes[0] == "layers"


def input_axis(weight_axes: Sequence[str | None]) -> int:
  """Returns the axis of a stacked weight that is divided into blocks: its last input.

  A weight that writes to the residual stream has one output axis, every other one input axis.
  """
  return len(weight_axes) - 2 if weight_axes[-1] == "embed" else 1


def block(size: int) -> int:
  """Returns how many of `size` inputs share a scale.

  Raises:
    ValueError: No block divides them.
  """
  for candidate in BLOCKS:
    if size % candidate == 0:
      return candidate
  raise ValueError(f"{size} inputs, which blocks of {BLOCKS[-1]} do not divide")


def nf4_shape(shape: Sequence[int], weight_axes: Sequence[str | None]) -> Nf4:
  """Returns the shapes of a stacked weight in nf4. Raises ValueError as `block` does."""
  at = input_axis(weight_axes)

  def resized(size: int, dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*shape[:at], size, *shape[at + 1 :]), dtype)

  return Nf4(
    resized(shape[at] // 2, jnp.uint8), resized(shape[at] // block(shape[at]), jnp.float32)
  )


def nf4(weight: jax.Array, shape: Nf4) -> Nf4:
  """Returns a float32 weight in 4 bits, with the blocks of `shape`."""
  import qwix  # pyright: ignore[reportMissingImports] (an optional package)

  at = _tiled_axis(shape)
  others = set(range(weight.ndim)) - {at}
  blocks = shape.scale.shape[at]
  tiles = {at: weight.shape[at] // blocks}
  found = qwix.quantize(weight, "nf4", channelwise_axes=others, tiled_axes=tiles)
  number = _in_blocks(found.qvalue.astype(jnp.uint8), at, blocks)
  low, high = jnp.split(number, 2, axis=at + 1)
  return Nf4((low | high << 4).reshape(shape.values.shape), found.scale)


def store(weight: jax.Array, shape: Nf4 | jax.ShapeDtypeStruct) -> jax.Array | Nf4:
  """Returns a weight in the dtype of `shape`, or in 4 bits."""
  return nf4(weight, shape) if isinstance(shape, Nf4) else weight.astype(shape.dtype)


def loaded(shape: Nf4 | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
  """Returns the shape of a weight as it is loaded: what gets 4 bits, in float32."""
  if not isinstance(shape, Nf4):
    return shape
  at, held = _tiled_axis(shape), shape.values
  full = (*held.shape[:at], 2 * held.shape[at], *held.shape[at + 1 :])
  return jax.ShapeDtypeStruct(full, jnp.float32, sharding=held.sharding)


def place(weight: jax.Array, shape: Any) -> jax.Array | Nf4:
  """Returns a weight that was loaded as `loaded(shape)`, with the shardings of `shape`."""
  if not isinstance(shape, Nf4):
    return weight
  at = jax.tree.map(lambda x: x.sharding, shape)
  return jax.jit(functools.partial(nf4, shape=shape), out_shardings=at)(weight)


def dequantize(weight: Nf4) -> jax.Array:
  """Returns a weight in float32.

  Levels are chosen by the bits of their numbers, which XLA fuses into the product that reads the
  weight. A look-up in a table, as in qwix, is a gather, which takes longer on a TPU than the
  product.
  """
  at, held = _tiled_axis(weight), weight.values
  pairs = _in_blocks(held, at, weight.scale.shape[at])
  number = jnp.concatenate([pairs & 15, pairs >> 4], axis=at + 1)
  level = _choose(number, LEVELS) * jnp.expand_dims(weight.scale, at + 1)
  return level.reshape(*held.shape[:at], 2 * held.shape[at], *held.shape[at + 1 :])


def _in_blocks(x: jax.Array, at: int, blocks: int) -> jax.Array:
  """Returns x with axis `at` divided into (blocks, the rest)."""
  return x.reshape(*x.shape[:at], blocks, -1, *x.shape[at + 1 :])


def _choose(number: jax.Array, levels: Sequence[float]) -> jax.Array:
  """Returns levels[number], float32; their number is a power of 2."""
  if len(levels) == 1:
    return jnp.full(number.shape, levels[0], jnp.float32)
  half = len(levels) // 2
  low, high = _choose(number, levels[:half]), _choose(number, levels[half:])
  return jnp.where(number & half, high, low)


def _tiled_axis(weight: Nf4) -> int:
  """Returns the axis that is divided into blocks."""
  sizes = zip(weight.values.shape, weight.scale.shape, strict=True)
  return next(axis for axis, (size, blocks) in enumerate(sizes) if size != blocks)


def nf4_product(x: jax.Array, weight: Nf4, axes: int = 1) -> jax.Array:
  """Contracts x's last `axes` dimensions with the weight's inputs, in x's dtype."""

  @jax.checkpoint  # the backward pass keeps the 4 bits and not what they stand for
  def product(x: jax.Array, weight: Nf4) -> jax.Array:
    return jnp.tensordot(x, dequantize(weight).astype(x.dtype), axes)

  return product(x, weight)
