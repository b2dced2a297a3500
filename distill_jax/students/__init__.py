"""The students: pure functions on (config, parameters), in one module for each shape of model."""

from distill_jax.students import decoder, logprobs, t5


def of(config):
  """The module that `config` is a Config of."""
  return t5 if isinstance(config, t5.Config) else decoder


def token_logprobs(config, params, hidden_BTD, labels_BT, *, chunk: int):
  """log p(label) float32 [B, T], in nats, from what `hidden` gave; see students/logprobs.py."""
  return logprobs.token_logprobs(
    hidden_BTD,
    of(config).head(config, params),
    labels_BT,
    chunk=chunk,
    bias=_bias(params),
    softcap=config.logit_softcap,
  )


def logits(config, params, hidden_BTD):
  """float32 [B, T, V] from what `hidden` gave: for a few positions, where the numbers themselves
  are wanted."""
  matrix_DV = of(config).head(config, params)
  return logprobs.logits(hidden_BTD, matrix_DV, _bias(params), config.logit_softcap)


def _bias(params):
  return params["head_bias"] if "head_bias" in params else None
