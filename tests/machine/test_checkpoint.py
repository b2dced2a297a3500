import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from distill_jax import errors
from distill_jax.machine import checkpoint


class State(NamedTuple):
  step: jax.Array
  params: Any


def state_of(step: int, mesh=None) -> State:
  rng = np.random.Generator(np.random.PCG64(step))
  mesh = mesh or mesh_of(2, 4)
  place = lambda *axes: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
  bits = rng.integers(0, 2**32, (8, 4), dtype=np.uint32)
  put = jax.device_put
  return State(
    put(np.int32(step), place()),
    {
      "fp32": put(rng.standard_normal((8, 16), np.float32), place("a", "b")),
      "bf16": put(jax.numpy.asarray(rng.standard_normal((8, 4)), jax.numpy.bfloat16), place("a")),
      "keys": put(bits, place(None, "b")),
      "layers": (put(np.arange(8, dtype=np.int32), place("b")), put(np.float32(-0.0), place())),
    },
  )


def mesh_of(*sizes):
  auto = (jax.sharding.AxisType.Auto,) * 2
  return jax.make_mesh(sizes, ("a", "b"), axis_types=auto)


def shapes_of(state):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def assert_same_bits(one, two):
  assert jax.tree.structure(one) == jax.tree.structure(two)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    assert a.dtype == b.dtype and a.shape == b.shape
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def warned():
  return []


@pytest.fixture
def store(tmp_path, warned):
  return checkpoint.Checkpoints(tmp_path / "checkpoints", keep=2, warn=warned.append)


def inside(store, step: int, name: str):
  return store._path / str(step) / name


def data_file(store, step: int):
  files = (f for f in (store._path / str(step)).rglob("d/*") if f.is_file())
  return max(files, key=lambda f: f.stat().st_size)


def test_nothing_saved_restores_nothing_and_leaves_nothing_behind(store):
  assert store.restore(state_of(0)) is None and store.latest() is None
  assert not store._path.exists()


def test_what_is_restored_is_bit_for_bit_what_was_saved(store, capfd):
  store.save(7, state_of(7))
  restored, step = store.restore(state_of(0))
  assert step == 7
  assert_same_bits(restored, state_of(7))
  assert capfd.readouterr() == ("", "")


def test_it_is_restored_onto_the_places_that_are_asked_for(store):
  store.save(7, state_of(7))
  like = shapes_of(state_of(0, mesh_of(8, 1)))
  restored, _ = store.restore(like)
  assert_same_bits(restored, state_of(7))
  for got, want in zip(jax.tree.leaves(restored), jax.tree.leaves(like), strict=True):
    assert got.sharding == want.sharding


def test_the_newest_few_are_kept_and_the_newest_is_restored(store):
  for step in (5, 10, 15):
    store.save(step, state_of(step))
  assert sorted(p.name for p in store._path.iterdir()) == ["10", "15"]
  restored, step = store.restore(state_of(0))
  assert step == 15 and int(restored.step) == 15


def test_training_that_came_back_replaces_what_lay_ahead(store):
  for step in (5, 10):
    store.save(step, state_of(step))
  store.save(10, state_of(11))
  assert_same_bits(store.restore(state_of(0))[0], state_of(11))
  store.save(5, state_of(12))
  restored, step = store.restore(state_of(0))
  assert step == 5
  assert_same_bits(restored, state_of(12))


def flip(file):
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)


