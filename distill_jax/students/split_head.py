"""The head on a mesh: every device computes the logits of its part of the vocabulary.

Dimension key: B rows, T positions that have a target, D model width, V vocabulary, U entries of
one device's part of it, N positions (B * T of all rows of a data shard), C positions of a chunk.

The devices of an fsdp group split the vocabulary, on top of its split over `tensor`: states travel
once, and so do parts of the head, but no device ever holds the head or its gradient whole. Products
run in the dtype of the states; the gradient of the head is summed over chunks, rows and devices in
float32 and reduced once, however many chunks there are.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from distill_jax.students import sharding

CHUNK_BYTES = 2**29  # of float32 logits on a device; training allows less (runtime/fit.py)


class Split(NamedTuple):
  """How the head and its work are divided."""

  by_width: bool  # whether the head is stored split over fsdp, by its width
  by_entry: bool  # whether it is split over tensor
  devices: int  # of an fsdp group
  data: int  # fsdp groups
  entries: int  # of the vocabulary, for each device along tensor
  chunk: int  # positions at a time
  softcap: float
  dtype: str  # of the head as it is stored, and of its gradient

  @property
  def part(self) -> int:
    """Entries of a device, padding included: U."""
    return math.ceil(self.entries / self.devices)

  @property
  def axes(self) -> tuple[str, ...]:
    """Mesh axes that the vocabulary is divided over."""
    return ("fsdp",) * (self.devices > 1) + ("tensor",) * self.by_entry


def divide(
  hidden_BTD: jax.Array, head_DV: jax.Array, *, chunk: int, softcap: float
) -> Split | None:
  """Returns how to divide the head on the current mesh; None if the devices cannot share the rows.

  Args:
    hidden_BTD: The states.
    head_DV: The output matrix.
    chunk: The most positions of a row at a time.
    softcap: Of the logits.
  """
  mesh = jax.sharding.get_abstract_mesh()
  batch, vocab = len(hidden_BTD), head_DV.shape[1]
  if mesh.empty:
    split = Split(False, False, 1, 1, vocab, 1, softcap, str(head_DV.dtype))
  else:
    if sharding.partition(mesh, (batch,), ("batch",))[0] is None:
      return None
    by_width, by_entry = sharding.partition(mesh, head_DV.shape, ("embed", "vocab"))
    devices, data = mesh.shape["fsdp"], mesh.shape["data"]
    entries = vocab // mesh.shape["tensor"] if by_entry else vocab
    split = Split(
      by_width is not None and devices > 1,
      by_entry is not None and mesh.shape["tensor"] > 1,
      devices,
      data,
      entries,
      1,
      softcap,
      str(head_DV.dtype),
    )
  rows = batch // split.data
  return split._replace(chunk=max(min(chunk * rows, CHUNK_BYTES // (4 * split.part)), 1))


def token_logprobs(
  split: Split,
  hidden_BTD: jax.Array,
  head_DV: jax.Array,
  targets_BT: jax.Array,
  bias: jax.Array | None,
) -> jax.Array:
  """Returns log p(target), float32 [B, T]; see logprobs.token_logprobs."""
  bias_V = jnp.zeros((head_DV.shape[1],), jnp.float32) if bias is None else bias
  return _token_logprobs(split, hidden_BTD, head_DV, bias_V, targets_BT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _token_logprobs(
  split: Split, hidden_BTD: jax.Array, head_DV: jax.Array, bias_V: jax.Array, targets_BT: jax.Array
) -> jax.Array:
  return _forward(split, hidden_BTD, head_DV, bias_V, targets_BT)[0]


def _on_parts(split: Split, function: Any, inputs: Any, outputs: Any) -> Any:
  bound = functools.partial(function, split)
  if jax.sharding.get_abstract_mesh().empty:
    return bound
  return sharding.local(bound, inputs, outputs)


def _specs(split: Split) -> tuple[P, P, P, P]:
  """Returns how rows, the head, its bias and the divided head are placed."""
  entry = "tensor" if split.by_entry else None
  head = P("fsdp" if split.by_width else None, entry)
  divided = ("tensor",) * split.by_entry + ("fsdp",) * (split.devices > 1)
  return sharding.spec(("batch",)), head, P(None, entry), P(None, divided or None)


def _forward(
  split: Split, hidden_BTD: jax.Array, head_DV: jax.Array, bias_V: jax.Array, targets_BT: jax.Array
) -> tuple[jax.Array, Any]:
  rows, head, bias, divided = _specs(split)
  group = P("data")
  run = _on_parts(
    split, _forward_part, (rows, head, bias, rows), (rows, (group, divided, divided, group, group))
  )
  logp_BT, residuals = run(hidden_BTD, head_DV, bias_V[None], targets_BT)
  return logp_BT, residuals


def _forward_part(
  split: Split, hidden: jax.Array, head: jax.Array, bias_1V: jax.Array, targets: jax.Array
) -> tuple[jax.Array, Any]:
  hidden_ND = _gather_rows(split, hidden).reshape(-1, hidden.shape[-1])
  targets_N = _gather_rows(split, targets).reshape(-1)
  head_DU = _divide_entries(split, head.astype(hidden.dtype), split.by_width)
  bias_1U = _divide_entries(split, bias_1V, False)

  def chunk(xs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    hidden_CD, targets_C = xs
    logits_CU = _logits(split, hidden_CD, head_DU, bias_1U)
    is_target_CU = _is_target(split, targets_C)
    target_C = jnp.sum(jnp.where(is_target_CU, logits_CU, 0.0), axis=-1)
    return target_C, jax.nn.logsumexp(logits_CU, axis=-1)

  count = len(targets_N)
  target_N, part_N = _join(jax.lax.map(chunk, _chunks(split, (hidden_ND, targets_N))), count)
  total_N = part_N
  if split.axes:
    largest_N = jax.lax.pmax(part_N, split.axes)
    total_N = largest_N + jnp.log(jax.lax.psum(jnp.exp(part_N - largest_N), split.axes))
    target_N = jax.lax.psum(target_N, split.axes)
  logp = _own_rows(split, (target_N - total_N).reshape(-1, targets.shape[1]))
  return logp, (hidden_ND, head_DU, bias_1U, targets_N, total_N)


def _backward(split: Split, residuals: Any, slope_BT: jax.Array) -> tuple[Any, ...]:
  rows, head, bias, divided = _specs(split)
  group = P("data")
  run = _on_parts(
    split, _backward_part, ((group, divided, divided, group, group), rows), (rows, head, bias)
  )
  hidden, head_DV, bias_1V = run(residuals, slope_BT)
  return hidden, head_DV.astype(split.dtype), bias_1V[0], None


def _backward_part(split: Split, residuals: Any, slope: jax.Array) -> tuple[jax.Array, ...]:
  hidden_ND, head_DU, bias_1U, targets_N, total_N = residuals
  slope_N = _gather_rows(split, slope).reshape(-1)

  def chunk(sums: Any, xs: Any) -> tuple[Any, jax.Array]:
    hidden_CD, targets_C, total_C, slope_C = xs
    logits_CU = _logits(split, hidden_CD, head_DU, bias_1U)
    hit_CU = _is_target(split, targets_C).astype(jnp.float32)
    slope_CU = slope_C[:, None] * (hit_CU - jnp.exp(logits_CU - total_C[:, None]))
    if split.softcap:
      slope_CU *= 1 - jnp.square(jnp.maximum(logits_CU, -split.softcap) / split.softcap)
    narrow_CU = slope_CU.astype(hidden_CD.dtype)
    exact: dict[str, Any] = dict(preferred_element_type=jnp.float32)
    head_slope = sums[0] + jnp.einsum("cd,cu->du", hidden_CD, narrow_CU, **exact)
    bias_slope = sums[1] + jnp.sum(slope_CU, axis=0, keepdims=True)
    return (head_slope, bias_slope), jnp.einsum("cu,du->cd", narrow_CU, head_DU, **exact)

  zeros = jnp.zeros(head_DU.shape, jnp.float32), jnp.zeros(bias_1U.shape, jnp.float32)
  chunks = _chunks(split, (hidden_ND, targets_N, total_N, slope_N))
  (head_slope, bias_slope), states = jax.lax.scan(chunk, zeros, chunks)
  states_ND = _join(states, len(slope_N))
  states = states_ND.reshape(-1, slope.shape[1], states_ND.shape[-1])
  if split.devices > 1:
    states = jax.lax.psum_scatter(states, "fsdp", scatter_dimension=0, tiled=True)
  if split.by_entry:
    states = jax.lax.psum(states, "tensor")
  if split.data > 1:
    head_slope, bias_slope = jax.lax.psum((head_slope, bias_slope), "data")
  head_slope = _join_entries(split, head_slope, split.by_width)
  return states.astype(hidden_ND.dtype), head_slope, _join_entries(split, bias_slope, False)


_token_logprobs.defvjp(_forward, _backward)


def _gather_rows(split: Split, x: jax.Array) -> jax.Array:
  return jax.lax.all_gather(x, "fsdp", axis=0, tiled=True) if split.devices > 1 else x


def _own_rows(split: Split, x: jax.Array) -> jax.Array:
  """Returns this device's rows of those of its group."""
  if split.devices == 1:
    return x
  count = len(x) // split.devices
  return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index("fsdp") * count, count)


