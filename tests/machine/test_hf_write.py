"""A student is exported completely or not at all, and loads again bit for bit."""

import json
import math
import resource
import types
import weakref

import hf_material as material
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from distill_jax import errors, students
from distill_jax.data import tokenizer
from distill_jax.machine import hf, hf_file, hf_read, hf_write
from distill_jax.students import decoder, families, sharding
from distill_jax.students.families import layout

SIZES = dict(
  vocab=72, width=24, layers=2, heads=4, kv_heads=4, head_width=6, mlp=40, rope_theta=0.0,
  norm_eps=0.0, tied=True, positions=48,
)  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory):
  path = tmp_path_factory.mktemp("words") / "tokenizer"
  tokenizer.train(["Question: 12 + 3\nReasoning:\n12 + 3 = 15.\nAnswer: 15"], vocab=300, path=path)
  return path


@pytest.fixture
def write(words, tmp_path):
  """Returns a function that exports to tmp_path/out by default."""

  def call(family, c, params, out=tmp_path / "out", **changed):
    usual = dict(
      fields=family.write(c), tensors=family.tensors(c), to_theirs=layout.to_theirs, params=params,
      tokenizer=words, bos=None, eos=1, pad=0, positions=64, card="# card\n",
    )  # fmt: skip
    hf_write.export(out, **(usual | changed))
    return out

  return call


def random(c, mesh=None):
  """Random parameters on a mesh."""
  model, rng = students.of(c), np.random.Generator(np.random.PCG64(5))
  shapes = model.shapes(c)
  mesh = mesh or sharding.make_mesh(devices=jax.devices()[:1])
  shardings = sharding.of_params(mesh, model.axes(c), shapes)

  def draw(x, placed):
    return jax.device_put(rng.standard_normal(x.shape, np.float32), placed)

  return jax.tree.map(draw, shapes, shardings)


def read(path, family, c, params):
  return hf_read.load(
    path, family.tensors(c), spare=family.spare(c), prefix=family.PREFIX, like=params
  )


def weights(path) -> dict:
  """Loads the tensors of a directory with safetensors."""
  out = {}
  for file in hf.describe(path)[2]:
    out |= safetensors.numpy.load_file(file)
  return out


@pytest.mark.parametrize("kind", [*families.BY_TYPE, "fused"])
@pytest.mark.parametrize("limit", [hf_write.MAX_FILE_BYTES, 10_000])
def test_an_export_loads_again_bit_for_bit_from_one_file_or_several(kind, limit, write):
  if kind == "fused":
    family, c = material.FUSED, material.unshared()
  else:
    family = families.BY_TYPE[kind]
    c = family.scratch(types.SimpleNamespace(**SIZES))
  params = random(c, sharding.make_mesh(2, 2, 2))
  out = write(family, c, params, max_file_bytes=limit)
  assert (len(hf.describe(out)[2]) == 1) == (limit == hf_write.MAX_FILE_BYTES)
  again = read(out, family, c, params)
  material.assert_same(again, params)
  assert jax.tree.map(lambda x: x.sharding, again) == jax.tree.map(lambda x: x.sharding, params)


def test_another_mesh_and_a_second_export_write_the_same_bytes(write, tmp_path):
  family, c = material.LLAMA, material.config(tied=False)
  params = random(c)
  first = write(family, c, params)
  spread = jax.tree.map(jax.device_put, params, jax.tree.map(
    lambda x: x.sharding, random(c, sharding.make_mesh(2, 2, 2))
  ))  # fmt: skip
  again = read(first, family, c, spread)
  second = write(family, c, again, tmp_path / "second")
  for name in (hf.WEIGHTS, hf.CONFIG, hf.GENERATION):
    assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize("limit", [1, 5_000, 12_000])
def test_files_stay_within_the_limit_and_the_index_is_complete(limit, write):
  family, c = material.LLAMA, material.config()
  out = write(family, c, random(c), max_file_bytes=limit)
  index = json.loads((out / hf.INDEX).read_text())
  files = sorted(f.name for f in out.glob("*.safetensors"))
  count = len(files)
  assert files == [f"model-{n + 1:05}-of-{count:05}.safetensors" for n in range(count)]
  found = {file: safetensors.numpy.load_file(out / file) for file in files}
  assert index["weight_map"] == {name: file for file in files for name in found[file]}
  assert {name for x in found.values() for name in x} == {t.name for t in family.tensors(c)}
  sizes = {file: sum(x.nbytes for x in found[file].values()) for file in files}
  assert index["metadata"]["total_size"] == sum(sizes.values())
  assert all(size <= limit or len(found[file]) == 1 for file, size in sizes.items())
  assert not (out / hf.WEIGHTS).exists()


