"""Types that every student shares."""

from typing import Any, Protocol

import jax

from distill_jax.students.few_rows import OutputsFirst
from distill_jax.students.quantized import Int8
from distill_jax.students.token_rows import Cache, Rows

Head = jax.Array | OutputsFirst | Int8  # the output matrix as decoding reads it
Unstacked = tuple[list[Any], Head]  # one module for each layer, and the head
Params = dict[str, Any]  # a nested dict of arrays, of shapes, of axis names or of shardings


class Config(Protocol):
  """What every model's config has; dataclasses, frozen and hashable."""

  @property
  def vocab(self) -> int:
    """Entries of the vocabulary."""
    ...

  @property
  def dtype(self) -> str:
    """The compute dtype."""
    ...

  @property
  def logit_softcap(self) -> float:
    """The soft-cap of the logits; 0 is none."""
    ...


class Model(Protocol):
  """The functions of a model's module: decoder.py, t5.py. All are pure."""

  def init(self, config: Any, key: jax.Array, /) -> Params:
    """Returns new parameters, float32."""
    ...

  def axes(self, config: Any, /) -> Params:
    """Returns the logical axis names of every parameter."""
    ...

  def shapes(self, config: Any, /) -> Params:
    """Returns the shape and dtype of every parameter."""
    ...

  def head(self, config: Any, params: Params, /) -> jax.Array:
    """Returns the output matrix [D, V]."""
    ...

  def hidden(
    self,
    config: Any,
    params: Params,
    rows: Rows,
    /,
    *,
    detach: bool = False,
    remat: str = "none",
    path: str = "plain",
    packed: bool = True,
  ) -> jax.Array:
    """Returns the states that the head reads, [B, L, D]."""
    ...

  def prefill(
    self,
    config: Any,
    params: Params,
    tokens: jax.Array,
    lengths: jax.Array,
    unstacked: Unstacked | None = None,
    /,
  ) -> tuple[jax.Array, Cache, jax.Array]:
    """Returns the logits after each prompt, a cache, and how many columns each row fills."""
    ...

  def unstack_layers(self, config: Any, params: Params, weights: str = "", /) -> Unstacked:
    """Returns one module for each layer, and the head: what decoding reads.

    `weights` is int8, or empty for the compute dtype.
    """
    ...

  def decode_step(
    self,
    config: Any,
    params: Params,
    unstacked: Unstacked,
    token_B: jax.Array,
    position_B: jax.Array,
    cache: Cache,
    /,
  ) -> tuple[jax.Array, Cache]:
    """Returns the logits after one more token, and the cache with its column written."""
    ...
