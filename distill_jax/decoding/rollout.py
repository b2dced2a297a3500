"""Bulk sampling: many prompts, each continued by one or more rows.

Rows are decoded together. As soon as enough rows have ended, the next prompts are prefilled and
start in them, so a long rationale delays no other. Prompts may be added while rows are decoded.
"""

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from distill_jax.decoding import decode_loop, sampling
from distill_jax.students import sharding
from distill_jax.students.types import Config, Params

STOP_INTERVAL = 16  # iterations between two calls of `has_stopped`
REPORT_INTERVAL = 64  # iterations after which the host looks in any case, and reports

HasStopped = Callable[[int, list[int]], bool]


class Sizes(NamedTuple):
  """Sizes of the device programs."""

  rows: int  # decoded at a time
  refill: int  # rows that start at once; new prompts wait until so many are free
  prompts: int  # prefilled at once


class Row(NamedTuple):
  """A row that is complete."""

  row: int  # its number, in the order in which rows were added
  tokens: np.ndarray  # int32, including the end token
  logprobs: np.ndarray  # float32, nats at temperature 1
  ended: bool  # at an end token; False: cut off after N tokens, or stopped


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


class _Start(NamedTuple):
  """A row that has not started."""

  row: int
  key: np.ndarray  # uint32 [2]


class Rollout:
  """Rows that are decoded together, and the prompts that wait for them.

  A row's tokens depend on its prompt and its key alone.
  """

  def __init__(
    self,
    config: Config,
    params: Params | decode_loop.Held,
    settings: sampling.Sampling,
    *,
    sizes: Sizes,
    bucket: int,
    max_new_tokens: int,
    eos: tuple[int, ...],
    pad: int,
    on_dispatch: Callable[[], object] = lambda: None,
  ):
    """Opens a rollout without rows.

    Args:
      config: The student's config.
      params: Its parameters, or what `decode_loop.prepare` returns.
      settings: How tokens are chosen.
      sizes: Sizes of the device programs.
      bucket: Length that prompts are padded to.
      max_new_tokens: The most tokens of a row, N.
      eos: The end tokens.
      pad: The padding token.
      on_dispatch: Called when all device programs have been called, and thus compiled.
    """
    self._config, self._settings = config, settings
    self._params = decode_loop.prepare(config, params)
    self._sizes, self._bucket, self._max_new_tokens = sizes, bucket, max_new_tokens
    self._eos, self._pad, self._on_dispatch = eos, pad, on_dispatch
    self._rows = 0  # that were added
    self._unread: collections.deque[tuple[Sequence[int], list[_Start]]] = collections.deque()
    self._read: collections.deque[tuple[int, _Start]] = collections.deque()  # (prefilled prompt, _)
    self._row_of = np.full(sizes.rows, -1)  # the row that a device row computes; -1: free
    self._sampled = np.zeros(sizes.rows, np.int32)  # tokens of the device rows, as last reported
    self._state: decode_loop.State | None = None
    self._prefilled: decode_loop.Prefilled | None = None
    self.waiting = 0  # rows that have not started

  @property
  def running(self) -> int:
    """The number of rows that are being decoded."""
    return int((self._row_of >= 0).sum())

  def padding_only(self, rows: int) -> Sampled:
    """Returns a result of rows that have no tokens yet."""
    return Sampled(
      np.full((rows, self._max_new_tokens), self._pad, np.int32),
      np.zeros(rows, np.int32),
      np.zeros(rows, bool),
      np.zeros((rows, self._max_new_tokens), np.float32),
    )

  def add(self, prompt: Sequence[int], keys: np.ndarray) -> range:
    """Adds a prompt of 1 to `bucket` tokens, continued by one row per key (uint32 [rows, 2]).

    Returns:
      The numbers of its rows.

    Raises:
      ValueError: The prompt has no tokens.
    """
    if not len(prompt):
      raise ValueError("a prompt has no tokens")
    added = range(self._rows, self._rows + len(keys))
    self._unread.append((prompt, list(map(_Start, added, keys))))
    self._rows, self.waiting = self._rows + len(keys), self.waiting + len(keys)
    return added

  def step(self, has_stopped: HasStopped | None = None) -> tuple[list[Row], int]:
    """Starts the rows that can start, and decodes until rows are free or it is time to look.

    Args:
      has_stopped: (row, its tokens) -> whether a row that has not ended may stop here.

    Returns:
      The rows that are complete, and the number of tokens that were sampled.
    """
    while True:
      vacant = np.flatnonzero(self._row_of < 0)
      wanted = self._sizes.rows
      if self.waiting:
        wanted = min(self._sizes.refill, len(self._read) or self.waiting)
      if not self.waiting or len(vacant) < wanted:
        break
      self._start_rows(vacant)
    iterations = np.int32(REPORT_INTERVAL if has_stopped is None else STOP_INTERVAL)
    state, running = decode_loop.decode(
      self._config, self._params, self._state, self._row_of >= 0, self._settings,
      np.int32(wanted), iterations, eos=self._eos,
    )  # fmt: skip
    self._state = state
    self._on_dispatch()
    running, samples = sharding.to_host((running, state.samples))
    done = self._collect(running, samples, has_stopped)
    before, self._sampled = self._sampled, np.where(self._row_of >= 0, samples.lengths, 0)
    tokens = sum(len(row.tokens) for row in done) + int(self._sampled.sum() - before.sum())
    return done, tokens

  def _start_rows(self, vacant: np.ndarray) -> None:
    """Starts rows in the first vacant ones; prefills prompts if none has been."""
    sizes = self._sizes
    if not self._read:
      count = min(sizes.prompts, len(self._unread))
      prompts, starts = zip(*(self._unread.popleft() for _ in range(count)), strict=True)
      tokens, lengths = _pad_prompts(prompts, sizes.prompts, self._bucket, self._pad)
      self._prefilled = decode_loop.prefill(self._config, self._params, tokens, lengths)
      self._read.extend((index, start) for index, rows in enumerate(starts) for start in rows)
      if self._state is None:
        self._state = decode_loop.empty_state(
          self._prefilled, count=sizes.rows, max_new_tokens=self._max_new_tokens
        )
    count = min(sizes.refill, len(vacant), len(self._read))
    starting = [self._read.popleft() for _ in range(count)]
    source, target = np.zeros(sizes.refill, np.int32), np.full(sizes.refill, sizes.rows, np.int32)
    keys = np.zeros((sizes.refill, 2), np.uint32)
    source[:count], target[:count] = [index for index, _ in starting], vacant[:count]
    keys[:count] = [start.key for _, start in starting]
    self._state = decode_loop.insert(self._state, self._prefilled, source, target, keys)
    self._row_of[vacant[:count]] = [start.row for _, start in starting]
    self.waiting -= count

  def _collect(
    self, running: np.ndarray, samples: Any, has_stopped: HasStopped | None
  ) -> list[Row]:
    """Copies rows that are done from `samples`, on the host, and frees them."""
    done: list[Row] = []
    tokens, logprobs, lengths, ended = samples
    for at in np.flatnonzero(self._row_of >= 0):
      n, row = lengths[at], int(self._row_of[at])
      if not running[at] or (has_stopped and has_stopped(row, tokens[at, :n].tolist())):
        done.append(Row(row, tokens[at, :n].copy(), logprobs[at, :n].copy(), bool(ended[at])))
        self._row_of[at] = -1
    return done


