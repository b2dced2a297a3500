"""FLOPs of matrix products: what a program computes, and what its model needs.

XLA's own cost analysis counts the body of a loop once. Here loops are multiplied out, from the
traced program.
"""

import collections
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from distill_jax import students
from distill_jax.students import t5


class Products(NamedTuple):
  """The matrix products of a traced program, on all devices together."""

  flops: float
  by_dtype: dict[str, float]  # "left x right -> result": FLOPs
  kernels: dict[str, float]  # FLOPs in hand-written kernels, by name


class Needed(NamedTuple):
  """FLOPs that a model needs, on all devices together."""

  of_weights: float
  of_pairs: float  # attention: of tokens and those that they see

  @property
  def total(self) -> float:
    """All of them."""
    return self.of_weights + self.of_pairs


def count(jaxpr: Any) -> Products:
  """Counts the products of a jaxpr. Of a `cond`, the branch with the most products counts."""
  by_dtype: collections.Counter[str] = collections.Counter()
  kernels: collections.Counter[str] = collections.Counter()
  _walk(jaxpr, 1.0, by_dtype, kernels)
  return Products(sum(by_dtype.values()) + sum(kernels.values()), dict(by_dtype), dict(kernels))


def _walk(jaxpr: Any, times: float, products: Any, kernels: Any) -> None:
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
      kind, flops = _product(equation)
      products[kind] += flops * times
    elif name == "scan":
      _walk(params["jaxpr"].jaxpr, times * params["length"], products, kernels)
    elif name == "cond":
      branches = []
      for branch in params["branches"]:
        found = (collections.Counter(), collections.Counter())
        _walk(branch.jaxpr, times, *found)
        branches.append(found)
      most = max(branches, key=lambda pair: sum(map(sum, (p.values() for p in pair))))
      products.update(most[0])
      kernels.update(most[1])
    elif name == "pallas_call":
      inside: collections.Counter[str] = collections.Counter()
      _walk(_jaxpr_of(params["jaxpr"]), times, inside, kernels)
      label = params.get("name") or "pallas"
      kernels[label] += _blocks(label, params["grid_mapping"].grid) * sum(inside.values())
    else:
      inner = times * _devices(params) if name == "shard_map" else times
      for value in params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
          if hasattr(part, "eqns") or hasattr(part, "jaxpr"):
            _walk(_jaxpr_of(part), inner, products, kernels)


def equations(jaxpr: Any) -> Iterator[Any]:
  """Yields the equations of a jaxpr and of those inside it, but not inside kernels."""
  for equation in jaxpr.eqns:
    yield equation
    if equation.primitive.name == "pallas_call":
      continue
    for value in equation.params.values():
      for part in value if isinstance(value, (tuple, list)) else (value,):
        if hasattr(part, "eqns") or hasattr(part, "jaxpr"):
          yield from equations(_jaxpr_of(part))


def _blocks(name: str, grid: Any) -> float:
  """Returns how many blocks a kernel computes; causal attention skips those above the diagonal.

  The last axes of the grid are heads, queries, keys; in the kernel "dkv" keys, heads, queries.
  """
  sizes = [n for n in grid if isinstance(n, int)]
  total = float(math.prod(sizes))
  if "splash" in name:
    keys, queries = (sizes[-3], sizes[-1]) if "dkv" in name else (sizes[-1], sizes[-2])
    if keys == queries:
      total *= (keys + 1) / (2 * keys)
  return total


def _jaxpr_of(value: Any) -> Any:
  return value if hasattr(value, "eqns") else value.jaxpr


def _devices(params: dict[str, Any]) -> int:
  """Returns how many devices run the body of a shard_map."""
  mesh = params["mesh"]
  return math.prod(mesh.shape[name] for name in params.get("manual_axes", mesh.axis_names))


def _product(equation: Any) -> tuple[str, float]:
  (contracted, _), _ = equation.params["dimension_numbers"]
  left, right = (x.aval for x in equation.invars)
  result = equation.outvars[0].aval
  terms = math.prod(left.shape[axis] for axis in contracted)
  kind = f"{left.dtype} x {right.dtype} -> {result.dtype}"
  return kind, 2.0 * math.prod(result.shape) * terms


def needed(
  config: Any, arrays: dict[str, np.ndarray], *, backward: bool, frozen: bool = False
) -> Needed:
  """Returns the FLOPs that a batch needs: a forward pass, and twice that for a backward pass.

    2 * weights of the layers' matrices   per token that is not padding
    2 * width * vocabulary                per target
    4 * heads * head width                per layer, token and token that it sees

  Args:
    config: The student's config.
    arrays: The arrays of the batch (data/batches.py).
    backward: Whether there is a backward pass.
    frozen: Whether weights have no gradient (LoRA): the backward pass needs half of their FLOPs.
      Adapters do not count.
  """
  targets = np.count_nonzero(arrays["weights"])
  heads = config.heads * config.head_width
  shapes = students.of(config).shapes(config)
  tokens = np.count_nonzero(arrays["segments"])
  of_weights = 2.0 * config.width * config.vocab * targets
  if isinstance(config, t5.Config):
    source = np.count_nonzero(arrays["source_segments"])
    cross = _matrices(shapes["decoder"]["cross"])
    of_weights += 2.0 * _matrices(shapes["encoder"]) * source + cross * (tokens + source)
    of_weights += 2.0 * (_matrices(shapes["decoder"]) - cross) * tokens
    of_pairs = 4.0 * heads * config.layers * _pairs_of_source(arrays)
    of_pairs += 4.0 * heads * config.decoder_layers * (_pairs(arrays) + _pairs_across(arrays))
  else:
    of_weights += 2.0 * _matrices(shapes["blocks"]) * tokens
    of_pairs = 4.0 * heads * config.layers * _pairs(arrays)
  if not backward:
    return Needed(of_weights, of_pairs)
  return Needed(of_weights * (2 if frozen else 3), of_pairs * 3)


def _matrices(shapes: Any) -> int:
  """Returns the number of weights in stacked matrices; the first dimension is the layer."""
  return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes) if len(x.shape) > 2)


def _pairs(arrays: dict[str, np.ndarray]) -> int:
  """Returns the pairs of a token and one that it sees, itself included."""
  total, order = 0, np.arange(arrays["segments"].shape[1])
  roots = arrays.get("roots", arrays["segments"])
  for segments, root in zip(arrays["segments"], roots, strict=True):
    seen = (segments[:, None] == segments[None]) | (root[:, None] == segments[None])
    total += np.count_nonzero(seen & (segments > 0)[None] & (order[:, None] >= order[None]))
  return total


def _pairs_of_source(arrays: dict[str, np.ndarray]) -> int:
  return sum(int(np.sum(np.unique(x[x > 0], return_counts=True)[1] ** 2)) for x in
             arrays["source_segments"])  # fmt: skip


def _pairs_across(arrays: dict[str, np.ndarray]) -> int:
  roots = arrays.get("roots", arrays["segments"])
  return sum(
    np.count_nonzero((root[:, None] == source[None]) & (root > 0)[:, None])
    for root, source in zip(roots, arrays["source_segments"], strict=True)
  )
