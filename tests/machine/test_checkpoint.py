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

  def sharded(*axes):
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))

  bits = rng.integers(0, 2**32, (8, 4), dtype=np.uint32)
  put = jax.device_put
  return State(
    put(np.int32(step), sharded()),
    {
      "fp32": put(rng.standard_normal((8, 16), np.float32), sharded("a", "b")),
      "bf16": put(jax.numpy.asarray(rng.standard_normal((8, 4)), jax.numpy.bfloat16), sharded("a")),
      "keys": put(bits, sharded(None, "b")),
      "layers": (put(np.arange(8, dtype=np.int32), sharded("b")), put(np.float32(-0.0), sharded())),
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
def warnings():
  return []


@pytest.fixture
def store(tmp_path, warnings):
  return checkpoint.Checkpoints(tmp_path / "checkpoints", keep=2, warn=warnings.append)


def inside(store, step: int, name: str):
  return store._path / str(step) / name


def data_file(store, step: int):
  files = (f for f in (store._path / str(step)).rglob("d/*") if f.is_file())
  return max(files, key=lambda f: f.stat().st_size)


def test_without_a_checkpoint_restore_returns_none_and_creates_nothing(store):
  assert store.restore(state_of(0)) is None and store.latest() is None
  assert not store._path.exists()


def test_a_restored_state_is_bit_for_bit_the_saved_one(store, capfd):
  store.save(7, state_of(7))
  restored, step = store.restore(state_of(0))
  assert step == 7
  assert_same_bits(restored, state_of(7))
  assert capfd.readouterr() == ("", "")


def test_a_state_is_restored_with_the_requested_shardings(store):
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


def test_a_save_replaces_this_and_later_steps(store):
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
def test_a_damaged_checkpoint_is_skipped_with_a_warning_or_rejected_if_none_is_left(
  store, warnings, damage
):
  store.save(5, state_of(5))
  store.save(10, state_of(10))
  damage(store, 10)
  restored, step = store.restore(state_of(0))
  assert step == 5 and len(warnings) == 1 and str(store._path / "10") in warnings[0]
  assert_same_bits(restored, state_of(5))
  damage(store, 5)
  with pytest.raises(errors.UserError, match=str(store._path / "5")) as caught:
    store.restore(state_of(0))
  assert caught.value.code == errors.DATA
  store.save(10, state_of(10))
  assert store.restore(state_of(0))[1] == 10


def test_a_save_without_its_manifest_does_not_count(store, warnings):
  store.save(5, state_of(5))
  store.save(10, state_of(10))
  (store._path / "10" / "MANIFEST.json").unlink()
  (store._path / "12.orbax-checkpoint-tmp").mkdir()
  assert store.restore(state_of(0))[1] == 5 and store.latest() == 5 and not warnings
  store.save(10, state_of(10))
  assert sorted(p.name for p in store._path.iterdir()) == ["10", "5"]


def test_a_different_model_is_rejected(store):
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
    with pytest.raises(errors.UserError, match=r"a different model .*(fp32|other)"):
      store.restore(like._replace(params=params))


def test_the_manifest_lists_every_file(store):
  store.save(5, state_of(5))
  step_dir = store._path / "5"
  listed = json.loads((step_dir / "MANIFEST.json").read_text())["files"]
  present = {f.relative_to(step_dir).as_posix() for f in step_dir.rglob("*") if f.is_file()}
  assert present == {*listed, "MANIFEST.json"}


def test_a_full_disk_is_reported_and_loses_nothing(store, monkeypatch):
  store.save(5, state_of(5))

  def full(*_):
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as patched:
    patched.setattr(os, "fsync", full)
    with pytest.raises(errors.UserError, match="free some space"):
      store.save(10, state_of(10))
  assert store.restore(state_of(0))[1] == 5


SAVER = """
import os, sys
os.environ["JAX_PLATFORMS"], os.environ["JAX_NUM_CPU_DEVICES"] = "cpu", "8"
sys.path[:0] = [{root!r}, {here!r}]
import test_checkpoint
from distill_jax.machine import checkpoint
store = checkpoint.Checkpoints({path!r}, keep=2)
restored = store.restore(test_checkpoint.state_of(0))
step = restored[1] if restored else 0
print("started", flush=True)
while True:
  step += 1
  store.save(step, test_checkpoint.state_of(step))
  print(step, flush=True)
"""


def test_a_kill_at_any_moment_of_a_save_loses_only_that_save(store, warnings):
  here = os.path.dirname(__file__)
  root = os.path.dirname(os.path.dirname(here))
  program = SAVER.format(root=root, here=here, path=str(store._path))
  draw, saved = random.Random(0), 0
  for count in (0, 2, 1):
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as saver:
      assert saver.stdout.readline() == b"started\n"
      reported = [saver.stdout.readline() for _ in range(count)]
      time.sleep(draw.uniform(0, 0.05))
      saver.send_signal(signal.SIGKILL)
      reported += saver.stdout.read().split()
    saved = int(reported[-1]) if reported else saved
    restored, step = store.restore(state_of(0)) or (None, 0)
    assert step in (saved, saved + 1)  # the last save may be complete, but not yet reported
    if step:
      assert_same_bits(restored, state_of(step))
    saved = step
  assert saved and not warnings


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_neither_saved_nor_restored(store, value, monkeypatch):
  state = state_of(1)
  bad = state._replace(params=state.params | {"bf16": state.params["bf16"].at[3, 1].set(value)})
  with pytest.raises(errors.UserError, match=r"bf16.* has non-finite values"):
    store.save(1, bad)
  assert store.latest() is None
  with monkeypatch.context() as patched:
    patched.setattr(checkpoint, "not_finite", lambda tree: [])
    store.save(1, bad)
  with pytest.raises(errors.UserError, match=r"bf16.* has non-finite values"):
    store.restore(shapes_of(state))
