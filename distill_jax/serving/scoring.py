"""Log-probabilities of the tokens of a text, with the most likely alternatives.

Dimension key: B texts, L tokens, C positions of a chunk, D width, K alternatives, V vocabulary.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import students
from distill_jax.runtime.student import Params, Student
from distill_jax.students import token_rows, trainable

CHUNK = 64  # positions whose logits exist at the same time
SHORTEST = 64  # bucket of the shortest texts; others are powers of 2


class Scores(NamedTuple):
  """Log-probabilities in nats of each token of a text but the first, given those before it."""

  logprobs: np.ndarray  # float32 [L - 1]
  top_ids: np.ndarray  # int32 [L - 1, K]: the most likely tokens
  top_logprobs: np.ndarray  # float32 [L - 1, K]


def score(
  student: Student, params: Params, texts: Sequence[Sequence[int]], top: int
) -> list[Scores]:
  """Scores the tokens of texts with a decoder, one text at a time.

  Args:
    student: The student.
    params: Its trained weights.
    texts: Tokens of each text, at least one.
    top: Number of alternatives at each position.
  """
  program = _build(student.trainable, student.config, top)
  found = []
  with jax.set_mesh(student.mesh):
    for text in texts:
      length = bucket(len(text))
      tokens, segments = np.zeros((2, 1, length), np.int32)
      tokens[0, : len(text)], segments[0, : len(text)] = text, 1
      arrays = (tokens, np.arange(length, dtype=np.int32)[None], segments)
      outputs = program(student.frozen, params, *map(jnp.asarray, arrays))
      logp_L, ids_LK, top_LK = (np.asarray(x)[0, : len(text) - 1] for x in outputs)
      found.append(Scores(logp_L, ids_LK, top_LK))
  return found


def bucket(length: int) -> int:
  """Returns the length a text is padded to."""
  return max(SHORTEST, 1 << (length - 1).bit_length())


@functools.lru_cache(maxsize=8)
def _build(parameters: trainable.Trainable, config: Any, top: int):
  """Builds the program that scores rows [B, L] of a bucket's length."""
  model = students.of(config)

  @jax.jit
  def program(frozen, params, tokens_BL, positions_BL, segments_BL):
    merged = parameters.merge(frozen, params)
    rows = token_rows.Rows(tokens_BL, positions_BL, segments_BL)
    states_BLD = model.hidden(config, merged, rows)
    next_BL = jnp.roll(tokens_BL, -1, axis=1)

    def chunk(start):
      states_BCD = jax.lax.dynamic_slice_in_dim(states_BLD, start, CHUNK, axis=1)
      next_BC = jax.lax.dynamic_slice_in_dim(next_BL, start, CHUNK, axis=1)
      logp_BCV = jax.nn.log_softmax(students.logits(config, merged, states_BCD), axis=-1)
      own_BC = jnp.take_along_axis(logp_BCV, next_BC[..., None], axis=-1)[..., 0]
      best_BCK, ids_BCK = jax.lax.top_k(logp_BCV, top)
      return own_BC, ids_BCK, best_BCK

    starts = jnp.arange(0, tokens_BL.shape[1], CHUNK)
    parts = jax.lax.map(chunk, starts)  # [chunks, B, C, ...]
    return jax.tree.map(
      lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:]), parts
    )

  return program