def test_bfloat16_rounds_each_number_and_is_declared_in_both_fields(write):
  family, c = material.LLAMA, material.config()
  params = random(c)
  out = write(family, c, params, dtype="bfloat16")
  rounded = jax.tree.map(lambda x: np.asarray(x).astype(jnp.bfloat16), params)
  material.assert_same(
    read(out, family, c, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)), rounded
  )
  fields, *_ = hf.describe(out)
  assert fields["dtype"] == fields["torch_dtype"] == "bfloat16"
  assert {x.dtype for x in weights(out).values()} == {np.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("view", [np.transpose, lambda x: x[::2, ::-1], np.asfortranarray])
def test_arrays_are_written_in_index_order_not_in_memory_order(view, tmp_path):
  array = view(np.arange(48, dtype=np.float32).reshape(6, 8))
  assert not array.flags.c_contiguous
  hf_file.write(tmp_path / "x", array.dtype, {"x": array.shape}, lambda _: array)
  np.testing.assert_array_equal(safetensors.numpy.load_file(tmp_path / "x")["x"], array)


def test_the_directory_has_its_config_and_the_tokenizer_of_the_student(write, words):
  family, c = material.LLAMA, material.config()
  out = write(family, c, random(c))
  names = {hf.CONFIG, hf.GENERATION, hf.WEIGHTS, "README.md"}
  names |= {f.name for f in words.iterdir()}
  assert {f.name for f in out.iterdir()} == names
  fields, generation, _ = hf.describe(out)
  assert family.read(fields) == c
  ids = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
  assert fields == family.write(c) | ids | {
    "dtype": "float32", "torch_dtype": "float32", "max_position_embeddings": 64,
  }  # fmt: skip
  assert generation == {"do_sample": False} | ids
  assert (out / "README.md").read_text() == "# card\n"
  ours, theirs = tokenizer.Tokenizer(words), tokenizer.Tokenizer(out)
  assert ours.encode("12 + 3 = 15") == theirs.encode("12 + 3 = 15")
  assert {f.name for f in out.parent.iterdir()} == {"out"}


@pytest.mark.parametrize(("eos", "field"), [(7, 7), ([7], 7), ((7, 9), [7, 9])])
def test_one_eos_token_is_a_number_and_several_are_a_list(eos, field, write):
  c = material.config()
  fields, generation, _ = hf.describe(write(material.LLAMA, c, random(c), eos=eos))
  assert fields["eos_token_id"] == generation["eos_token_id"] == field


@pytest.mark.parametrize("kind", families.BY_TYPE)
def test_a_family_with_its_own_maximum_length_keeps_it(kind, write):
  family = families.BY_TYPE[kind]
  c = family.scratch(types.SimpleNamespace(**SIZES))
  fields, generation, _ = hf.describe(write(family, c, random(c)))
  lengths = [fields[name] for name in hf_write.POSITIONS if name in fields]
  assert lengths == [SIZES["positions"] if isinstance(c, decoder.Config) and c.learned else 64]
  assert ("decoder_start_token_id" in generation) == (kind == "t5")


def rejection(write, message: str, **changed):
  c = material.config()
  with pytest.raises(errors.UserError, match=message) as caught:
    write(material.LLAMA, c, random(c), **changed)
  return caught.value


def test_an_existing_directory_is_not_overwritten(write, tmp_path):
  (tmp_path / "out").mkdir()
  assert rejection(write, "already exists; remove it").code == errors.USAGE
  assert not list((tmp_path / "out").iterdir())


def test_invalid_arguments_are_rejected_and_nothing_is_left(write, tmp_path):
  rejection(write, "--dtype=float16 is not one of float32, bfloat16", dtype="float16")
  (tmp_path / "nothing").mkdir()
  rejection(write, "has no tokenizer", tokenizer=tmp_path / "nothing")
  assert {f.name for f in tmp_path.iterdir()} == {"nothing"}


def test_a_full_disk_is_reported_in_one_line_and_nothing_is_left(write, tmp_path):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # the weights are 50 kB
  try:
    error = rejection(write, r"out could not be written \(File too large\); nothing is left of it$")
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert error.code == errors.DATA and not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing_either(write, tmp_path, monkeypatch):
  def interrupted(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(hf_file, "_compare", interrupted)
  c = material.config()
  with pytest.raises(KeyboardInterrupt):
    write(material.LLAMA, c, random(c))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("position", [-1, -500])
def test_a_bit_that_does_not_read_back_is_detected(position, write, tmp_path, monkeypatch):
  real = hf_file._compare

  def flipping(file, *args):
    raw = bytearray(file.read_bytes())
    raw[position] ^= 1
    file.write_bytes(raw)
    real(file, *args)

  monkeypatch.setattr(hf_file, "_compare", flipping)
  rejection(write, r"tensor \S+ does not read back as written; check the disk")
  assert not list(tmp_path.iterdir())


def test_a_changed_header_is_detected(write, monkeypatch):
  real = hf_file._compare

  def renaming(file, *args):
    file.write_bytes(file.read_bytes().replace(b"model.norm.weight", b"model.norm.Weight"))
    real(file, *args)

  monkeypatch.setattr(hf_file, "_compare", renaming)
  rejection(write, "does not hold the tensors that were written")


def test_only_one_array_is_in_memory_at_a_time(tmp_path):
  alive = []

  def array(name):
    assert not [x for x in alive if x() is not None]
    out = np.full((3, 4), float(name), np.float32)
    alive.append(weakref.ref(out))
    return out

  hf_file.write(tmp_path / "x", np.dtype(np.float32), {str(n): (3, 4) for n in range(5)}, array)
  assert len(alive) == 5
  assert math.isclose(safetensors.numpy.load_file(tmp_path / "x")["4"].sum(), 48)