def _divide_entries(split: Split, x_DV: jax.Array, by_width: bool) -> jax.Array:
  """Returns this device's part of the vocabulary, [D, U], of a matrix as it is stored."""
  if split.devices == 1:
    return x_DV
  room = split.part * split.devices - split.entries
  padded = jnp.pad(x_DV, ((0, 0), (0, room)))
  if by_width:
    return jax.lax.all_to_all(padded, "fsdp", split_axis=1, concat_axis=0, tiled=True)
  start = jax.lax.axis_index("fsdp") * split.part
  return jax.lax.dynamic_slice_in_dim(padded, start, split.part, axis=1)


def _join_entries(split: Split, x_DU: jax.Array, by_width: bool) -> jax.Array:
  """The reverse of `_divide_entries`."""
  if split.devices == 1:
    return x_DU
  if by_width:
    padded = jax.lax.all_to_all(x_DU, "fsdp", split_axis=0, concat_axis=1, tiled=True)
  else:
    padded = jax.lax.all_gather(x_DU, "fsdp", axis=1, tiled=True)
  return padded[:, : split.entries]


def _first_entry(split: Split) -> tuple[Any, Any]:
  """Returns the first entry of this device's part: (of the vocabulary, along fsdp)."""
  along = jax.lax.axis_index("fsdp") * split.part if split.devices > 1 else 0
  return (jax.lax.axis_index("tensor") * split.entries if split.by_entry else 0) + along, along


