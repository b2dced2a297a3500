"""The students: pure functions on (config, parameters), one module for each shape of model."""

import jax

from distill_jax.students import decoder, logprobs, t5
from distill_jax.students.types import Config, Model, Params


def of(config: Config) -> Model:
  """Returns the module whose Config `config` is."""
  return t5 if isinstance(config, t5.Config) else decoder


def token_logprobs(
  config: Config, params: Params, hidden_BTD: jax.Array, labels_BT: jax.Array, *, chunk: int
) -> jax.Array:
  """Returns log p(label), float32 [B, T], in nats, from the states that `hidden` returns.

  For `chunk` see students/logprobs.py.
  """
  return logprobs.token_logprobs(
    hidden_BTD,
    of(config).head(config, params),
    labels_BT,
    chunk=chunk,
    bias=_head_bias(params),
    softcap=config.logit_softcap,
  )


def logits(config: Config, params: Params, hidden_BTD: jax.Array) -> jax.Array:
  """Returns logits, float32 [B, T, V], from the states that `hidden` returns.

  Meant for a few positions: the whole array is materialized.
  """
  matrix_DV = of(config).head(config, params)
  return logprobs.logits(hidden_BTD, matrix_DV, _head_bias(params), config.logit_softcap)


def _head_bias(params: Params) -> jax.Array | None:
  return params["head_bias"] if "head_bias" in params else None
