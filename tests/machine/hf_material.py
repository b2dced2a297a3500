"""Small students and the Hugging Face directories that they are loaded from."""

import json
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from distill_jax.machine import hf
from distill_jax.students import decoder, sharding
from distill_jax.students.families import layout, llama

LLAMA = llama.LLAMA


def config(layers: int = 2, tied: bool = True, **parts) -> decoder.Config:
  return decoder.Config(
    **dict(vocab=96, width=24, layers=layers, heads=4, kv_heads=2, head_width=6, mlp=40)
    | dict(norm_eps=1e-5, tied=tied, dtype="float32", rotary=decoder.Rotary(5000.0, 6))
    | parts
  )


def unshared(layers: int = 2) -> decoder.Config:
  """A config with as many key heads as query heads, so a family can fuse them."""
  return config(layers, kv_heads=4)


def _fused(c: decoder.Config) -> list[layout.Tensor]:
  """Queries, keys and values as one tensor, in both orders: [D, 3HK] and [3HK, D]."""
  d, h, k = c.width, c.heads, c.head_width
  own = [t for t in LLAMA.tensors(c) if t.path[-1] not in ("q", "k", "v")]
  for n in range(c.layers):
    for index, name in enumerate("qkv"):
      if n % 2:
        split, order, part = ((d,), (3, h, k)), (0, 2, 3), (1, index)
      else:
        split, order, part = ((3, h, k), (d,)), (3, 1, 2), (0, index)
      own.append(layout.Tensor(f"model.layers.{n}.qkv", ("blocks", name), n, split, order, part))
  return own


class Fused:
  """A Llama that stores queries, keys and values fused."""

  PREFIX = LLAMA.PREFIX
  write, spare = staticmethod(LLAMA.write), staticmethod(LLAMA.spare)
  tensors = staticmethod(_fused)


FUSED = Fused()


def random_tensors(tensors, seed: int = 0) -> dict[str, np.ndarray]:
  """Random float32 arrays by the names of `tensors`."""
  rng = np.random.Generator(np.random.PCG64(seed))
  shapes = {t.name: t.shape for t in tensors}
  return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def write_directory(path, family: Any, c, arrays, files: int = 1):
  """Writes a model directory; with several files, it has an index."""
  path.mkdir()
  (path / hf.CONFIG).write_text(json.dumps(family.write(c)))
  if files == 1:
    safetensors.numpy.save_file(arrays, path / hf.WEIGHTS)
    return path
  names = [f"model-{n + 1:05}-of-{files:05}.safetensors" for n in range(files)]
  file_of = {name: names[n % files] for n, name in enumerate(arrays)}
  for file in names:
    held = {n: x for n, x in arrays.items() if file_of[n] == file}
    safetensors.numpy.save_file(held, path / file)
  (path / hf.INDEX).write_text(json.dumps({"weight_map": file_of}))
  return path


def like(c: decoder.Config, mesh=None, dtype="float32"):
  """Shapes and shardings of the parameters; without a mesh, all on one device."""
  mesh = mesh or sharding.make_mesh(devices=jax.devices()[:1])
  shapes = decoder.shapes(c)
  shardings = sharding.of_params(mesh, decoder.axes(c), shapes)
  return jax.tree.map(
    lambda x, placed: jax.ShapeDtypeStruct(x.shape, dtype, sharding=placed), shapes, shardings
  )


def expected(tensors, arrays, shapes):
  """The parameters as NumPy arrays, from each tensor by layout.to_ours."""
  params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
  for t in tensors:
    node = params
    for key in t.path[:-1]:
      node = node[key]
    ours = layout.to_ours(t, arrays[t.name].astype(np.float32))
    node[t.path[-1]][... if t.layer is None else t.layer] = ours
  return params


def assert_same(a, b) -> None:
  """Compares every bit of two trees."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
