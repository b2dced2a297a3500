"""Writes a student as a Hugging Face directory, for transformers, vLLM and other tools.

  config.json  generation_config.json  tokenizer files  README.md (model card)
  model.safetensors, or above a size model-0000i-of-0000N.safetensors and an index

The directory is written under a temporary name, read back and compared bit for bit, then renamed:
under its final name it is complete. Tensors are copied from the devices one at a time.
"""

import collections
import functools
import gc
import json
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import disk, errors, together
from distill_jax.machine import hf, hf_file

MAX_FILE_BYTES = 5 * 10**9  # bytes of tensors in one file
DTYPES: dict[str, np.dtype[Any]] = {
  "float32": np.dtype(np.float32),
  "bfloat16": np.dtype(jnp.bfloat16),
}
TENSOR = "tensor"  # of what all processes do together
POSITIONS = ("max_position_embeddings", "n_positions")

Path = str | os.PathLike[str]
ToTheirs = Callable[[Sequence[Any], Sequence[np.ndarray]], np.ndarray]


def take_part(params: Any) -> None:
  """Prepares a process for an `export` of process 0, which gathers the parameters of all."""
  together.register(TENSOR, functools.partial(_to_host, params))


def export(
  out: Path,
  *,
  fields: dict[str, Any],
  tensors: Iterable[hf.Tensor],
  to_theirs: ToTheirs,
  params: Any,
  tokenizer: Path,
  bos: int | None,
  eos: int | Sequence[int],
  pad: int,
  positions: int,
  card: str,
  template: str = "",
  dtype: str = "float32",
  max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
  """Writes the directory `out`.

  Args:
    out: The directory; it must not exist.
    fields: The family's part of config.json.
    tensors: How each stored tensor maps to our parameters.
    to_theirs: Assembles a stored tensor from our arrays (students/families/layout.py).
    params: The parameters.
    tokenizer: The directory of the student's tokenizer.
    bos: The id of the token that starts a text, if any.
    eos: The id of the token that ends a text, or several.
    pad: The id of the padding token.
    positions: The longest row of the student, for families without such a field.
    card: The model card.
    template: The chat template; "" keeps that of the tokenizer.
    dtype: The type of the stored tensors, a key of DTYPES.
    max_file_bytes: The limit on the tensors in one file.

  Raises:
    UserError: `out` exists, cannot be written, or does not read back as written. Nothing is left.
  """
  out = pathlib.Path(out)
  if out.exists():
    raise errors.usage(f"--out={out} already exists; remove it, or give another")
  if dtype not in DTYPES:
    raise errors.usage(f"--dtype={dtype} is not one of {', '.join(DTYPES)}")
  part = disk.unfinished(out)
  take = functools.partial(_to_host, params)

  def array_of(tensor: hf.Tensor) -> np.ndarray:
    return together.on_all(TENSOR, take, tensor.path, tensor.layer, dtype)

  try:
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write_tokenizer(tokenizer, part, template)
    ids = {"bos_token_id": bos, "eos_token_id": _eos_field(eos), "pad_token_id": pad}
    _write_texts(part, fields, ids, positions, dtype, card)
    _write_weights(part, _by_name(tensors), to_theirs, array_of, DTYPES[dtype], max_file_bytes)
    for file in (*part.iterdir(), part):
      disk.fsync(file)
    os.rename(part, out)
    disk.fsync(out.parent)
  except OSError as error:
    reason = error.strerror or error
    raise errors.data(f"{out} could not be written ({reason}); nothing is left of it") from error
  finally:
    shutil.rmtree(part, ignore_errors=True)


def _eos_field(eos: int | Sequence[int]) -> int | list[int]:
  """A number for one id, a list for several: readers of both forms exist."""
  ids = [eos] if isinstance(eos, int) else list(eos)
  return ids[0] if len(ids) == 1 else ids


def write_tokenizer(source: Path, part: pathlib.Path, template: str) -> None:
  """Copies a tokenizer, with another chat template unless that is empty.

  Raises:
    UserError: `source` has no tokenizer.
    OSError: It cannot be written.
  """
  source = pathlib.Path(source)
  files = [source / name for name in hf.TOKENIZER if (source / name).is_file()]
  if not files:
    raise errors.data(f"{source} has no tokenizer; give the directory of the student's tokenizer")
  for file in files:
    shutil.copyfile(file, part / file.name)
  if template:
    _write_template(part, template)


def _write_template(part: pathlib.Path, template: str) -> None:
  """Writes the chat template where transformers 5 and where older readers look for it."""
  (part / hf.TEMPLATE).write_text(template, encoding="utf-8")
  file = part / hf.TOKENIZER_CONFIG
  config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
  file.write_text(_json(config | {"chat_template": template}), encoding="utf-8")


def _write_texts(
  part: pathlib.Path,
  fields: dict[str, Any],
  ids: dict[str, Any],
  positions: int,
  dtype: str,
  card: str,
) -> None:
  # transformers 5 reads "dtype", transformers 4 reads "torch_dtype".
  config = {**fields, **ids, "dtype": dtype, "torch_dtype": dtype}
  if not any(name in fields for name in POSITIONS):
    config[POSITIONS[0]] = positions
  generation = {"do_sample": False, **ids}
  if "decoder_start_token_id" in fields:
    generation["decoder_start_token_id"] = fields["decoder_start_token_id"]
  texts = {hf.CONFIG: _json(config), hf.GENERATION: _json(generation), "README.md": card}
  for name, text in texts.items():
    (part / name).write_text(text, encoding="utf-8")


def _by_name(tensors: Iterable[hf.Tensor]) -> dict[str, list[hf.Tensor]]:
  """{name of a stored tensor: the parts it is assembled from}."""
  parts: dict[str, list[hf.Tensor]] = collections.defaultdict(list)
  for tensor in tensors:
    parts[tensor.name].append(tensor)
  return dict(parts)


def _write_weights(
  part: pathlib.Path,
  tensors: Mapping[str, Sequence[hf.Tensor]],
  to_theirs: ToTheirs,
  array_of: Callable[[hf.Tensor], np.ndarray],
  dtype: np.dtype[Any],
  max_file_bytes: int,
) -> None:
  def array(name: str) -> np.ndarray:
    return to_theirs(tensors[name], [array_of(part) for part in tensors[name]])

  shapes = {name: parts[0].shape for name, parts in tensors.items()}
  files = _assign_files(shapes, dtype, max_file_bytes)
  for file, held in files.items():
    hf_file.write(part / file, dtype, held, array)
  if len(files) > 1:
    total = sum(math.prod(shape) * dtype.itemsize for shape in shapes.values())
    weight_map = {name: file for file, held in files.items() for name in held}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (part / hf.INDEX).write_text(_json(index), encoding="utf-8")


def _assign_files(
  shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype[Any], max_file_bytes: int
) -> dict[str, dict[str, tuple[int, ...]]]:
  """{file: {name: shape}}: tensors in order, filling each file up to the limit.

  A tensor above the limit gets a file of its own.
  """
  groups: list[dict[str, tuple[int, ...]]] = [{}]
  room = max_file_bytes
  for name, shape in shapes.items():
    size = math.prod(shape) * dtype.itemsize
    if size > room and groups[-1]:
      groups.append({})
      room = max_file_bytes
    groups[-1][name] = shape
    room -= size
  if len(groups) == 1:
    return {hf.WEIGHTS: groups[0]}
  return {
    f"model-{n:05}-of-{len(groups):05}.safetensors": group for n, group in enumerate(groups, 1)
  }


def _to_host(params: Any, path: Sequence[str], layer: int | None, dtype: str) -> np.ndarray:
  """One of our arrays, or one layer of a stacked one, on the host, in the type of the files."""
  stack = functools.reduce(lambda node, key: node[key], path, params)
  gc.collect(0)  # jax releases memory that the host no longer uses only when Python collects
  whole = None
  if not stack.is_fully_addressable:  # other processes hold a part of it
    whole = jax.NamedSharding(stack.sharding.mesh, jax.P())
  return np.asarray(_take_layer(stack, layer, dtype=DTYPES[dtype], whole=whole))


@functools.partial(jax.jit, static_argnames=("dtype", "whole"))
def _take_layer(
  stack: jax.Array, index: jax.Array | int | None, dtype: Any, whole: jax.NamedSharding | None
) -> jax.Array:
  """One layer of a stack, or (index None) the entire array, on its devices.

  Compiles once per shape. Always copies: an array caches the host's view of it as long as it lives.
  """
  array = stack if index is None else jax.lax.dynamic_index_in_dim(stack, index, 0, keepdims=False)
  copy = jnp.copy(array.astype(dtype))
  return copy if whole is None else jax.lax.with_sharding_constraint(copy, whole)


def _json(value: dict[str, Any]) -> str:
  return json.dumps(value, indent=2, sort_keys=True) + "\n"
