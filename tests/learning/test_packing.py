"""The packing of examples into rows changes no loss and no gradient."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax import settings, students
from distill_jax.data import batches, collate, encode, pack
from distill_jax.learning import objectives
from tests import compilations
from tests.learning import material
from tests.students import oracle, oracle_t5

NUMBER = 12
TREES = [
  collate.SupervisedCollator(material.SFT, triplet, with_triplets=True)
  for triplet in (
    dataclasses.replace(material.TRIPLET, detach_prompt=detach, pool=pool)
    for detach, pool in itertools.product((False, True), ("last", "mean"))
  )
]
CASES = {
  **{f"{kind.triplet.pool}-{kind.triplet.detach_prompt}": kind for kind in TREES},
  "sft": collate.SupervisedCollator(material.SFT, material.TRIPLET, with_triplets=False),
  "dpo": collate.PreferenceCollator(),
  "t5": collate.SupervisedCollator(
    settings.Sft(prompt_weight=0.0, denominator="all_tokens"),
    dataclasses.replace(material.TRIPLET, detach_prompt=True),
    with_triplets=True,
    start=oracle_t5.FIRST.start,
  ),
}
every_case = pytest.mark.parametrize("name", CASES)

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)


@functools.cache
def model(name: str):
  """Returns (config, parameters) of a case."""
  if name == "t5":
    return oracle_t5.FIRST, oracle_t5.params(oracle_t5.FIRST, scale=0.25)
  return oracle.TINY, oracle.params(oracle.TINY, scale=0.25)


def objective(name: str) -> objectives.Objective:
  if name == "dpo":
    return material.preference(0.3, coefficients={"preference": 1.0, "nll": 0.2})
  kind = CASES[name]
  detach = kind.with_triplets and kind.triplet.detach_prompt
  return material.objective(triplet=0.5 * kind.with_triplets, config=model(name)[0], detach=detach)


@functools.cache
def value_and_grad(name: str):
  """Returns batch -> ((sum of all terms, (counts, sums)), gradient)."""
  of = objective(name)

  def total(params, batch):
    sums = of.sums(params, batch)
    return sum(of.coefficients[term] * sums[term] for term in of.coefficients), (
      of.counts(batch),
      sums,
    )

  return functools.partial(jax.jit(jax.value_and_grad(total, has_aux=True)), model(name)[1])


@functools.cache
def rows(name: str) -> list[encode.Row]:
  """Returns one row for each of some examples."""
  kind, rng = CASES[name], oracle.rng()
  some = material.preferred(NUMBER) if name == "dpo" else material.examples(NUMBER)
  return [kind.row(x, rng, 99) for x in some]


def batch(name: str, some, *, length: int, size: int, **other) -> objectives.Batch:
  """Returns rows in one batch."""
  contrasts = max(max(row.triplets for row in some), 1) if CASES[name].with_triplets else 0
  pairs = max(row.pairs for row in some)
  wide = {"targets": length, "triplets": contrasts, "pairs": pairs, "pad": 0} | other
  return objectives.as_batch(batches.stack(some, batch=size, length=length, **wide))


def packed(name: str, groups) -> list[encode.Row]:
  return [pack.join_rows([rows(name)[n] for n in group]) for group in groups]


@functools.cache
def apart(name: str):
  """Returns loss and gradient of the examples, one a row."""
  return value_and_grad(name)(batch(name, rows(name), length=48, size=12))


def assert_same(one, other):
  """Asserts equality to 1e-5 of the largest number of each array."""
  for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * float(jnp.abs(y).max()))


@every_case
@pytest.mark.parametrize(
  "groups",
  [((5, 0, 7), (1, 2, 3, 4), (11, 6), (8,), (9, 10)), (tuple(range(12)),)],
  ids=["some rows", "one row"],
)
def test_packed_rows_give_the_losses_and_gradients_of_separate_rows(name, groups):
  some = packed(name, groups)
  got = value_and_grad(name)(batch(name, some, length=sum(r.length for r in rows(name)), size=5))
  assert_same(got, apart(name))
  assert all(float(jnp.abs(x).max()) > 1e-3 for x in jax.tree.leaves(got[1]) if x.ndim > 1)


@every_case
def test_longer_rows_and_wider_targets_change_nothing(name):
  """Bucketed equals unbucketed."""
  longest = max(row.length for row in rows(name))
  assert longest < 48
  tight = batch(name, rows(name), length=longest, size=NUMBER)
  roomy = batch(name, rows(name), length=61, size=16, targets=50)
  assert_same(value_and_grad(name)(tight), apart(name))
  assert_same(value_and_grad(name)(roomy), apart(name))


@every_case
def test_what_is_masked_changes_nothing(name):
  """Padding, labels without weight, absent triplets and pairs may hold any numbers."""
  some = packed(name, ((5, 0, 7), (1, 2, 3, 4)))
  most = {"triplets": 7} if CASES[name].with_triplets else {}
  most |= {"pairs": 6} if name == "dpo" else {}
  clean = batch(name, some, length=170, size=3, **most)
  draw, nothing = oracle.rng(), clean.rows.segments == 0
  dirt = lambda like, high: draw.integers(0, high, like.shape).astype(like.dtype)
  mess = lambda array, high, where: np.where(where, dirt(array, high), array)
  spoiled = clean._replace(
    rows=clean.rows._replace(
      tokens=mess(clean.rows.tokens, 32, nothing), positions=mess(clean.rows.positions, 99, nothing)
    ),
    where=mess(clean.where, 170, clean.weights == 0),
    labels=mess(clean.labels, 32, clean.weights == 0),
  )
  if CASES[name].with_triplets:
    spoiled = spoiled._replace(shares=mess(clean.shares, 9, clean.slots == 0))
  if name == "t5":
    source = mess(clean.rows.source, 32, clean.rows.source_segments == 0)
    spoiled = spoiled._replace(rows=spoiled.rows._replace(source=source))
  if name == "dpo":
    gone = np.repeat(clean.pairs, 2, axis=1) == 0
    assert gone.any()
    spoiled = spoiled._replace(
      owners=mess(clean.owners, 12, clean.weights == 0), references=mess(clean.references, 99, gone)
    )
  assert (spoiled.rows.tokens != clean.rows.tokens).any()
  one, other = value_and_grad(name)(clean), value_and_grad(name)(spoiled)
  jax.tree.map(np.testing.assert_array_equal, one, other)


@every_case
def test_examples_of_one_row_never_see_each_other(name):
  """No embedding of one example's tokens gets a gradient from another example's states."""
  kind, rng = CASES[name], oracle.rng()
  text = lambda n: (*rng.integers(2 + 10 * n, 12 + 10 * n, 5).tolist(),)
  if name == "dpo":
    some = [encode.EncodedPair("q", text(n), text(n), text(n), (-1.0, -2.0)) for n in range(3)]
  else:
    some = [encode.EncodedExample("q", text(n), text(n), (text(n),), (text(n),)) for n in range(3)]
  each = [kind.row(x, rng, 99) for x in some]
  one = batch(name, [pack.join_rows(each)], length=100, size=1)
  detach = kind.with_triplets and kind.triplet.detach_prompt
  config, params = model(name)

  @jax.jit
  def embeddings(mine_BL):
    states = lambda p: students.of(config).hidden(config, p, one.rows, detach=detach)
    return jax.grad(lambda p: jnp.sum(states(p) ** 3 * mine_BL[..., None]))(params)["embed"]

  start = 0
  for row in each:
    mine = np.zeros((1, 100), np.float32)
    mine[0, start : start + len(row.tokens)] = 1
    has_gradient = np.abs(embeddings(mine)).max(axis=1) > 0
    assert set(np.flatnonzero(has_gradient)) == {*row.tokens, *row.source}
    start += len(row.tokens)


def test_a_training_epoch_of_either_corpus_has_the_same_sums():
  """From examples to sums, as in training: packed by the packer, in batches."""
  some, kind = material.examples(30), TREES[0]
  whole = {}
  for is_packed in (False, True):
    corpus = material.corpus_of(some, kind, batch=4, buckets=(24, 64), packed=is_packed)
    steps = len(corpus.batch_order.epoch(0))
    got = [
      value_and_grad("last-False")(objectives.as_batch(corpus.batch(n)))[0][1] for n in range(steps)
    ]
    whole[is_packed] = jax.tree.map(lambda *x: np.sum(np.float64(x)), *got), steps
  assert whole[True][1] < whole[False][1], "otherwise nothing is packed"
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), whole[True][0], whole[False][0]
  )


def test_fifty_packed_steps_compile_one_program():
  corpus = material.corpus_of(material.examples(30), TREES[0], batch=4, packed=True, buckets=(64,))
  run = jax.jit(objective("last-False").sums)
  with compilations.counted() as programs:
    for n in range(50):
      run(model("last-False")[1], objectives.as_batch(corpus.batch(n)))
  assert len(programs) == 1
