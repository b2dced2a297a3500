"""Whether the devices there are can train as the settings want, found out without training."""

import functools
import itertools

import jax
import numpy as np

from distill_jax import errors, students
from distill_jax.runtime import student
from distill_jax.students import token_rows

DEVICE_OF = {"cudnn": "gpu", "splash": "tpu"}  # attention paths that only one kind of device has


def refuse(settings, base) -> None:
  """Raises UserError, before anything is paid for, if the devices there are cannot share a batch, or
  cannot pay attention as they are told to."""
  s, mesh = settings.train, student.mesh_of(settings)
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  for field, batch in (("train.batch", s.batch), ("prefer.batch", settings.prefer.batch)):
    if batch % parts:
      raise errors.config(field, batch, f"a multiple of {parts}, mesh.data times mesh.fsdp")
  path, device = settings.student.attention, jax.default_backend()
  if path not in DEVICE_OF:
    return
  if DEVICE_OF[path] != device:
    raise errors.config("student.attention", path, f"auto or plain: this device is a {device}")
  batches = [(s.batch // s.grad_accum_steps, s.losses.triplet > 0)]
  if "prefer" in settings.opening + settings.each_round:  # both sides of a pair hang on its prompt
    batches.append((settings.prefer.batch // s.grad_accum_steps, True))
  for (batch, trees), length in itertools.product(batches, s.buckets):
    try:
      _shape_of(base.config, path, mesh, (batch, length), trees=trees)
    except (ValueError, RuntimeError, NotImplementedError) as error:
      # ValueError: attention.py's own reasons. The other two are cuDNN's, raised inside jax: it is
      # not there, or not for this device or these shapes.
      raise errors.config("student.attention", path, f"auto or plain: {error}") from None


def _shape_of(config, path: str, mesh, shape, *, trees: bool):
  """What the student would make of one micro-batch of a step. Nothing is computed."""
  model, line = students.of(config), jax.ShapeDtypeStruct(shape, np.int32)
  read = functools.partial(model.hidden, config, path=path)
  with jax.set_mesh(mesh):
    batch = token_rows.Rows(line, line, line, line if trees else None)
    return jax.eval_shape(read, model.shapes(config), batch)
