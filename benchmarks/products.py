"""The matrix products of a piece of work and nothing else, here and in torch: what bounds it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Products(NamedTuple):
  """Rows times one weight after the other, each fed by what the one before gave. Attention's own
  products, which have no weights, are not among them."""

  rows: int
  weights: tuple[tuple[int, int], ...]  # (in, out)
  turns: int = 1  # how often all of them, each turn fed by the last
  backward: bool = False  # and the gradients of input and weight, at their shapes: 3 products each

  @property
  def gflop(self) -> float:
    """Of one turn."""
    forward = 2 * self.rows * sum(into * out for into, out in self.weights)
    return forward * (3 if self.backward else 1) / 1e9


def t5_decoding(fields: dict, *, rows: int, new: int) -> Products:
  """What every new token of a T5 costs: keys and values of the source are there already."""
  d, heads, mlp = fields["d_model"], fields["num_heads"] * fields["d_kv"], fields["d_ff"]
  attention, cross = ((d, heads),) * 3 + ((heads, d),), ((d, heads), (heads, d))
  layer = (*attention, *cross, (d, mlp), (mlp, d))
  return Products(rows, (*layer * fields["num_decoder_layers"], (d, fields["vocab_size"])), new)


def gpt2_step(fields: dict, *, rows: int, length: int) -> Products:
  d = fields["n_embd"]
  layer = ((d, d),) * 4 + ((d, 4 * d), (4 * d, d))
  weights = (*layer * fields["n_layer"], (d, fields["vocab_size"]))
  return Products(rows * length, weights, backward=True)


def sides(what: Products, dtype: str):
  """(ours, torch's): each a call that does all the products."""
  import torch

  rng = np.random.Generator(np.random.PCG64(0))
  draw = lambda *shape: rng.standard_normal(shape, np.float32) * np.float32(shape[0] ** -0.5)
  x, weights = draw(what.rows, what.weights[0][0]), [draw(*shape) for shape in what.weights]

  run = jax.jit(_ours_backward if what.backward else _ours_forward, static_argnums=2)
  ours = jax.tree.map(lambda a: jnp.asarray(a, dtype), (x, weights))
  to_torch = lambda a: torch.tensor(a, dtype=getattr(torch, dtype), requires_grad=what.backward)
  theirs = (to_torch(x), [to_torch(w) for w in weights])
  there = _theirs_backward if what.backward else torch.no_grad()(_theirs_forward)
  return lambda: run(*ours, what.turns), lambda: there(*theirs, what.turns)


def _chain(x, weights):
  for weight in weights:
    x = x @ weight
  return x


def _ours_forward(x, weights, turns: int):
  def turn(_, x):
    out = _chain(x, weights)[:, : x.shape[1]]
    return out / jnp.max(jnp.abs(out))  # neither grows nor fades

  return jax.lax.fori_loop(0, turns, turn, x)


def _theirs_forward(x, weights, turns: int):
  for _ in range(turns):
    out = _chain(x, weights)[:, : x.shape[1]]
    x = out / out.abs().max()
  return x


def _ours_backward(x, weights, turns: int):
  out, back = jax.vjp(_chain, x, weights)
  return back(out)


def _theirs_backward(x, weights, turns: int):
  import torch

  out = _chain(x, weights)
  return torch.autograd.grad(out, [x, *weights], out.detach())