def _logits(
  split: Split, hidden_CD: jax.Array, head_DU: jax.Array, bias_1U: jax.Array
) -> jax.Array:
  """Returns float32 logits [C, U]; those of padding are -inf."""
  logits = jnp.einsum("cd,du->cu", hidden_CD, head_DU, preferred_element_type=jnp.float32)
  logits += bias_1U
  if split.softcap:
    logits = split.softcap * jnp.tanh(logits / split.softcap)
  if split.part * split.devices == split.entries:
    return logits
  inside_U = _first_entry(split)[1] + jnp.arange(split.part) < split.entries
  return jnp.where(inside_U[None], logits, -jnp.inf)


def _is_target(split: Split, targets_C: jax.Array) -> jax.Array:
  """Returns whether an entry is the target, [C, U].

  A comparison instead of a gather, which would need the logits in one place.
  """
  first, along = _first_entry(split)
  entries_U = jnp.arange(split.part)
  hit_CU = (targets_C - first)[:, None] == entries_U[None]
  return hit_CU & (along + entries_U < split.entries)[None]


def _chunks(split: Split, tree: Any) -> Any:
  """Splits the first axis into chunks, [chunks, C, ...]; zeros fill up the last one."""

  def of(x: jax.Array) -> jax.Array:
    size = min(split.chunk, len(x))
    count = math.ceil(len(x) / size)
    padded = jnp.pad(x, ((0, count * size - len(x)),) + ((0, 0),) * (x.ndim - 1))
    return padded.reshape(count, size, *x.shape[1:])

  return jax.tree.map(of, tree)


def _join(tree: Any, count: int) -> Any:
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], tree)
