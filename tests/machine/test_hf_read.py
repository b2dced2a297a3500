"""Weights of a Hugging Face directory are loaded completely, correctly sharded, and read once."""

import itertools
import json
import os
import pathlib
import re
import struct
import subprocess
import sys

import compilations
import hf_material as material
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax import errors
from distill_jax.machine import hf, hf_file, hf_read
from distill_jax.students import sharding

FAMILIES = {
  "llama": (material.LLAMA, material.config()),
  "untied": (material.LLAMA, material.config(tied=False)),
  "fused": (material.FUSED, material.unshared()),
}


def load(path, family, c, like):
  return hf_read.load(
    path, family.tensors(c), spare=family.spare(c), prefix=family.PREFIX, like=like
  )


def cube():
  return sharding.make_mesh(2, 2, 2)


@pytest.fixture(params=FAMILIES)
def known(request, tmp_path):
  """(directory, family, config, tensors by name)"""
  family, c = FAMILIES[request.param]
  arrays = material.random_tensors(family.tensors(c))
  return material.write_directory(tmp_path / "base", family, c, arrays), family, c, arrays


@pytest.mark.parametrize("kind", [np.float32, np.float16, jnp.bfloat16, np.float64])
def test_every_tensor_is_loaded_as_its_layout_says(kind, tmp_path):
  for name, (family, c) in FAMILIES.items():
    tensors = family.tensors(c)
    arrays = {n: x.astype(kind) for n, x in material.random_tensors(tensors).items()}
    path = material.write_directory(tmp_path / name, family, c, arrays)
    like = material.like(c)
    material.assert_same(load(path, family, c, like), material.expected(tensors, arrays, like))


def test_parameters_in_bfloat16_are_rounded_once(known):
  path, family, c, arrays = known
  got = load(path, family, c, material.like(c, cube(), "bfloat16"))
  expected = material.expected(family.tensors(c), arrays, material.like(c))
  material.assert_same(got, jax.tree.map(lambda x: x.astype(jnp.bfloat16), expected))


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 8, 1), (1, 1, 8), (8, 1, 1), (1, 4, 2)])
def test_a_mesh_changes_only_the_shardings(known, sizes):
  path, family, c, arrays = known
  like = material.like(c, sharding.make_mesh(*sizes))
  params = load(path, family, c, like)
  material.assert_same(params, material.expected(family.tensors(c), arrays, like))
  assert jax.tree.map(lambda x: x.sharding, params) == jax.tree.map(lambda x: x.sharding, like)


@pytest.mark.parametrize("size", [8, 100, 1000])
def test_the_size_of_blocks_changes_nothing(known, size, monkeypatch):
  monkeypatch.setattr(hf_file, "BLOCK", size)
  path, family, c, arrays = known
  like = material.like(c, cube())
  expected = material.expected(family.tensors(c), arrays, like)
  material.assert_same(load(path, family, c, like), expected)


def test_blocks_tile_any_box_once_and_stay_small(tmp_path, monkeypatch):
  rng = np.random.Generator(np.random.PCG64(1))
  array = rng.standard_normal((6, 5, 4, 3), np.float32)
  hf_file.write(tmp_path / "x", array.dtype, {"x": array.shape}, lambda _: array)
  entry = hf_file.entries(tmp_path / "x")["x"]
  for _ in range(50):
    monkeypatch.setattr(hf_file, "BLOCK", int(rng.integers(4, 400)))
    box = [sorted(rng.choice(size + 1, 2, replace=False)) for size in array.shape]
    seen = np.full(array.shape, np.nan, np.float32)
    for block_box, block in hf_file.blocks(entry, array.shape, box):
      at = tuple(slice(*side) for side in block_box)
      assert np.isnan(seen[at]).all() and block.nbytes <= hf_file.BLOCK
      seen[at] = block
    inside = tuple(slice(*side) for side in box)
    np.testing.assert_array_equal(seen[inside], array[inside])
    assert np.isfinite(seen).sum() == array[inside].size


