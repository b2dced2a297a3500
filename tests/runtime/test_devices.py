"""Devices that cannot train as they are told to are refused, by the setting that is wrong."""

import dataclasses
import types

import pytest

from distill_jax import errors
from distill_jax.runtime import base_model, devices
from tests.students import oracle


def refuse(
  batch=8, micro=1, length=128, triplet=0.0, tensor=2, attention="splash", plan=(), **changes
):
  config = dataclasses.replace(oracle.TINY, layers=1, **changes)
  devices.check(
    types.SimpleNamespace(
      student=types.SimpleNamespace(attention=attention),
      mesh=types.SimpleNamespace(data=-1, fsdp=2, tensor=tensor),
      prefer=types.SimpleNamespace(batch=batch),
      opening=("demonstrate", "train"),
      each_round=plan,
      train=types.SimpleNamespace(
        batch=batch,
        grad_accum_steps=micro,
        buckets=(length,),
        losses=types.SimpleNamespace(triplet=triplet),
      ),
    ),
    base_model.BaseModel(None, config, {}),
  )


@pytest.fixture
def anywhere(monkeypatch):
  """The path that has an interpreter taken for this device's own."""
  monkeypatch.setattr(devices, "DEVICE_OF", {"splash": "cpu"})


def test_rows_that_the_devices_cannot_share_are_refused():
  refuse(batch=8, attention="auto")
  with pytest.raises(errors.UserError, match=r"train\.batch.*multiple of 4"):
    refuse(batch=6, attention="auto")


def test_a_path_of_another_device_is_refused():
  with pytest.raises(errors.UserError, match=r"student\.attention.*this device is a cpu"):
    refuse()


def test_what_a_path_can_do_is_not_refused(anywhere):
  refuse()
  refuse(micro=2)


@pytest.mark.parametrize(
  "changes, reason",
  [
    ({"length": 96}, "no multiple of 128"),
    ({"triplet": 0.5}, "trees"),
    ({"plan": ("exam", "pair", "prefer")}, "trees"),
    ({"heads": 2, "kv_heads": 1}, "1 groups cannot be split 2 ways"),
    ({"micro": 4}, "2 rows cannot be split 4 ways"),
  ],
)
def test_what_a_path_cannot_do_on_this_mesh_is_refused(anywhere, changes, reason):
  with pytest.raises(errors.UserError, match=f"student.attention.*{reason}"):
    refuse(**changes)
