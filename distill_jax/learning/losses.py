"""Losses: arrays in, a sum out. Dividing is the train step's business.

Dimension key: B batch, T target positions, D model width. Units: likelihood losses in nats; cosine
distance has none (0 to 2).
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


# Losses on preference pairs. They read a score of either side and give a number for each pair:
#
#   score = log p(side) - log p_ref(side), or log p(side) alone where there is no reference policy;
#           in nats, summed over the side's tokens, or (length-normalised) their mean
#
# What TRL 1.16 does is said where it has no choice; tests/learning/trl.npz holds its numbers.


def dpo(chosen, rejected, *, beta: float, label_smoothing: float = 0.0):
  """Direct preference optimisation (Rafailov et al. 2023, eq. 7): -log sigmoid(beta * gap), with
  gap = chosen - rejected. Where policy and reference are one it is log 2.

  Conservative DPO (Mitchell 2023) with label smoothing e, the share of pairs that are the wrong way
  round: (1 - e) * -log sigmoid(beta * gap) + e * -log sigmoid(-beta * gap).
  """
  gain = beta * (chosen - rejected)
  right, wrong = jax.nn.softplus(-gain), jax.nn.softplus(gain)
  return (1 - label_smoothing) * right + label_smoothing * wrong


def robust(chosen, rejected, *, beta: float, label_smoothing: float):
  """Robust DPO (Chowdhury et al. 2024, eq. 12): the DPO loss whose mean over noisy labels is that
  over clean ones, ((1 - e) * dpo(c, r) - e * dpo(r, c)) / (1 - 2e), e below 1/2."""
  right, wrong = dpo(chosen, rejected, beta=beta), dpo(rejected, chosen, beta=beta)
  return ((1 - label_smoothing) * right - label_smoothing * wrong) / (1 - 2 * label_smoothing)


def ipo(chosen, rejected, *, beta: float):
  """Identity preference optimisation (Azar et al. 2023, eq. 17, tau = beta): (gap - 1 / 2 beta)^2.

  The equation has sums over tokens; TRL, with its authors, always takes means."""
  return jnp.square(chosen - rejected - 1 / (2 * beta))


def hinge(chosen, rejected, *, beta: float):
  """max(0, 1 - beta * gap) (SLiC, Zhao et al. 2023; Liu et al. 2023 with a reference policy)."""
  return jnp.maximum(0.0, 1 - beta * (chosen - rejected))


def simpo(chosen, rejected, *, beta: float, gamma: float):
  """SimPO (Meng et al. 2024, eq. 6): -log sigmoid(beta * gap - gamma), gamma in nats of the reward.
  Without a reference policy; in the paper and TRL length-normalised."""
  return jax.nn.softplus(gamma - beta * (chosen - rejected))


def orpo(chosen, rejected, *, beta: float):
  """The odds-ratio term of ORPO (Hong et al. 2024, eq. 7): -beta * log sigmoid(log odds(chosen) -
  log odds(rejected)), odds = p / (1 - p). Without a reference policy; in the paper and TRL
  length-normalised, and beside an NLL term of weight 1 (TRL's includes the prompt).

  A score is taken as at most -CERTAIN: odds of a certain side are infinite."""
  log_odds = lambda x: x - jax.nn.log1mexp(-x)
  chosen, rejected = jnp.minimum(chosen, -CERTAIN), jnp.minimum(rejected, -CERTAIN)
  return beta * jax.nn.softplus(log_odds(rejected) - log_odds(chosen))


def kto(chosen, rejected, *, beta: float, points):
  """KTO (Ethayarajh et al. 2024, eq. 7, both weights 1): the mean of 1 - sigmoid(beta * (chosen -
  z_c)) and 1 - sigmoid(beta * (z_r - rejected)); `points`: (z_c, z_r), see `reference_points`."""
  for_chosen, for_rejected = points
  bad = jax.nn.sigmoid(beta * (for_chosen - chosen))
  return 0.5 * (bad + jax.nn.sigmoid(beta * (rejected - for_rejected)))


def reference_points(chosen, rejected, valid):
  """The two reference points of `kto` on a batch of pairs: estimates of KL(policy || reference),
  for the chosen from the rejected and the other way round, max(0, mean score). No gradient.

  So the first version of KTO's report has it for paired data, and so did TRL's DPOTrainer as
  `kto_pair` (to 0.8; but with a gradient, which the paper excludes). TRL's KTOTrainer takes one
  point for both, from completions of other rows' prompts: pairs hold no such thing, and it would
  cost a third forward pass. The mean is over a whole batch, which is therefore not to be cut.
  """
  mean = lambda x: jnp.sum(jnp.where(valid > 0, x, 0.0)) / jnp.maximum(jnp.sum(valid), 1.0)
  return jax.lax.stop_gradient((jnp.maximum(mean(rejected), 0.0), jnp.maximum(mean(chosen), 0.0)))


CERTAIN = 1e-6
PREFERENCE = {f.__name__: f for f in (dpo, robust, ipo, hinge, simpo, orpo, kto)}
WITHOUT_REFERENCE = ("simpo", "orpo")


def preference(loss: str, chosen, rejected, valid, *, beta: float, **options):
  """The sum of a loss over valid pairs; scores of any one shape. `options`: the loss's own."""
  # What stands where there is no pair must have a finite gradient, or 0 times it is none.
  chosen, rejected = (jnp.where(valid > 0, x, -1.0) for x in (chosen, rejected))
  if loss == "kto":
    options["points"] = reference_points(chosen, rejected, valid)
  each = PREFERENCE[loss](chosen, rejected, beta=beta, **options)
  return jnp.sum(jnp.where(valid > 0, each, 0.0))
