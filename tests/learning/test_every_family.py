"""Every family: a step is the same on any mesh, with any remat, with or without LoRA.

A checkpoint of one mesh can be restored on another.
"""

import functools

import jax
import numpy as np
import optax
import pytest

from distill_jax import settings, students
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
def trainable_of(name: str, lora: bool = False) -> trainable.Trainable:
  return trainable.Trainable(CONFIGS[name], **LORA if lora else {})


@functools.cache
def weights(name: str, lora: bool):
  """Returns (frozen, trained) parameters, none of them 0."""
  draw, parameters = oracle.rng(3), trainable_of(name, lora)
  fill = lambda x: np.float32(0.2 * draw.normal(size=x.shape))
  trained = jax.tree.map(fill, parameters.shapes)
  return (jax.tree.map(fill, parameters.frozen_shapes) if lora else ()), trained


def rows(name: str):
  start = CONFIGS[name].start if name == "t5" else None
  sft = settings.Sft(prompt_weight=0.0, denominator="weights")
  kind = collate.SupervisedCollator(sft, material.TRIPLET, with_triplets=True, start=start)
  corpus = material.corpus_of(material.examples(24), kind, batch=8)
  return objectives.as_batch(corpus.batch(0))


def stepped(name: str, *, lora: bool = False, sizes=(1, 1, 1), remat: str = "none"):
  """Returns (state after a step, metrics), computed on a mesh of its own."""
  parameters, config = trainable_of(name, lora), CONFIGS[name]
  model, (frozen, trained) = students.of(config), weights(name, lora)
  count = int(np.prod(sizes))
  mesh = sharding.make_mesh(*sizes, devices=jax.devices()[:count])
  objective = objectives.tailored(
    functools.partial(model.hidden, config, detach=True, remat=remat),
    functools.partial(students.token_logprobs, config, chunk=16),
    coefficients={"sft": 1.0, "triplet": 0.5},
    margin=1.0,
  )
  shardings = step.state_shardings(mesh, parameters.axes, parameters.shapes, PLAIN)
  held = sharding.of_params(mesh, model.axes(config), model.shapes(config)) if lora else ()
  update = step.make_train_step(objective, PLAIN, grad_accum_steps=1, merge=parameters.merge)
  state = jax.device_put(step.init_state(trained, PLAIN), shardings)
  batch = jax.device_put(rows(name), sharding.batch(mesh))
  with jax.set_mesh(mesh):
    return step.jit_train_step(update, mesh, shardings, held)(
      state, batch, jax.device_put(frozen, held)
    )


@functools.cache
def plain(name: str, lora: bool = False):
  return jax.device_get(stepped(name, lora=lora))


def assert_same(a, b):
  """Asserts equality to rounding, relative to the largest number of each array."""

  def close(x, y):
    x, y = np.float64(x), np.float64(y)
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * max(np.abs(y).max(), 1.0))

  jax.tree.map(close, a, b)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_mesh_changes_no_step(name):
  assert_same(jax.device_get(stepped(name, sizes=(2, 2, 2))), plain(name))


@pytest.mark.parametrize("remat", ["dots", "full"])
@pytest.mark.parametrize("name", ["gemma3_text", "t5"])
def test_remat_changes_nothing(name, remat):
  assert_same(jax.device_get(stepped(name, remat=remat)), plain(name))


@pytest.mark.parametrize("name", ["gptj", "t5"])
def test_the_mesh_changes_no_lora_step(name):
  assert_same(jax.device_get(stepped(name, lora=True, sizes=(2, 2, 2))), plain(name, True))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_of_every_family_learns(name):
  (state, _), (_, before) = plain(name), weights(name, False)
  still = jax.tree.map(lambda x, y: float(np.abs(x - y).max()), state.params, before)
  idle = [jax.tree_util.keystr(p) for p, x in jax.tree.leaves_with_path(still) if x == 0]
  # A bias on all keys shifts all scores of a query equally, which a softmax ignores.
  assert [name for name in idle if "k_bias" not in name] == []


@pytest.mark.parametrize("name", ["qwen3", "t5"])
def test_a_checkpoint_of_one_mesh_is_restored_on_another(name, tmp_path):
  parameters = trainable_of(name)

  def on(sizes, devices):
    mesh = sharding.make_mesh(*sizes, devices=devices)
    return sharding.of_params(mesh, parameters.axes, parameters.shapes)

  first, second = on((1, 4, 2), jax.devices()), on((2, 1, 2), jax.devices()[:4])
  _, trained = weights(name, False)
  store = checkpoint.Checkpoints(tmp_path, keep=1)
  store.save(1, jax.device_put(trained, first))
  like = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), parameters.shapes, second
  )
  restored, _ = store.restore(like)
  jax.tree.map(np.testing.assert_array_equal, restored, trained)
  assert jax.tree.map(lambda x: x.sharding, restored) == second
