"""Many prompts, each continued by one or more rows: who is decoded when.

Rows are decoded together, and a row that has ended makes room: as soon as enough rows are free, the
next prompts are read and begin in them, so that a long chain holds up nobody but itself.
"""

import collections
from typing import NamedTuple

import numpy as np

from distill_jax.decoding import decode_loop, sampling

LOOK = 16  # turns between two looks for stop strings
FOREVER = np.int32(2**30)


class Sizes(NamedTuple):
  """Of the device programs."""

  rows: int  # decoded at a time
  refill: int  # rows that begin at once, and that are waited for until they are free
  prompts: int  # read at once


class Sampled(NamedTuple):
  tokens: np.ndarray  # int32 [rows, N], `pad` after the end
  lengths: np.ndarray  # int32 [rows], the end token included
  ended: np.ndarray  # bool [rows]: at an end token; False: cut off after N tokens, or stopped
  logprobs: np.ndarray  # float32 [rows, N], nats at temperature 1, 0 after the end


def sizes(batch: int, refill: float, samples: int, parts: int) -> Sizes:
  """Fixed by the settings, not by how much there is to do. Rows and prompts come in whole shards:
  multiples of `parts`."""
  whole = lambda n: -(-n // parts) * parts
  rows = whole(batch)
  places = max(round(refill * rows), 1)
  return Sizes(rows, places, whole(max(places // samples, 1)))


def sample(
  config,
  params,
  prompts,
  keys,
  settings: sampling.Sampling,
  *,
  sizes: Sizes,
  bucket: int,
  max_new_tokens: int,
  eos: tuple[int, ...],
  pad: int,
  stopped=None,
  dispatched=None,
) -> Sampled:
  """Continues prompt n by len(keys[n]) rows of at most `max_new_tokens` tokens, which share one reading
  of it; rows come back in the order of `keys`.

  prompts: token lists of 1 to `bucket` tokens; keys: a uint32 [rows, 2] each. A row's tokens depend
  on its prompt and its key alone. stopped(tokens): whether a row that is not done may be left as it
  is; asked now and then, so that what comes back may reach further than where it first was true.
  dispatched(): called whenever all device programs have been called, and so compiled, at least once.
  """
  if not all(map(len, prompts)):
    raise ValueError("a prompt without tokens cannot be continued")
  all_keys = np.concatenate([np.zeros((0, 2), np.uint32), *keys])
  first = np.cumsum([0, *map(len, keys)])
  out = _nothing(len(all_keys), max_new_tokens, pad)
  unread, unplaced = collections.deque(range(len(prompts))), collections.deque()
  holds = np.full(sizes.rows, -1)  # the row of `out` that each row of the device works for
  left, state = len(all_keys), None
  while left or (holds >= 0).any():
    wanted = min(sizes.refill, len(unplaced) or left) if left else sizes.rows
    vacant = np.flatnonzero(holds < 0)
    if not left or len(vacant) < wanted:
      turns = FOREVER if stopped is None else np.int32(LOOK)
      state, running = decode_loop.decode(
        config, params, state, holds >= 0, settings, np.int32(wanted), turns, eos=eos
      )
      if dispatched is not None:
        dispatched()
      _collect(out, holds, np.asarray(running), state.drawn, stopped)
      continue
    if not unplaced:
      read = [unread.popleft() for _ in range(min(sizes.prompts, len(unread)))]
      tokens, lengths = _padded([prompts[n] for n in read], sizes.prompts, bucket, pad)
      prefilled = decode_loop.prefill(config, params, tokens, lengths)
      unplaced.extend((k, row) for k, n in enumerate(read) for row in range(first[n], first[n + 1]))
      if state is None:
        state = decode_loop.empty(prefilled, count=sizes.rows, max_new_tokens=max_new_tokens)
    now = [unplaced.popleft() for _ in range(min(sizes.refill, len(vacant), len(unplaced)))]
    state = _place(state, prefilled, now, vacant, all_keys, sizes)
    holds[vacant[: len(now)]] = [row for _, row in now]
    left -= len(now)
  return out


def _nothing(rows: int, max_new_tokens: int, pad: int) -> Sampled:
  return Sampled(
    np.full((rows, max_new_tokens), pad, np.int32),
    np.zeros(rows, np.int32),
    np.zeros(rows, bool),
    np.zeros((rows, max_new_tokens), np.float32),
  )


def _padded(prompts, count: int, bucket: int, pad: int):
  """(tokens [count, bucket], lengths [count]); what is missing has length 0."""
  tokens, lengths = np.full((count, bucket), pad, np.int32), np.zeros(count, np.int32)
  for n, prompt in enumerate(prompts):
    tokens[n, : len(prompt)], lengths[n] = prompt, len(prompt)
  return tokens, lengths


def _place(state, prefilled, now, vacant, all_keys, sizes: Sizes):
  """Begins rows `now`, pairs of (prompt of those read, row of the result), in the first vacant
  rows."""
  source, target = np.zeros(sizes.refill, np.int32), np.full(sizes.refill, sizes.rows, np.int32)
  keys = np.zeros((sizes.refill, 2), np.uint32)
  source[: len(now)], target[: len(now)] = [k for k, _ in now], vacant[: len(now)]
  keys[: len(now)] = all_keys[[row for _, row in now]]
  return decode_loop.place(state, prefilled, source, target, keys)


def _collect(out: Sampled, holds, running, drawn: decode_loop.Drawn, stopped) -> None:
  """Takes what is done off the device, and frees its rows."""
  tokens, logprobs, lengths, ended = map(np.asarray, drawn)
  for row in np.flatnonzero(holds >= 0):
    n = lengths[row]
    if not running[row] or (stopped and stopped(tokens[row, :n].tolist())):
      to = holds[row]
      out.tokens[to, :n], out.logprobs[to, :n] = tokens[row, :n], logprobs[row, :n]
      out.lengths[to], out.ended[to] = n, ended[row]
      holds[row] = -1
