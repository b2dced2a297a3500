"""Losses: arrays in, a sum out. Dividing is the train step's business.

Dimension key: B batch, T target positions, D model width, P preference pairs of a row. Units:
likelihood losses in nats; cosine distance has none (0 to 2).
"""

import jax
import jax.numpy as jnp


def weighted_nll(logp_BT, weights_BT):
  """Sum over positions of weight * -log p(token): SFT, with whatever weight the prompt has been
  given."""
  return -jnp.sum(weights_BT * logp_BT)


def cosine(a_BD, b_BD, eps: float = 1e-8):
  """Cosine similarity [B], in float32."""
  a, b = a_BD.astype(jnp.float32), b_BD.astype(jnp.float32)
  squares = jnp.sum(a * a, axis=-1) * jnp.sum(b * b, axis=-1)
  return jnp.sum(a * b, axis=-1) / jnp.sqrt(jnp.maximum(squares, eps**2))


def triplet(anchor_BD, positive_BD, negative_BD, valid_B, *, margin: float):
  """Self-reflection loss on pooled hidden states (Wang et al. 2023): the sum of
  max(0, margin - cos(a, p) + cos(a, n)) over valid rows.

  A row is valid if its question has a distinct positive and a negative; with none the sum is 0.
  """
  gap_B = cosine(anchor_BD, positive_BD) - cosine(anchor_BD, negative_BD)
  return jnp.sum(jnp.where(valid_B > 0, jnp.maximum(0.0, margin - gap_B), 0.0))


def dpo(chosen_BP, rejected_BP, ref_chosen_BP, ref_rejected_BP, valid_BP, *, beta: float):
  """Direct preference optimisation (Rafailov et al. 2023, eq. 7): the sum over valid pairs of
  -log sigmoid(beta * ((log p(c) - log p_ref(c)) - (log p(r) - log p_ref(r)))), arrays of any shape.

  Log-probabilities in nats, summed over the tokens of a side. Where policy and reference are one,
  a pair's loss is log 2.
  """
  gain_BP = (chosen_BP - ref_chosen_BP) - (rejected_BP - ref_rejected_BP)
  return jnp.sum(jnp.where(valid_BP > 0, jax.nn.softplus(-beta * gain_BP), 0.0))
