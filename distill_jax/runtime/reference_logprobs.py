"""Reference log-probabilities of preference pairs: computed once, and cached.

The reference policy has the weights that the training on the pairs starts from, so the first DPO
loss is log 2. A cache key covers everything that determines a score: the weights, how they are used
(family, sizes, dtype, LoRA), and the tokens (and with them tokenizer, template and truncation).

Dimension key: B rows, L tokens of a row, T target positions, D model width, P pairs of a row.
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from distill_jax import students
from distill_jax.console import Console
from distill_jax.data import batches, collate, encode, row_order
from distill_jax.learning import objectives
from distill_jax.machine import scores
from distill_jax.runtime.context import RunContext
from distill_jax.runtime.student import Params, Student, batch_size
from distill_jax.runtime.weights import digest
from distill_jax.students import gather, sharding, trainable

CACHE = "references.sqlite"  # in the run directory, unless config.pair.cache names another file
KIND = "reference log-probabilities 1"  # version of the computation; part of the key


def score(
  ctx: RunContext, params: Params, pairs: Sequence[encode.EncodedPair], label: str
) -> list[tuple[float, float]]:
  """Returns (log p of chosen, log p of rejected) of each pair, in nats.

  Scores that are in the cache are not computed again; their number is shown under `label`.
  """
  path = ctx.settings.pair.cache or str(ctx.run_dir.path / CACHE)
  student = ctx.student
  prefix = f"{KIND} {digest((student.frozen, params))} {_describe(student.trainable)}"
  keys = [cache_key(prefix, pair, student) for pair in pairs]
  with scores.Scores(path) as store, ctx.console.progress(label, len(pairs), "pairs") as bar:
    known = store.known(dict.fromkeys(keys))
    hits = len(known)
    bar.update(hits)
    pair_of = dict(zip(keys, pairs, strict=True))
    for batch in batches_by_bucket(ctx, pair_of):
      if known.keys() >= set(batch):
        continue
      computed = compute_batch(ctx, params, [pair_of[key] for key in batch])
      new = dict(zip(batch, computed, strict=True))
      store.add({key: value for key, value in new.items() if key not in known})
      known = new | known
      bar.update(len(known))
  if hits:
    ctx.console.line(f"{label}: {hits} of {len(pair_of)} were in the cache")
  return [known[key] for key in keys]


def _describe(t: trainable.Trainable) -> str:
  """Describes how weights are used. Part of the cache key, so the format must not change."""
  return f"Learner(config={t.config!r}, rank={t.rank!r}, scale={t.scale!r}, targets={t.targets!r})"


def cache_key(prefix: str, pair: encode.EncodedPair, student: Student) -> str:
  """Returns the cache key of a pair's scores."""
  text = f"{prefix} {student.decoder_start} {pair.prompt} {pair.chosen} {pair.rejected}"
  return hashlib.sha256(text.encode()).hexdigest()


def batches_by_bucket(
  ctx: RunContext, pair_of: Mapping[str, encode.EncodedPair]
) -> Iterator[list[str]]:
  """Yields keys of pairs that are scored together: of one bucket, as many as a step trains on.

  The batches do not depend on the cache, so a run that was killed computes the same numbers.
  """
  collator = collate.PreferenceCollator(start=ctx.student.decoder_start)
  groups: dict[int, list[str]] = {}
  for key, pair in pair_of.items():
    groups.setdefault(_bucket(ctx, collator.plain_row(pair).length), []).append(key)
  size = ctx.settings.prefer.batch
  for _, keys in sorted(groups.items()):
    for start in range(0, len(keys), size):
      yield keys[start : start + size]


def _bucket(ctx: RunContext, length: int) -> int:
  bucket = row_order.bucket_of(length, ctx.settings.train.buckets)
  if bucket is None:
    raise ValueError(f"a pair of {length} tokens is longer than every bucket")
  return bucket


def compute_batch(
  ctx: RunContext, params: Params, pairs: Sequence[encode.EncodedPair]
) -> list[tuple[float, float]]:
  """Computes the scores of one batch exactly as training does."""
  s, student = ctx.settings, ctx.student
  rows = [collate.PreferenceCollator(start=student.decoder_start).plain_row(pair) for pair in pairs]
  length = _bucket(ctx, max(row.length for row in rows))
  size = batch_size(s, student.mesh, s.prefer.batch)
  arrays = batches.stack(
    rows,
    batch=size.allocated(len(rows), length),
    length=length,
    targets=length,
    pad=student.tokenizer.pad,
    triplets=0,
    pairs=1,
  )
  batch = sharding.put(objectives.as_batch(arrays), sharding.batch(student.mesh))
  scorer = build_scorer(
    student.trainable, s.student.attention, s.train.logits_chunk, packed=s.train.packing
  )
  with jax.set_mesh(student.mesh), scorer.announce_first_call(ctx.console, arrays["tokens"].shape):
    logp_device_BP2 = scorer.side_logprobs(student.frozen, params, batch)
  logp_BP2 = sharding.to_host(logp_device_BP2)
  return [(float(chosen), float(rejected)) for chosen, rejected in logp_BP2[: len(pairs), 0]]


class Scorer(NamedTuple):
  """The program that scores a batch, and the shapes of rows it has been compiled for."""

  # (frozen, params, batch) -> log p [B, P, 2] of both sides
  side_logprobs: Callable[[Params, Params, objectives.Batch], jax.Array]
  called: set[tuple[int, ...]]

  def announce_first_call(
    self, console: Console, shape: tuple[int, ...]
  ) -> contextlib.AbstractContextManager[None]:
    """Announces and times the compilation for rows [B, L] of a new shape."""
    if shape in self.called:
      return contextlib.nullcontext()
    self.called.add(shape)
    return console.compiling(f"the scoring of pairs for {shape[0]} rows of {shape[1]}")


@functools.lru_cache(maxsize=4)
def build_scorer(
  parameters: trainable.Trainable, attention: str, chunk: int, *, packed: bool
) -> Scorer:
  """Builds the scorer, which its first call compiles; phases with equal settings share it."""
  config: Any = parameters.config
  model = students.of(config)

  @jax.jit
  def side_logprobs(frozen: Params, params: Params, batch: objectives.Batch) -> jax.Array:
    merged = parameters.merge(frozen, params)
    states_BLD = model.hidden(
      config, merged, batch.rows, detach=False, remat="none", path=attention, packed=packed
    )
    at_BTD = gather.positions(states_BLD, batch.where)
    logp_BT = students.token_logprobs(config, merged, at_BTD, batch.labels, chunk=chunk)
    return objectives.sum_sides(logp_BT, batch).logp

  return Scorer(side_logprobs, set())
