"""Checks, without training, that the available devices can train with the settings."""

import functools
import itertools
from typing import Any

import jax
import numpy as np

from distill_jax import errors, students
from distill_jax.runtime.base_model import BaseModel
from distill_jax.runtime.student import batch_size, build_mesh
from distill_jax.settings import Settings
from distill_jax.students import sharding, token_rows

DEVICE_OF = {"cudnn": "gpu", "splash": "tpu"}  # attention paths that only one kind of device has


def check(settings: Settings, base: BaseModel) -> None:
  """Rejects settings that the available devices cannot train with.

  Raises:
    UserError: The devices cannot share a batch, or do not have the attention path.
  """
  train, mesh = settings.train, build_mesh(settings)
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  planned = settings.opening + settings.each_round
  for phase, batch in (("train", train.batch), ("prefer", settings.prefer.batch)):
    if phase in planned and batch % parts:
      allowed = f"a multiple of {parts}, mesh.data times mesh.fsdp"
      raise errors.config(f"{phase}.batch", batch, allowed)
  path = settings.student.attention
  if path not in DEVICE_OF:
    return
  with jax.set_mesh(mesh):
    device = sharding.platform()
  if DEVICE_OF[path] != device:
    raise errors.config("student.attention", path, f"auto or plain: this device is a {device}")
  of_train = batch_size(settings, mesh, train.batch, train.batch_tokens)
  sizes = [(of_train, train.losses.triplet > 0)]
  if "prefer" in planned:  # the rows of a preference pair are trees, too
    sizes.append((batch_size(settings, mesh, settings.prefer.batch), True))
  for (size, trees), length in itertools.product(sizes, train.buckets):
    rows = size.complete(length) // train.grad_accum_steps
    try:
      _trace_forward(base.config, path, mesh, (rows, length), trees=trees)
    except (ValueError, RuntimeError, NotImplementedError) as error:
      # ValueError is raised by attention.py. The other two come from cuDNN, inside jax: it is not
      # installed, or does not support this device or these shapes.
      raise errors.config("student.attention", path, f"auto or plain: {error}") from None


def notes(settings: Settings, base: BaseModel) -> list[str]:
  """Returns notes on a slow mesh: dimensions it cannot shard, weights gathered for every token."""
  config, mesh = base.config, build_mesh(settings)
  model: Any = students.of(config)
  out = []
  for names, sizes in sharding.undivided(mesh, model.axes(config), model.shapes(config)).items():
    out.append(
      f"mesh: {names} does not divide {', '.join(sizes)}: these dimensions are replicated, not"
      " sharded"
    )
  with jax.set_mesh(mesh):
    if sharding.has_fsdp() and not sharding.decodes_whole(model.shapes, config):
      out.append(
        "mesh: without fsdp, the weights would take more than"
        f" {sharding.DECODE_SHARE:.0%} of a device's memory, so decoding gathers them over"
        f" fsdp={mesh.shape['fsdp']} for every token; use a larger mesh.tensor"
      )
  return out


def _trace_forward(
  config: Any, path: str, mesh: jax.sharding.Mesh, shape: tuple[int, int], *, trees: bool
) -> None:
  """Traces the forward pass of one micro-batch [B, L]; nothing is computed."""
  model: Any = students.of(config)
  tokens: Any = jax.ShapeDtypeStruct(shape, np.int32)
  rows = token_rows.Rows(tokens, tokens, tokens, tokens if trees else None)
  with jax.set_mesh(mesh):
    jax.eval_shape(functools.partial(model.hidden, config, path=path), model.shapes(config), rows)