def test_a_tensor_is_read_once_for_all_devices(tmp_path, monkeypatch):
  family, c = FAMILIES["untied"]
  arrays = material.random_tensors(family.tensors(c))
  path = material.write_directory(tmp_path / "base", family, c, arrays)
  read, real = [], hf_file._read
  monkeypatch.setattr(hf_file, "_read", lambda *where: read.append(where) or real(*where))
  load(path, family, c, material.like(c, cube()))
  assert sum(count for *_, count in read) == sum(x.nbytes for x in arrays.values())
  spans = sorted((start, start + count) for _, start, count in read)
  assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def test_more_layers_compile_nothing_more(tmp_path):
  counts = []
  for layers in (2, 5):
    c = material.config(layers)
    tensors = material.LLAMA.tensors(c)
    path = material.write_directory(
      tmp_path / str(layers), material.LLAMA, c, material.random_tensors(tensors)
    )
    like = material.like(c, cube())
    jax.clear_caches()
    with compilations.counted() as compiled:
      load(path, material.LLAMA, c, like)
    counts.append(len(compiled))
    with compilations.counted() as compiled:
      load(path, material.LLAMA, c, like)
    assert not compiled
  assert counts[0] == counts[1]


def test_one_file_and_several_give_the_same(known, tmp_path):
  path, family, c, arrays = known
  like = material.like(c)
  many = material.write_directory(tmp_path / "many", family, c, arrays, files=4)
  assert len(hf.describe(many)[2]) == 4
  material.assert_same(load(path, family, c, like), load(many, family, c, like))


@pytest.mark.parametrize("rename", [lambda n: n, lambda n: n.removeprefix("model.")])
def test_the_prefix_is_optional_and_spare_names_are_ignored(rename, tmp_path):
  family, c = FAMILIES["llama"]
  arrays = material.random_tensors(family.tensors(c))
  spare = {
    "model.layers.1.self_attn.rotary_emb.inv_freq": np.zeros(3, np.int64),
    "lm_head.weight": np.zeros((2, 2), np.float32),
  }
  stored = {rename(name): x for name, x in (arrays | spare).items()}
  path = material.write_directory(tmp_path / "base", family, c, stored)
  like = material.like(c)
  material.assert_same(
    load(path, family, c, like), material.expected(family.tensors(c), arrays, like)
  )


@pytest.mark.parametrize("name", ["model.layers.0.mask", "layers.0.mask"])
def test_a_spare_name_is_ignored_with_and_without_its_prefix(name, tmp_path):
  family, c = FAMILIES["llama"]
  path = material.write_directory(tmp_path / "base", family, c, spoilt(**{name: np.zeros(1)}))
  spare, like = r"model\.layers\.\d+\.mask", material.like(c)
  hf_read.load(path, family.tensors(c), spare=spare, prefix="model.", like=like)
  with pytest.raises(errors.UserError, match=rf"does not describe: {name}; "):
    hf_read.load(path, family.tensors(c), spare=spare + "s", prefix="model.", like=like)


def test_adopted_arrays_are_not_changed_when_they_are_donated(known):
  path, family, c, arrays = known
  params = load(path, family, c, material.like(c, cube()))
  more = jax.jit(lambda x: x + 1.0, donate_argnums=0)
  embed = more(params["embed"])
  for shard in embed.addressable_shards:
    expected = arrays["model.embed_tokens.weight"]
    np.testing.assert_array_equal(np.asarray(shard.data), expected[shard.index] + 1.0)


def spoilt(**changes):
  """The tensors of a Llama with two layers, some of them changed or (if None) left out."""
  arrays = material.random_tensors(material.LLAMA.tensors(FAMILIES["llama"][1]))
  return {n: x for n, x in (arrays | changes).items() if x is not None}


NORM, UP = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"
MISMATCHED = {
  "lacks": ({NORM: None}, f"lacks {NORM}; weights and config"),
  "lacks_many": (
    {n: None for n in spoilt() if "layers.1" in n},
    r"lacks (\S+, ){2}\S+ and 6 more; weights",
  ),
  "too_much": ({"model.layers.2.x": np.zeros(1)}, r"does not describe: model\.layers\.2\.x"),
  "transposed": ({UP: np.zeros((24, 40))}, r"up_proj\.weight \(\[24, 40\], expected \[40, 24\]\)"),
  "whole_numbers": ({NORM: np.zeros(24, np.int8)}, r"model\.norm\.weight \(I8, expected F64, F32"),
  "twice": ({"norm.weight": np.zeros(24)}, r"has two copies of \S*norm\.weight"),
  "all": (
    {NORM: None, "model.x": np.zeros(1), UP: np.zeros(3)},
    r"lacks model\.norm.*; has .* model\.x; has another shape .*up_proj",
  ),
}