def sample(
  rollout: Rollout,
  prompts: Sequence[Sequence[int]],
  keys: Sequence[np.ndarray],
  *,
  has_stopped: Callable[[list[int]], bool] | None = None,
  on_progress: Callable[[Sampled, Progress], object] = lambda out, progress: None,
) -> Sampled:
  """Continues prompt n by len(keys[n]) rows, which share one prefill.

  Args:
    rollout: What computes them; no prompt was added to it before.
    prompts: Lists of 1 to `bucket` tokens.
    keys: uint32 [rows, 2] for each prompt: the random keys of its rows.
    has_stopped: (tokens) -> whether a row that has not ended may stop here. It is called every
      STOP_INTERVAL iterations, so a row may reach beyond the point where it first holds.
    on_progress: Called every REPORT_INTERVAL iterations, or more often, with the result so far.

  Returns:
    The rows in the order of `keys`.

  Raises:
    ValueError: A prompt has no tokens.
  """
  count = sum(map(len, keys))
  out = rollout.padding_only(count)
  for prompt, keys_R2 in zip(prompts, keys, strict=True):
    rollout.add(prompt, keys_R2)
  stopped = None if has_stopped is None else lambda row, tokens: has_stopped(tokens)
  while rollout.waiting or rollout.running:
    done, sampled = rollout.step(stopped)
    for row, tokens, logprobs, ended in done:
      n = len(tokens)
      out.tokens[row, :n], out.logprobs[row, :n] = tokens, logprobs
      out.lengths[row], out.ended[row] = n, ended
    numbers = [row.row for row in done]
    on_progress(out, Progress(numbers, sampled, rollout.running, rollout.waiting))
  return out


def _pad_prompts(
  prompts: Sequence[Sequence[int]], count: int, bucket: int, pad: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns (tokens [count, bucket], lengths [count]); missing prompts have length 0."""
  tokens, lengths = np.full((count, bucket), pad, np.int32), np.zeros(count, np.int32)
  for n, prompt in enumerate(prompts):
    tokens[n, : len(prompt)], lengths[n] = prompt, len(prompt)
  return tokens, lengths
