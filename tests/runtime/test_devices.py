"""Settings that the devices cannot train with are rejected by name."""

import dataclasses

import pytest

from configs import quickstart
from distill_jax import errors
from distill_jax.config.read import read_settings
from distill_jax.runtime import base_model, devices
from distill_jax.students import sharding
from tests.students import oracle


def check(**options):
  devices.check(*run(**options))


def run(
  batch=8, micro=1, length=128, triplet=0.0, tensor=2, attention="splash", plan=(), **changes
):
  """Returns (settings, base model)."""
  config = dataclasses.replace(oracle.TINY, layers=1, **changes)
  s = read_settings(quickstart.get_config().to_dict())
  train = dataclasses.replace(
    s.train,
    batch=batch,
    grad_accum_steps=micro,
    buckets=(length,),
    losses=dataclasses.replace(s.train.losses, triplet=triplet),
  )
  s = dataclasses.replace(
    s,
    student=dataclasses.replace(s.student, attention=attention),
    mesh=dataclasses.replace(s.mesh, data=-1, fsdp=2, tensor=tensor),
    prefer=dataclasses.replace(s.prefer, batch=batch),
    opening=("demonstrate", "train"),
    each_round=plan,
    train=train,
  )
  return s, base_model.BaseModel(None, config, {})


@pytest.fixture
def anywhere(monkeypatch):
  """Makes splash attention, which has an interpreter, count as a path of this device."""
  monkeypatch.setattr(devices, "DEVICE_OF", {"splash": "cpu"})


def test_rows_that_the_devices_cannot_share_are_rejected():
  check(batch=8, attention="auto")
  with pytest.raises(errors.UserError, match=r"train\.batch.*multiple of 4"):
    check(batch=6, attention="auto")


def test_a_batch_of_a_phase_that_is_not_planned_does_not_matter():
  settings, base = run(batch=8, attention="auto")
  settings = dataclasses.replace(settings, prefer=dataclasses.replace(settings.prefer, batch=6))
  devices.check(settings, base)
  planned = dataclasses.replace(settings, each_round=("prefer",))
  with pytest.raises(errors.UserError, match=r"prefer\.batch.*multiple of 4"):
    devices.check(planned, base)


def test_an_attention_path_of_another_device_is_rejected():
  with pytest.raises(errors.UserError, match=r"student\.attention.*this device is a cpu"):
    check()


def test_what_an_attention_path_supports_is_accepted(anywhere):
  check()
  check(micro=2)
  check(triplet=0.5)


@pytest.mark.parametrize(
  "changes, reason",
  [
    ({"length": 96}, "not a multiple of 128"),
    ({"triplet": 0.5, "window": 40, "local": (True,)}, "trees"),
    ({"plan": ("exam", "pair", "prefer"), "window": 40, "local": (True,)}, "trees"),
    ({"heads": 2, "kv_heads": 1}, "1 groups cannot be split 2 ways"),
    ({"micro": 4}, "2 rows cannot be split 4 ways"),
  ],
)
def test_what_an_attention_path_does_not_support_on_this_mesh_is_rejected(
  anywhere, changes, reason
):
  with pytest.raises(errors.UserError, match=f"student.attention.*{reason}"):
    check(**changes)


def test_weights_that_the_mesh_cannot_split_are_reported():
  assert devices.notes(*run(attention="auto")) == []
  assert devices.notes(*run(attention="auto", tensor=4, kv_heads=2, heads=6, vocab=30)) == [
    "mesh: tensor=4 does not divide groups (2), heads (6), vocab (30): these dimensions are "
    "replicated, not sharded"
  ]


def test_decoding_that_cannot_hold_the_weights_whole_is_reported(monkeypatch):
  monkeypatch.setattr(sharding, "MEMORY_GIB", {"cpu": 1e-6})
  (note,) = devices.notes(*run(attention="auto"))
  assert "gathers them over fsdp=2 for every token" in note
