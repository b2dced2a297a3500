"""Bulk sampling: many prompts, each continued by one or more rows.

Rows are decoded together. As soon as enough rows have ended, the next prompts are prefilled and
start in them, so a long rationale delays no other.
"""

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from distill_jax.decoding import decode_loop, sampling
from distill_jax.students.types import Config, Params

STOP_INTERVAL = 16  # iterations between two calls of `has_stopped`
REPORT_INTERVAL = 64  # iterations after which the host looks in any case, and reports


class Sizes(NamedTuple):
  """Sizes of the device programs."""

  rows: int  # decoded at a time
  refill: int  # rows that start at once; new prompts wait until so many are free
  prompts: int  # prefilled at once


class Sampled(NamedTuple):
  """The rows of a rollout."""

  tokens: np.ndarray  # int32 [rows, N], `pad` after the end
  lengths: np.ndarray  # int32 [rows], including the end token
  ended: np.ndarray  # bool [rows]: at an end token; False: cut off after N tokens, or stopped
  logprobs: np.ndarray  # float32 [rows, N], nats at temperature 1, 0 after the end


class Progress(NamedTuple):
  """What has happened since the last report."""

  done: list[int]  # rows of the result that are complete
  tokens: int  # tokens that were sampled
  running: int  # rows that are being decoded
  waiting: int  # rows that have not started


