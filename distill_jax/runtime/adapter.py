"""Exports LoRA adapters in the format of peft, over the model that the student started from.

The update of a stored weight is computed in the weight's layout, in which our query, key and value
may be one tensor, and then factorized. Its rank is at most the sum of the adapters' ranks, so the
product of the factors equals the update up to rounding.

Dimension key: O outputs, I inputs, R rank.
"""

import functools
import json
import os
import pathlib
import shutil
from collections import defaultdict
from typing import Any

import numpy as np

from distill_jax import disk, errors, together
from distill_jax.machine import hf_file, hf_write
from distill_jax.run_dir import phase_dir
from distill_jax.runtime import base_model, export
from distill_jax.runtime.context import RunContext
from distill_jax.students import sharding
from distill_jax.students.families import layout

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every name in peft's files
TRANSPOSED = ("gpt2",)  # families whose stored weights are [inputs, outputs]


def write(ctx: RunContext, round_index: int, name: str, *, out: str, card: str) -> None:
  """Writes the adapters of a round's student to the directory `out`.

  Raises:
    UserError: The student has no adapters or no pretrained base, or `out` exists or cannot be
      written. Then nothing is left behind.
  """
  settings = ctx.settings.student
  if not settings.lora.rank or settings.init == base_model.SCRATCH:
    raise errors.usage(
      "--adapter needs a student with LoRA on a pretrained model (student.lora.rank, student.init);"
      " leave it out to export the whole student"
    )
  target = pathlib.Path(out)
  if together.once("exists", target.exists):
    raise errors.usage(f"--out={out} already exists; remove it, or give another")
  found = factors(ctx, round_index, name)
  template = export.prompt_template(ctx, name)  # adapters need the prompt of their training
  together.once("export", lambda: _write(ctx, found, target, card, template))


def _write(
  ctx: RunContext,
  found: dict[str, tuple[np.ndarray, np.ndarray]],
  target: pathlib.Path,
  card: str,
  template: str,
) -> None:
  """Writes the directory `target`."""
  part = disk.unfinished(target)
  try:
    shutil.rmtree(part, ignore_errors=True)
    with phase_dir.report_os_errors(part):
      part.mkdir(parents=True)
    arrays: dict[str, np.ndarray] = {}
    for module, (up_OR, down_RI) in found.items():
      arrays[f"{PREFIX}{module}.lora_A.weight"] = down_RI
      arrays[f"{PREFIX}{module}.lora_B.weight"] = up_OR
    shapes = {key: array.shape for key, array in arrays.items()}
    hf_file.write(part / WEIGHTS, np.dtype(np.float32), shapes, arrays.__getitem__)
    text = json.dumps(_config(ctx, found), indent=2, sort_keys=True) + "\n"
    phase_dir.write_bytes(part / CONFIG, text.encode())
    phase_dir.write_bytes(part / "README.md", card.encode())
    with phase_dir.report_os_errors(target):
      hf_write.write_tokenizer(ctx.run_dir.path / "tokenizer", part, template)
      os.replace(part, target)
  finally:
    shutil.rmtree(part, ignore_errors=True)


def _config(ctx: RunContext, found: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
  """Returns adapter_config.json. The factor alpha / r is in the weights, so it is 1 here."""
  student, settings = ctx.student, ctx.settings.student
  rank = max(down_RI.shape[0] for _, down_RI in found.values())
  is_decoder = student.decoder_start is None
  return {
    "base_model_name_or_path": settings.init,
    "bias": "none",
    "fan_in_fan_out": student.base.fields.get("model_type") in TRANSPOSED,
    "inference_mode": True,
    "lora_alpha": rank,
    "lora_dropout": 0.0,
    "peft_type": "LORA",
    "r": rank,
    "target_modules": sorted(found),
    "task_type": "CAUSAL_LM" if is_decoder else "SEQ_2_SEQ_LM",
  }


def factors(
  ctx: RunContext, round_index: int, name: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Returns {module: (up [O, R], down [R, I])} of all adapted modules, with one rank R."""
  student, on_devices = ctx.students(round_index)[name]
  trained = sharding.to_host(on_devices)
  tensors: defaultdict[str, list[layout.Tensor]] = defaultdict(list)
  for tensor in student.base.family.tensors(student.config):
    tensors[tensor.name].append(tensor)
  adapted = {key: parts for key, parts in tensors.items() if any(_find(trained, p) for p in parts)}
  rank = student.trainable.rank
  rank *= max(sum(bool(_find(trained, p)) for p in parts) for parts in adapted.values())
  is_transposed = student.base.fields.get("model_type") in TRANSPOSED
  found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
  for key, parts in adapted.items():
    updates = [_update(_find(trained, p), p, student.trainable.scale) for p in parts]
    update_OI = layout.to_theirs(parts, updates)
    update_OI = update_OI.T if is_transposed else update_OI
    found[key.removesuffix(".weight")] = factorize(update_OI, rank)
  return found


def _find(trained: Any, tensor: layout.Tensor) -> dict[str, Any] | None:
  """Returns the adapter of one of our weights, or None if it has none."""
  try:
    found = functools.reduce(lambda node, key: node[key], tensor.path, trained)
  except KeyError:
    return None
  return found if set(found) == {"down", "up"} else None


def _update(adapter: dict[str, Any] | None, tensor: layout.Tensor, scale: float) -> np.ndarray:
  """Returns scale * down @ up of a layer in our layout, float64; zeros without an adapter."""
  if adapter is None:
    return np.zeros(tensor.ours)
  down, up = (np.asarray(adapter[side][tensor.layer], np.float64) for side in ("down", "up"))
  return scale * np.tensordot(down, up, 1)


def factorize(update_OI: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns float32 (up [O, R], down [R, I]) whose product is an update of at most that rank.

  `up` is an orthonormal basis of the update's range (Halko et al. 2011, with as many random
  vectors as the range has dimensions, or more); missing columns are zero.
  """
  rng = np.random.Generator(np.random.PCG64(0))
  columns = min(rank, *update_OI.shape)
  up_OR, _ = np.linalg.qr(update_OI @ rng.standard_normal((update_OI.shape[1], columns)))
  down_RI = up_OR.T @ update_OI
  missing = rank - columns
  up_OR = np.pad(up_OR, ((0, 0), (0, missing)))
  down_RI = np.pad(down_RI, ((0, missing), (0, 0)))
  return np.ascontiguousarray(up_OR, np.float32), np.ascontiguousarray(down_RI, np.float32)
