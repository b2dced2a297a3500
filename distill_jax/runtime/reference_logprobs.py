"""What the reference policy thinks of the sides of preference pairs: computed once, and kept.

The reference are the weights that the training on the pairs starts from, so that the first DPO loss
is log 2. A score is found again by all that decides it: the weights and what is computed with them
(family, sizes, dtype, low-rank updates), and the tokens (and with them tokenizer, template and
truncation).
"""

import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import students
from distill_jax.data import batches, collate, encode, row_order
from distill_jax.learning import objectives
from distill_jax.machine import scores
from distill_jax.students import sharding

CACHE = "references.sqlite"  # in the run folder, unless config.pair.cache names another file
KIND = "reference log-probabilities 1"  # of the way they are computed; part of the key


def score(run, params, pairs: list[encode.EncodedPair], label: str):
  """[(log p of chosen, of rejected) of each pair], nats. Shows how many of them were known."""
  path = run.settings.pair.cache or str(run.folder.path / CACHE)
  prefix = f"{KIND} {digest((run.student.frozen, params))} {run.student.learner}"
  keys = [key_of(prefix, p, run.student) for p in pairs]
  with scores.Scores(path) as store, run.console.progress(label, len(pairs), "pairs") as bar:
    known = store.known(dict.fromkeys(keys))
    found = len(known)
    bar.update(found)
    pair_of = dict(zip(keys, pairs, strict=True))
    for part in parts(run, pair_of):
      if known.keys() >= set(part):
        continue
      new = dict(zip(part, compute(run, params, [pair_of[k] for k in part]), strict=True))
      store.add({key: pair for key, pair in new.items() if key not in known})
      known = new | known
      bar.update(len(known))
  if found:
    run.console.line(f"{label}: {found} of {len(pair_of)} were known")
  return [known[key] for key in keys]


def key_of(prefix: str, pair: encode.EncodedPair, student) -> str:
  text = f"{prefix} {student.start} {pair.prompt} {pair.chosen} {pair.rejected}"
  return hashlib.sha256(text.encode()).hexdigest()


def digest(tree) -> str:
  """Of arrays, as they are on the devices."""
  found = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    value = np.ascontiguousarray(jax.device_get(leaf))
    found.update(f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}".encode())
    found.update(value.view(np.uint8).data if value.ndim else value.tobytes())
  return found.hexdigest()


def parts(run, pair_of: dict):
  """Keys of pairs that are scored together: of one bucket, as many as a step trains on. Which they
  are does not depend on what is known, so that a killed run comes to the same numbers."""
  kind, buckets = collate.PreferenceCollator(start=run.student.start), run.settings.train.buckets
  groups = {}
  for key, pair in pair_of.items():
    groups.setdefault(row_order.bucket_of(kind.plain_row(pair).length, buckets), []).append(key)
  size = run.settings.prefer.batch
  for _, keys in sorted(groups.items()):
    yield from (keys[n : n + size] for n in range(0, len(keys), size))


def compute(run, params, pairs) -> list[tuple[float, float]]:
  """As the training itself computes them."""
  s, student = run.settings, run.student
  rows = [collate.PreferenceCollator(start=student.start).plain_row(p) for p in pairs]
  length = row_order.bucket_of(max(r.length for r in rows), s.train.buckets)
  arrays = batches.stack(
    rows, batch=s.prefer.batch, length=length, targets=length, pad=student.tokenizer.pad,
    triplets=0, pairs=1,
  )  # fmt: skip
  batch = jax.device_put(objectives.batch_of(arrays), sharding.batch(student.mesh))
  compiled = program(student.learner, s.student.attention, s.train.logits_chunk)
  with jax.set_mesh(student.mesh):
    logp_BP2 = np.asarray(compiled(student.frozen, params, batch))
  return [(float(c), float(r)) for c, r in logp_BP2[: len(pairs), 0]]


@functools.lru_cache(maxsize=4)
def program(learner, attention: str, chunk: int):
  model, config = students.of(learner.config), learner.config

  @jax.jit
  def sides(frozen, params, batch):
    whole = learner.whole(frozen, params)
    states = model.hidden(config, whole, batch.rows, detach=False, remat="none", path=attention)
    here_BTD = jnp.take_along_axis(states, batch.where[..., None], axis=1)
    logp_BT = students.token_logprobs(config, whole, here_BTD, batch.labels, chunk=chunk)
    return objectives.sides(logp_BT, batch).logp

  return sides