def sizes(batch: int, refill: float, samples: int, parts: int) -> Sizes:
  """Returns sizes that depend on settings only, not on the amount of work.

  Args:
    batch: Rows decoded at a time.
    refill: The share of them that must be free before prompts start.
    samples: Rows of each prompt.
    parts: Shards of the batch; rows and prompts are multiples of it.
  """

  def round_up(n: int) -> int:
    return math.ceil(n / parts) * parts

  rows = round_up(batch)
  refilled = max(round(refill * rows), 1)
  return Sizes(rows, refilled, round_up(max(refilled // samples, 1)))


def sample(
  config: Config,
  params: Params,
  prompts: Sequence[Sequence[int]],
  keys: Sequence[np.ndarray],
  settings: sampling.Sampling,
  *,
  sizes: Sizes,
  bucket: int,
  max_new_tokens: int,
  eos: tuple[int, ...],
  pad: int,
  has_stopped: Callable[[list[int]], bool] | None = None,
  on_dispatch: Callable[[], object] = lambda: None,
  on_progress: Callable[[Sampled, Progress], object] = lambda out, progress: None,
) -> Sampled:
  """Continues prompt n by len(keys[n]) rows, which share one prefill.

  A row's tokens depend on its prompt and its key alone.

  Args:
    config: The student's config.
    params: Its parameters.
    prompts: Lists of 1 to `bucket` tokens.
    keys: uint32 [rows, 2] for each prompt: the random keys of its rows.
    settings: How tokens are chosen.
    sizes: Sizes of the device programs.
    bucket: Length that prompts are padded to.
    max_new_tokens: The most tokens of a row, N.
    eos: The end tokens.
    pad: The padding token.
    has_stopped: (tokens) -> whether a row that has not ended may stop here. It is called every
      STOP_INTERVAL iterations, so a row may reach beyond the point where it first holds.
    on_dispatch: Called when all device programs have been called, and thus compiled.
    on_progress: Called every REPORT_INTERVAL iterations, or more often, with the result so far.

  Returns:
    The rows in the order of `keys`.

  Raises:
    ValueError: A prompt has no tokens.
  """
  if not all(map(len, prompts)):
    raise ValueError("a prompt has no tokens")
  row_keys = np.concatenate([np.zeros((0, 2), np.uint32), *keys])
  first_row = np.cumsum([0, *map(len, keys)])
  out = _padding_only(len(row_keys), max_new_tokens, pad)
  unread = collections.deque(range(len(prompts)))
  waiting: collections.deque[tuple[int, int]] = collections.deque()  # (prefilled prompt, row)
  row_of = np.full(sizes.rows, -1)  # the row of `out` that a device row computes; -1: free
  left = len(row_keys)
  state: Any = None
  prefilled: Any = None
  sampled = np.zeros(sizes.rows, np.int32)  # tokens of the device rows, as last reported
  while left or (row_of >= 0).any():
    wanted = min(sizes.refill, len(waiting) or left) if left else sizes.rows
    vacant = np.flatnonzero(row_of < 0)
    if not left or len(vacant) < wanted:
      iterations = np.int32(REPORT_INTERVAL if has_stopped is None else STOP_INTERVAL)
      state, running = decode_loop.decode(
        config, params, state, row_of >= 0, settings, np.int32(wanted), iterations, eos=eos
      )
      on_dispatch()
      done = _collect(out, row_of, np.asarray(running), state.samples, has_stopped)
      before, sampled = sampled, np.where(row_of >= 0, np.asarray(state.samples.lengths), 0)
      on_progress(out, _progress(out, done, row_of, before, sampled, left))
      continue
    if not waiting:
      read = [unread.popleft() for _ in range(min(sizes.prompts, len(unread)))]
      tokens, lengths = _pad_prompts([prompts[n] for n in read], sizes.prompts, bucket, pad)
      prefilled = decode_loop.prefill(config, params, tokens, lengths)
      for index, n in enumerate(read):
        waiting.extend((index, row) for row in range(first_row[n], first_row[n + 1]))
      if state is None:
        state = decode_loop.empty_state(prefilled, count=sizes.rows, max_new_tokens=max_new_tokens)
    starting = [waiting.popleft() for _ in range(min(sizes.refill, len(vacant), len(waiting)))]
    state = _start_rows(state, prefilled, starting, vacant, row_keys, sizes)
    row_of[vacant[: len(starting)]] = [row for _, row in starting]
    left -= len(starting)
  return out


def _progress(
  out: Sampled,
  done: list[int],
  row_of: np.ndarray,
  before: np.ndarray,
  sampled: np.ndarray,
  waiting: int,
) -> Progress:
  """Returns the progress; `before` and `sampled` are the tokens of the rows that run, two times."""
  tokens = out.lengths[done].sum() + sampled.sum() - before.sum()
  return Progress(done, int(tokens), int((row_of >= 0).sum()), waiting)


def _padding_only(rows: int, max_new_tokens: int, pad: int) -> Sampled:
  return Sampled(
    np.full((rows, max_new_tokens), pad, np.int32),
    np.zeros(rows, np.int32),
    np.zeros(rows, bool),
    np.zeros((rows, max_new_tokens), np.float32),
  )


def _pad_prompts(
  prompts: Sequence[Sequence[int]], count: int, bucket: int, pad: int
) -> tuple[Any, Any]:
  """Returns (tokens [count, bucket], lengths [count]); missing prompts have length 0."""
  tokens, lengths = np.full((count, bucket), pad, np.int32), np.zeros(count, np.int32)
  for n, prompt in enumerate(prompts):
    tokens[n, : len(prompt)], lengths[n] = prompt, len(prompt)
  return tokens, lengths


def _start_rows(
  state: decode_loop.State,
  prefilled: decode_loop.Prefilled,
  starting: Sequence[tuple[int, int]],
  vacant: np.ndarray,
  row_keys: np.ndarray,
  sizes: Sizes,
) -> decode_loop.State:
  """Starts `starting`, pairs of (prefilled prompt, row of the result), in the first vacant rows."""
  count = len(starting)
  source, target = np.zeros(sizes.refill, np.int32), np.full(sizes.refill, sizes.rows, np.int32)
  keys = np.zeros((sizes.refill, 2), np.uint32)
  source[:count], target[:count] = [index for index, _ in starting], vacant[:count]
  keys[:count] = row_keys[[row for _, row in starting]]
  return decode_loop.insert(state, prefilled, source, target, keys)


def _collect(
  out: Sampled,
  row_of: np.ndarray,
  running: np.ndarray,
  samples: decode_loop.Samples,
  has_stopped: Callable[[list[int]], bool] | None,
) -> list[int]:
  """Copies rows that are done from the device into `out`, and frees them in `row_of`.

  Returns:
    Their rows in `out`.
  """
  done: list[int] = []
  tokens, logprobs, lengths, ended = map(np.asarray, samples)
  for row in np.flatnonzero(row_of >= 0):
    n = lengths[row]
    if not running[row] or (has_stopped and has_stopped(tokens[row, :n].tolist())):
      to = row_of[row]
      out.tokens[to, :n], out.logprobs[to, :n] = tokens[row, :n], logprobs[row, :n]
      out.lengths[to], out.ended[to] = n, ended[row]
      row_of[row] = -1
      done.append(int(to))
  return done
