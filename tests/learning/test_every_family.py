"""What holds for one student holds for all: a step is the same on any mesh, computed again or not,
whole or by low-rank updates; and what one mesh has stored, another reads."""

import functools
import types

import jax
import numpy as np
import optax
import pytest

from distill_jax import students
from distill_jax.data import collate
from distill_jax.learning import objectives, step
from distill_jax.machine import checkpoint
from distill_jax.students import sharding, trainable
from tests import compilations
from tests.golden import cases
from tests.learning import material
from tests.students import oracle, oracle_t5

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)

PLAIN = optax.sgd(1.0)  # new parameters minus old ones are the gradient itself
CONFIGS = {
  name: cases.read(cases.CASES[name])
  for name in (
    "gpt2", "gptj", "gpt_neo", "opt_350m", "llama3", "mistral", "qwen2", "qwen3", "gemma2",
    "gemma3_text",
  )
} | {"t5": oracle_t5.SECOND}  # fmt: skip
LORA = {"rank": 2, "scale": 0.5, "targets": ("down", "o", "q", "up")}


@functools.cache
def taught(name: str, lora: bool = False) -> trainable.Learner:
  return trainable.Learner(CONFIGS[name], **LORA if lora else {})


@functools.cache
def weights(name: str, lora: bool):
  """(frozen, trained), none of them 0."""
  draw, of = oracle.rng(3), taught(name, lora)
  fill = lambda x: np.float32(0.2 * draw.normal(size=x.shape))
  trained = jax.tree.map(fill, of.shapes)
  return (jax.tree.map(fill, of.frozen_shapes) if lora else ()), trained


def rows(name: str):
  start = CONFIGS[name].start if name == "t5" else None
  sft = types.SimpleNamespace(prompt_weight=0.0, denominator="weights")
  kind = collate.SupervisedCollator(sft, material.TRIPLET, with_triplets=True, start=start)
  corpus = material.corpus_of(material.examples(24), kind, batch=8)
  return objectives.batch_of(corpus.batch(0))


def stepped(name: str, *, lora: bool = False, sizes=(1, 1, 1), remat: str = "none"):
  """(state after a step, metrics)."""
  of, config = taught(name, lora), CONFIGS[name]
  model, (frozen, trained) = students.of(config), weights(name, lora)
  count = int(np.prod(sizes))
  mesh = sharding.make_mesh(*sizes, devices=jax.devices()[:count])
  objective = objectives.tailored(
    functools.partial(model.hidden, config, detach=True, remat=remat),
    functools.partial(students.token_logprobs, config, chunk=16),
    share={"sft": 1.0, "triplet": 0.5},
    margin=1.0,
  )
  places = step.places(mesh, of.axes, of.shapes, PLAIN)
  held = sharding.of_params(mesh, model.axes(config), model.shapes(config)) if lora else ()
  update = step.make_train_step(objective, PLAIN, micro=1, whole=of.whole)
  state = jax.device_put(step.start(trained, PLAIN), places)
  batch = jax.device_put(rows(name), sharding.batch(mesh))
  with jax.set_mesh(mesh):
    return step.compiled(update, mesh, places, held)(state, batch, jax.device_put(frozen, held))


@functools.cache
def plain(name: str, lora: bool = False):
  return jax.device_get(stepped(name, lora=lora))


def assert_same(a, b):
  """To rounding, against the largest number of each array."""

  def close(x, y):
    x, y = np.float64(x), np.float64(y)
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * max(np.abs(y).max(), 1.0))

  jax.tree.map(close, a, b)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_mesh_changes_no_family(name):
  assert_same(jax.device_get(stepped(name, sizes=(2, 2, 2))), plain(name))


@pytest.mark.parametrize("remat", ["dots", "full"])
@pytest.mark.parametrize("name", ["gemma3_text", "t5"])
def test_computing_again_changes_nothing(name, remat):
  assert_same(jax.device_get(stepped(name, remat=remat)), plain(name))


@pytest.mark.parametrize("name", ["gptj", "t5"])
def test_the_mesh_changes_no_low_rank_update(name):
  assert_same(jax.device_get(stepped(name, lora=True, sizes=(2, 2, 2))), plain(name, True))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_of_every_family_learns(name):
  (state, _), (_, before) = plain(name), weights(name, False)
  still = jax.tree.map(lambda x, y: float(np.abs(x - y).max()), state.params, before)
  idle = [jax.tree_util.keystr(p) for p, x in jax.tree.leaves_with_path(still) if x == 0]
  # A bias on all keys moves all scores of a query alike, which softmax does not see.
  assert [name for name in idle if "k_bias" not in name] == []


@pytest.mark.parametrize("name", ["qwen3", "t5"])
def test_what_was_stored_on_one_mesh_is_the_same_on_another(name, tmp_path):
  of = taught(name)

  def on(sizes, devices):
    mesh = sharding.make_mesh(*sizes, devices=devices)
    return sharding.of_params(mesh, of.axes, of.shapes)

  first, second = on((1, 4, 2), jax.devices()), on((2, 1, 2), jax.devices()[:4])
  _, trained = weights(name, False)
  store = checkpoint.Checkpoints(tmp_path, keep=1)
  store.save(1, jax.device_put(trained, first))
  like = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), of.shapes, second
  )
  restored, _ = store.restore(like)
  jax.tree.map(np.testing.assert_array_equal, restored, trained)
  assert jax.tree.map(lambda x: x.sharding, restored) == second