@pytest.mark.parametrize("case", MISMATCHED)
@pytest.mark.parametrize("files", [1, 3])
def test_mismatched_weights_are_named_before_any_are_read(case, files, tmp_path, monkeypatch):
  changes, line = MISMATCHED[case]
  family, c = FAMILIES["llama"]
  path = material.write_directory(tmp_path / "base", family, c, spoilt(**changes), files)
  monkeypatch.setattr(hf_file, "_read", None)
  with pytest.raises(errors.UserError, match=line) as caught:
    load(path, family, c, material.like(c))
  where = path / hf.WEIGHTS if files == 1 else path
  assert str(caught.value).startswith(f"{where} ") and caught.value.code == errors.DATA
  assert len(str(caught.value)) < 600


def _header(text: bytes) -> bytes:
  return struct.pack("<Q", len(text)) + text


DAMAGES = {
  "empty": lambda raw: b"",
  "cut": lambda raw: raw[:-5],
  "cut_in_the_header": lambda raw: raw[:100],
  "longer": lambda raw: raw + b"\0",
  "not_json": lambda raw: raw[:9] + b"}" + raw[10:],
  "a_huge_header": lambda raw: b"\xff" * 8 + raw[8:],
  "a_deep_header": lambda raw: _header(b"[" * 100_000),
  "out_of_the_file": lambda raw: _header(
    json.dumps({NORM: {"dtype": "F32", "shape": [24], "data_offsets": [9000, 9096]}}).encode()
  ),
  "a_pointer_file": lambda raw: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_reported_in_one_line_with_its_name(damage, tmp_path):
  family, c = FAMILIES["llama"]
  path = material.write_directory(tmp_path / "base", family, c, spoilt())
  file = path / hf.WEIGHTS
  file.write_bytes(DAMAGES[damage](file.read_bytes()))
  is_pointer = damage == "a_pointer_file"
  fault = "is a Git LFS pointer, .* `git lfs pull` there" if is_pointer else "is damaged.* again"
  with pytest.raises(errors.UserError, match=f"^{re.escape(str(file))} {fault}$"):
    load(path, family, c, material.like(c))


def test_a_file_that_shrinks_while_it_is_read_is_rejected(tmp_path, monkeypatch):
  family, c = FAMILIES["llama"]
  path = material.write_directory(tmp_path / "base", family, c, spoilt())
  real = hf_file.entries

  def shrinking(file):
    entries = real(file)
    file.write_bytes(file.read_bytes()[:-8])
    return entries

  monkeypatch.setattr(hf_file, "entries", shrinking)
  with pytest.raises(errors.UserError, match="became shorter"):
    load(path, family, c, material.like(c))


def test_layouts_that_do_not_cover_an_array_raise_value_error(tmp_path):
  family, c = FAMILIES["llama"]
  path = material.write_directory(tmp_path / "base", family, c, spoilt())
  tensors = [t for t in family.tensors(c) if t.path[-1] != "up"]
  spare = r".*\.up_proj\.weight"
  with pytest.raises(ValueError, match=r"up.* layers \[\]"):
    hf_read.load(path, tensors, spare=spare, prefix="model.", like=material.like(c))
  short = [t for t in family.tensors(c) if t.path[-1] != "up" or t.layer]
  with pytest.raises(ValueError, match=r"layers \[1\]"):
    hf_read.load(path, short, spare=spare, prefix="model.", like=material.like(c))


@pytest.mark.heavy
@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 4, 1), (1, 1, 1)])
def test_the_host_needs_memory_for_one_tensor_besides_its_devices(sizes, tmp_path):
  script = pathlib.Path(__file__).with_name("hf_memory.py")
  command = [sys.executable, str(script), str(tmp_path), *map(str, sizes)]
  # Freed memory is returned to the system at once instead of being kept by the allocator.
  env = {**os.environ, "PYTHONPATH": str(script.parents[2]), "MALLOC_MMAP_THRESHOLD_": "1000000"}
  done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
  assert done.returncode == 0, done.stderr
  memory = json.loads(done.stdout)
  assert memory["read"] - memory["held"] <= 1.3 * memory["largest"], memory
  # A layer in our layout on its devices and on the host, and in theirs; never the entire model.
  limit = (sizes[0] + 2.3) * memory["largest"]
  assert memory["written"] <= limit < 0.7 * memory["model"], memory
