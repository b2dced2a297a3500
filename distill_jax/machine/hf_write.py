"""A student as a Hugging Face directory: what transformers, vLLM and the rest of the world load.

  config.json  generation_config.json  tokenizer files  README.md (model card)
  model.safetensors, or above a size model-0000i-of-0000N.safetensors and an index

Written under a temporary name, read back and compared bit for bit, then renamed: what has the name
is whole and right. Tensors leave the devices one at a time.
"""

import collections
import functools
import gc
import json
import math
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import errors
from distill_jax.machine import hf, hf_file

LIMIT = 5 * 10**9  # bytes of tensors in one file
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(jnp.bfloat16)}
POSITIONS = ("max_position_embeddings", "n_positions")


def export(
  out, *, fields: dict, tensors, to_theirs, params, tokenizer, bos: int | None, end, pad: int,
  positions: int, card: str, dtype: str = "float32", limit: int = LIMIT,
) -> None:  # fmt: skip
  """Writes the directory `out`.

  `fields` is the family's part of config.json; `tensors` and `to_theirs` say how each of their
  tensors is made of ours (students/families/layout.py); `tokenizer` is the directory of the
  student's tokenizer; `bos`, `end` (one, or several) and `pad` are token ids; `positions` is the
  longest row the student is made for, where the family has no such number; `dtype` is that of the
  files. Raises UserError if `out` exists, cannot be written, or does not read back as written; then
  nothing is left.
  """
  out = pathlib.Path(out)
  if out.exists():
    raise errors.usage(f"--out={out} is there already: remove it, or name another")
  if dtype not in DTYPES:
    raise errors.usage(f"--dtype={dtype} is none of {', '.join(DTYPES)}")
  part = out.with_name(out.name + ".part")
  try:
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    _copy_tokenizer(pathlib.Path(tokenizer), part)
    ids = {"bos_token_id": bos, "eos_token_id": _end(end), "pad_token_id": pad}
    _write_texts(part, fields, ids, positions, dtype, card)
    _write_weights(part, _by_name(tensors), to_theirs, params, DTYPES[dtype], limit)
    for file in (*part.iterdir(), part):
      _sync(file)
    os.rename(part, out)
    _sync(out.parent)
  except OSError as error:
    why = error.strerror or error
    raise errors.data(f"{out} could not be written ({why}); nothing is there") from error
  finally:
    shutil.rmtree(part, ignore_errors=True)


def _end(end):
  """One id is a number, several are a list: what readers of both kinds of file understand."""
  ids = [end] if isinstance(end, int) else list(end)
  return ids[0] if len(ids) == 1 else ids


def _copy_tokenizer(source: pathlib.Path, part: pathlib.Path) -> None:
  files = [source / name for name in hf.TOKENIZER if (source / name).is_file()]
  if not files:
    raise errors.data(f"{source} holds no tokenizer: give the directory of the student's")
  for file in files:
    shutil.copyfile(file, part / file.name)


def _write_texts(part, fields, ids, positions, dtype, card) -> None:
  config = {**fields, **ids, "dtype": dtype, "torch_dtype": dtype}  # transformers 5, and 4
  if not any(name in fields for name in POSITIONS):
    config[POSITIONS[0]] = positions
  generation = {"do_sample": False, **ids}
  if "decoder_start_token_id" in fields:
    generation["decoder_start_token_id"] = fields["decoder_start_token_id"]
  texts = {hf.CONFIG: _json(config), hf.GENERATION: _json(generation), "README.md": card}
  for name, text in texts.items():
    (part / name).write_text(text, encoding="utf-8")


def _by_name(tensors) -> dict:
  """What each of their tensors is made of."""
  out = collections.defaultdict(list)
  for tensor in tensors:
    out[tensor.name].append(tensor)
  return dict(out)


def _write_weights(part, parts_of, to_theirs, params, dtype, limit) -> None:
  def array(name):
    return to_theirs(parts_of[name], [_ours(params, t, dtype) for t in parts_of[name]])

  files = _files({name: parts[0].shape for name, parts in parts_of.items()}, dtype, limit)
  for file, shapes in files.items():
    hf_file.write(part / file, dtype, shapes, array)
  if len(files) > 1:
    total = sum(math.prod(shape) * dtype.itemsize for x in files.values() for shape in x.values())
    places = {name: file for file, shapes in files.items() for name in shapes}
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (part / hf.INDEX).write_text(_json(index), encoding="utf-8")


def _files(shapes: dict, dtype, limit: int) -> dict[str, dict]:
  """{file: {name: shape}}: tensors in their order, at most `limit` bytes a file, but at least
  one."""
  groups, room = [{}], limit
  for name, shape in shapes.items():
    size = math.prod(shape) * dtype.itemsize
    if size > room and groups[-1]:
      groups.append({})
      room = limit
    groups[-1][name] = shape
    room -= size
  if len(groups) == 1:
    return {hf.WEIGHTS: groups[0]}
  named = "model-{:05}-of-{:05}.safetensors"
  return {named.format(n, len(groups)): group for n, group in enumerate(groups, 1)}


def _ours(params, tensor, dtype) -> np.ndarray:
  """One array of ours, one layer of it if it is stacked, on the host in the type of the files."""
  stack = functools.reduce(lambda node, key: node[key], tensor.path, params)
  gc.collect(0)  # jax lets go of what the host no longer looks at when Python collects
  return np.asarray(_take(stack, tensor.layer, dtype=dtype))


@functools.partial(jax.jit, static_argnames="dtype")
def _take(stack, n, dtype):
  """The n-th of a stack, or all of an array (None), where it lies: one compilation a shape.

  A copy in any case: an array keeps what the host once saw of it, as long as it lives.
  """
  array = stack if n is None else jax.lax.dynamic_index_in_dim(stack, n, 0, keepdims=False)
  return jnp.copy(array.astype(dtype))


def _json(value: dict) -> str:
  return json.dumps(value, indent=2, sort_keys=True) + "\n"


def _sync(path) -> None:
  fd = os.open(path, os.O_RDONLY)
  try:
    os.fsync(fd)
  finally:
    os.close(fd)
