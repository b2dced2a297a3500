"""A T5 forward pass in float64 NumPy, one source and one target at a time, and small inputs.

Written from the paper (Raffel et al. 2020, section 2.1) and its released checkpoints, with loops
where they are clearer. It shares no code with the package.
"""

import dataclasses

import jax
import numpy as np

from distill_jax.students import t5
from tests.students import oracle

FIRST = t5.Config(
  vocab=32,
  width=16,
  layers=2,
  decoder_layers=3,
  heads=4,
  head_width=6,
  mlp=24,
  buckets=8,
  distance=12,
  norm_eps=1e-6,
  activation="relu",
  gated=False,
  tied=True,
  start=0,
  dtype="float32",
)  # T5 v1.0
SECOND = dataclasses.replace(FIRST, activation="gelu_tanh", gated=True, tied=False)


def params(config: t5.Config, seed: int = 0, scale: float = 0.4):
  """Returns parameters in the structure of t5.init: normal, norms around 1."""
  draw = oracle.rng(seed)

  def leaf(path, shape):
    value = scale * draw.normal(size=shape.shape)
    return np.float32(1 + value if "norm" in path[-1].key else value)

  return jax.tree.map_with_path(leaf, t5.shapes(config))


def bucket(offset: int, buckets: int, distance: int, both_ways: bool) -> int:
  """Returns the bucket of a key `offset` tokens ahead of its query (behind: negative)."""
  side = buckets // 2 if both_ways else buckets
  d = abs(offset) if both_ways else max(-offset, 0)
  near = side // 2
  if d >= near:
    grown = np.log(d / near) / np.log(distance / near) * (side - near)
    d = min(near + int(grown + 1e-9), side - 1)
  return d + (side if both_ways and offset > 0 else 0)


def bias(table_NH, length: int, head: int, config: t5.Config, both_ways: bool):
  of = lambda i, j: table_NH[bucket(j - i, config.buckets, config.distance, both_ways), head]
  return np.array([[of(i, j) for j in range(length)] for i in range(length)])


def attention(w, x_LD, source_SD, extra):
  """Returns what attention adds to x: softmax(q k + extra(head)) v, without scale."""
  out = np.zeros_like(x_LD)
  for head in range(w["q"].shape[1]):
    q, k, v = x_LD @ w["q"][:, head], source_SD @ w["k"][:, head], source_SD @ w["v"][:, head]
    out += oracle.softmax(q @ k.T + extra(head)) @ v @ w["o"][head]
  return out


def mlp(config: t5.Config, w, x):
  def act(y):
    if config.activation == "relu":
      return np.maximum(y, 0)
    return y / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))

  inner = act(x @ w["gate"]) * (x @ w["up"]) if config.gated else act(x @ w["up"])
  return inner @ w["down"]


def encoded(config: t5.Config, weights, source):
  """Returns the encoder's states of one source, float64 [E, D]."""
  w = jax.tree.map(np.float64, weights)
  norm = lambda x, scale: oracle.rms_norm(x, scale, config.norm_eps)
  x = w["embed"][np.asarray(source)]
  extra = lambda head: bias(w["encoder_relative"], len(x), head, config, True)
  for n in range(config.layers):
    b = jax.tree.map(lambda y, n=n: y[n], w["encoder"])
    h = norm(x, b["attention"]["norm"])
    x = x + attention(b["attention"], h, h, extra)
    x = x + mlp(config, b["mlp"], norm(x, b["mlp"]["norm"]))
  return norm(x, w["encoder_norm"])


def hidden(config: t5.Config, weights, source, tokens):
  """Returns the decoder's states of one row, whose first token is the start token."""
  w = jax.tree.map(np.float64, weights)
  norm = lambda x, scale: oracle.rms_norm(x, scale, config.norm_eps)
  read, x = encoded(config, weights, source), w["embed"][np.asarray(tokens)]
  length = len(tokens)
  causal = np.where(np.tril(np.ones((length, length), bool)), 0, -np.inf)
  extra = lambda head: causal + bias(w["decoder_relative"], length, head, config, False)
  for n in range(config.decoder_layers):
    b = jax.tree.map(lambda y, n=n: y[n], w["decoder"])
    h = norm(x, b["attention"]["norm"])
    x = x + attention(b["attention"], h, h, extra)
    x = x + attention(b["cross"], norm(x, b["cross"]["norm"]), read, lambda head: 0.0)
    x = x + mlp(config, b["mlp"], norm(x, b["mlp"]["norm"]))
  return norm(x, w["norm"]) * (config.width**-0.5 if config.tied else 1)


def logprobs(config: t5.Config, weights, source, tokens):
  """Returns log p(next token), float64 [L, V]."""
  matrix = np.float64(weights["embed"]).T if config.tied else np.float64(weights["head"])
  logits = hidden(config, weights, source, tokens) @ matrix
  top = logits.max(axis=-1, keepdims=True)
  return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
