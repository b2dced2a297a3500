"""A Llama forward pass in float64 NumPy, one row at a time, and small inputs from PCG64.

Written from the papers, with loops where they are clearer. It shares no code with the package.
"""

import dataclasses

import jax
import numpy as np

from distill_jax.students import decoder
from distill_jax.students.token_rows import Rows

TINY = decoder.Config(
  vocab=32,
  width=16,
  layers=2,
  heads=4,
  kv_heads=2,
  head_width=6,
  mlp=24,
  rotary=decoder.Rotary(100.0, width=6),
  norm_eps=1e-5,
  tied=True,
  dtype="float32",
)
UNTIED = dataclasses.replace(TINY, tied=False)


def rng(seed: int = 0) -> np.random.Generator:
  return np.random.Generator(np.random.PCG64(seed))


def params(config: decoder.Config, seed: int = 0, scale: float = 0.4):
  """Returns parameters in the structure of decoder.init: normal, norms around 1."""
  draw = rng(seed)

  def leaf(path, shape):
    value = scale * draw.normal(size=shape.shape)
    return np.float32(1 + value if path[-1].key.endswith("norm") else value)

  return jax.tree.map_with_path(leaf, decoder.shapes(config))


def plain_rows(rows, length: int, pad: int = 0) -> Rows:
  """Returns token lists as padded plain rows: one segment each, its own root."""
  out = Rows(*(np.zeros((len(rows), length), np.int32) for _ in range(5)))
  out.tokens[:] = pad
  for n, row in enumerate(rows):
    out.tokens[n, : len(row)] = row
    out.positions[n, : len(row)] = np.arange(len(row))
    out.segments[n, : len(row)] = out.roots[n, : len(row)] = 1
  return out


def rms_norm(x, scale, eps: float):
  return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * scale


def apply_rope(x_LK, positions_L, theta: float):
  """Rotates the pair (i, i + K/2), as one complex number, by position * theta^(-2i/K)."""
  half = x_LK.shape[-1] // 2
  rotation = np.exp(1j * np.outer(positions_L, theta ** (-2 * np.arange(half) / x_LK.shape[-1])))
  z = (x_LK[:, :half] + 1j * x_LK[:, half:]) * rotation
  return np.concatenate([z.real, z.imag], axis=-1)


def softmax(x):
  e = np.exp(x - x.max(axis=-1, keepdims=True))
  return e / e.sum(axis=-1, keepdims=True)


def attend(q_LK, k_SK, v_SK, mask_LS):
  scores = np.where(mask_LS, q_LK @ k_SK.T / np.sqrt(q_LK.shape[-1]), -np.inf)
  return softmax(scores) @ v_SK


def hidden(config: decoder.Config, weights, tokens):
  """Returns the states of one plain row after the final norm, float64 [L, D]."""
  w = jax.tree.map(np.float64, weights)
  length = len(tokens)
  causal, at = np.tril(np.ones((length, length), bool)), np.arange(length)
  x = w["embed"][np.asarray(tokens)]
  for n in range(config.layers):
    b = {name: value[n] for name, value in w["blocks"].items()}
    h = rms_norm(x, b["attention_norm"], config.norm_eps)
    for head in range(config.heads):
      group = head // (config.heads // config.kv_heads)
      q = apply_rope(h @ b["q"][:, head], at, config.rotary.theta)
      k = apply_rope(h @ b["k"][:, group], at, config.rotary.theta)
      x = x + attend(q, k, h @ b["v"][:, group], causal) @ b["o"][head]
    h = rms_norm(x, b["mlp_norm"], config.norm_eps)
    gate = h @ b["gate"]
    x = x + (gate / (1 + np.exp(-gate)) * (h @ b["up"])) @ b["down"]
  return rms_norm(x, w["norm"], config.norm_eps)


def logprobs(config: decoder.Config, weights, tokens):
  """Returns log p(next token), float64 [L, V]."""
  matrix = np.float64(weights["embed"]).T if config.tied else np.float64(weights["head"])
  logits = hidden(config, weights, tokens) @ matrix
  top = logits.max(axis=-1, keepdims=True)
  return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
