"""The matrix products of a workload alone, in JAX and in torch: a lower bound on its time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Products(NamedTuple):
  """A chain of products of rows with weights, each applied to the result of the previous one.

  The products inside attention, which have no weights, are not included.
  """

  rows: int
  weights: tuple[tuple[int, int], ...]  # (in, out)
  iterations: int = 1  # how often the chain is applied, each time to the previous result
  backward: bool = False  # also the gradients of input and weight: 3 products per weight

  @property
  def gflop(self) -> float:
    """GFLOP of one iteration."""
    forward = 2 * self.rows * sum(inputs * outputs for inputs, outputs in self.weights)
    return forward * (3 if self.backward else 1) / 1e9


def t5_decoding(fields: dict, *, rows: int, new: int) -> Products:
  """Returns the products per new token of a T5, given the keys and values of the source."""
  d, heads, mlp = fields["d_model"], fields["num_heads"] * fields["d_kv"], fields["d_ff"]
  attention, cross = ((d, heads),) * 3 + ((heads, d),), ((d, heads), (heads, d))
  layer = (*attention, *cross, (d, mlp), (mlp, d))
  return Products(rows, (*layer * fields["num_decoder_layers"], (d, fields["vocab_size"])), new)


def gpt2_step(fields: dict, *, rows: int, length: int) -> Products:
  """Returns the products of one training step of a GPT-2."""
  d = fields["n_embd"]
  layer = ((d, d),) * 4 + ((d, 4 * d), (4 * d, d))
  weights = (*layer * fields["n_layer"], (d, fields["vocab_size"]))
  return Products(rows * length, weights, backward=True)


def in_jax_and_torch(products: Products, dtype: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
  """Returns two functions that compute all products, in JAX and in torch."""
  import torch

  rng = np.random.Generator(np.random.PCG64(0))

  def draw(*shape):
    return rng.standard_normal(shape, np.float32) * np.float32(shape[0] ** -0.5)

  def to_torch(array):
    return torch.tensor(array, dtype=getattr(torch, dtype), requires_grad=products.backward)

  x = draw(products.rows, products.weights[0][0])
  weights = [draw(*shape) for shape in products.weights]
  jax_inputs = jax.tree.map(lambda a: jnp.asarray(a, dtype), (x, weights))
  torch_inputs = (to_torch(x), [to_torch(w) for w in weights])
  in_jax = jax.jit(_jax_backward if products.backward else _jax_forward, static_argnums=2)
  in_torch = _torch_backward if products.backward else torch.no_grad()(_torch_forward)
  return (
    lambda: in_jax(*jax_inputs, products.iterations),
    lambda: in_torch(*torch_inputs, products.iterations),
  )


def _chain(x, weights):
  for weight in weights:
    x = x @ weight
  return x


def _jax_forward(x, weights, iterations: int):
  def iteration(_, x):
    out = _chain(x, weights)[:, : x.shape[1]]
    return out / jnp.max(jnp.abs(out))  # keeps the scale

  return jax.lax.fori_loop(0, iterations, iteration, x)


def _torch_forward(x, weights, iterations: int):
  for _ in range(iterations):
    out = _chain(x, weights)[:, : x.shape[1]]
    x = out / out.abs().max()
  return x


def _jax_backward(x, weights, iterations: int):
  out, vjp = jax.vjp(_chain, x, weights)
  return vjp(out)


def _torch_backward(x, weights, iterations: int):
  import torch

  out = _chain(x, weights)
  return torch.autograd.grad(out, [x, *weights], out.detach())