DAMAGE = {
  "one flipped bit": lambda store, step: flip(data_file(store, step)),
  "a missing file": lambda store, step: data_file(store, step).unlink(),
  "a cut file": lambda store, step: os.truncate(data_file(store, step), 10),
  "a missing description": lambda store, step: inside(store, step, "default/_METADATA").unlink(),
  "a torn manifest": lambda store, step: os.truncate(inside(store, step, "MANIFEST.json"), 10),
  "a manifest of nothing": lambda store, step: inside(store, step, "MANIFEST.json").write_text(
    "[]"
  ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_aloud_and_with_no_other_refused(store, warned, damage):
  store.save(5, state_of(5))
  store.save(10, state_of(10))
  damage(store, 10)
  restored, step = store.restore(state_of(0))
  assert step == 5 and len(warned) == 1 and str(store._path / "10") in warned[0]
  assert_same_bits(restored, state_of(5))
  damage(store, 5)
  with pytest.raises(errors.UserError, match=str(store._path / "5")) as caught:
    store.restore(state_of(0))
  assert caught.value.code == errors.DATA
  store.save(10, state_of(10))
  assert store.restore(state_of(0))[1] == 10


def test_a_save_without_its_manifest_never_happened(store, warned):
  store.save(5, state_of(5))
  store.save(10, state_of(10))
  (store._path / "10" / "MANIFEST.json").unlink()
  (store._path / "12.orbax-checkpoint-tmp").mkdir()
  assert store.restore(state_of(0))[1] == 5 and store.latest() == 5 and not warned
  store.save(10, state_of(10))
  assert sorted(p.name for p in store._path.iterdir()) == ["10", "5"]


def test_another_model_is_refused(store):
  store.save(5, state_of(5))
  like = shapes_of(state_of(0))
  sharding = like.params["fp32"].sharding
  others = {
    "shape": {**like.params, "fp32": jax.ShapeDtypeStruct((8, 32), np.float32, sharding=sharding)},
    "type": {**like.params, "fp32": jax.ShapeDtypeStruct((8, 16), np.int32, sharding=sharding)},
    "more": {**like.params, "other": like.params["fp32"]},
    "fewer": {k: v for k, v in like.params.items() if k != "fp32"},
  }
  for params in others.values():
    with pytest.raises(errors.UserError, match=r"another model .*(fp32|other)"):
      store.restore(like._replace(params=params))


def test_the_manifest_lists_every_file(store):
  store.save(5, state_of(5))
  folder = store._path / "5"
  listed = json.loads((folder / "MANIFEST.json").read_text())["files"]
  there = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
  assert there == {*listed, "MANIFEST.json"}


def test_a_full_disk_is_refused_and_costs_nothing(store, monkeypatch):
  store.save(5, state_of(5))

  def full(*_):
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as patched:
    patched.setattr(os, "fsync", full)
    with pytest.raises(errors.UserError, match="make room"):
      store.save(10, state_of(10))
  assert store.restore(state_of(0))[1] == 5


SAVER = """
import os, sys
os.environ["JAX_PLATFORMS"], os.environ["JAX_NUM_CPU_DEVICES"] = "cpu", "8"
sys.path[:0] = [{root!r}, {here!r}]
import test_checkpoint
from distill_jax.machine import checkpoint
store = checkpoint.Checkpoints({path!r}, keep=2)
found = store.restore(test_checkpoint.state_of(0))
step = found[1] if found else 0
print("begun", flush=True)
while True:
  step += 1
  store.save(step, test_checkpoint.state_of(step))
  print(step, flush=True)
"""


def test_a_kill_at_any_moment_of_a_save_costs_that_save_only(store, warned):
  here = os.path.dirname(__file__)
  root = os.path.dirname(os.path.dirname(here))
  program = SAVER.format(root=root, here=here, path=str(store._path))
  draw, saved = random.Random(0), 0
  for told_before in (0, 2, 1):
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as saver:
      assert saver.stdout.readline() == b"begun\n"
      told = [saver.stdout.readline() for _ in range(told_before)]
      time.sleep(draw.uniform(0, 0.05))
      saver.send_signal(signal.SIGKILL)
      told += saver.stdout.read().split()
    saved = int(told[-1]) if told else saved
    restored, step = store.restore(state_of(0)) or (None, 0)
    assert step in (saved, saved + 1)  # the last one may have been done, but not yet told
    if step:
      assert_same_bits(restored, state_of(step))
    saved = step
  assert saved and not warned
