"""A student leaves as a Hugging Face directory, whole or not at all, and comes back bit for bit."""

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
  """(family, config, params) to tmp_path/out, or what is wished instead."""

  def call(family, c, params, out=tmp_path / "out", **changed):
    usual = dict(
      fields=family.write(c), tensors=family.tensors(c), to_theirs=layout.to_theirs, params=params,
      tokenizer=words, bos=None, end=1, pad=0, positions=64, card="# card\n",
    )  # fmt: skip
    hf_write.export(out, **(usual | changed))
    return out

  return call


def random(c, mesh=None):
  """Parameters of which no two are the same, on a mesh."""
  model, rng = students.of(c), np.random.Generator(np.random.PCG64(5))
  shapes = model.shapes(c)
  mesh = mesh or sharding.make_mesh(devices=jax.devices()[:1])
  places = sharding.of_params(mesh, model.axes(c), shapes)
  put = lambda x, place: jax.device_put(rng.standard_normal(x.shape, np.float32), place)
  return jax.tree.map(put, shapes, places)


def read(folder, family, c, params):
  return hf_read.load(
    folder, family.tensors(c), spare=family.spare(c), prefix=family.PREFIX, like=params
  )


def weights(folder) -> dict:
  """What safetensors itself finds in a directory."""
  out = {}
  for file in hf.describe(folder)[2]:
    out |= safetensors.numpy.load_file(file)
  return out


@pytest.mark.parametrize("kind", [*families.BY_TYPE, "fused"])
@pytest.mark.parametrize("limit", [hf_write.LIMIT, 10_000])
def test_what_left_comes_back_bit_for_bit_in_one_file_or_many(kind, limit, write):
  if kind == "fused":
    family, c = material.FUSED, material.whole()
  else:
    family = families.BY_TYPE[kind]
    c = family.scratch(types.SimpleNamespace(**SIZES))
  params = random(c, sharding.make_mesh(2, 2, 2))
  out = write(family, c, params, limit=limit)
  assert (len(hf.describe(out)[2]) == 1) == (limit == hf_write.LIMIT)
  again = read(out, family, c, params)
  material.same(again, params)
  assert jax.tree.map(lambda x: x.sharding, again) == jax.tree.map(lambda x: x.sharding, params)


def test_meshes_and_a_second_time_write_the_same_bytes(write, tmp_path):
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
def test_files_stay_within_their_limit_and_the_index_tells_all(limit, write):
  family, c = material.LLAMA, material.config()
  out = write(family, c, random(c), limit=limit)
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


def test_bfloat16_is_each_number_rounded_and_said_in_both_spellings(write):
  family, c = material.LLAMA, material.config()
  params = random(c)
  out = write(family, c, params, dtype="bfloat16")
  rounded = jax.tree.map(lambda x: np.asarray(x).astype(jnp.bfloat16), params)
  material.same(
    read(out, family, c, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)), rounded
  )
  fields, *_ = hf.describe(out)
  assert fields["dtype"] == fields["torch_dtype"] == "bfloat16"
  assert {x.dtype for x in weights(out).values()} == {np.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("turn", [np.transpose, lambda x: x[::2, ::-1], np.asfortranarray])
def test_arrays_are_written_as_they_count_not_as_they_lie_in_memory(turn, tmp_path):
  array = turn(np.arange(48, dtype=np.float32).reshape(6, 8))
  assert not array.flags.c_contiguous
  hf_file.write(tmp_path / "x", array.dtype, {"x": array.shape}, lambda _: array)
  np.testing.assert_array_equal(safetensors.numpy.load_file(tmp_path / "x")["x"], array)


def test_the_directory_says_who_it_is_and_its_tokenizer_is_the_students(write, words):
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


@pytest.mark.parametrize(("end", "told"), [(7, 7), ([7], 7), ((7, 9), [7, 9])])
def test_one_end_is_a_number_and_several_are_a_list(end, told, write):
  c = material.config()
  fields, generation, _ = hf.describe(write(material.LLAMA, c, random(c), end=end))
  assert fields["eos_token_id"] == generation["eos_token_id"] == told


@pytest.mark.parametrize("kind", families.BY_TYPE)
def test_a_family_that_says_how_long_its_rows_are_is_not_corrected(kind, write):
  family = families.BY_TYPE[kind]
  c = family.scratch(types.SimpleNamespace(**SIZES))
  fields, generation, _ = hf.describe(write(family, c, random(c)))
  told = [fields[name] for name in hf_write.POSITIONS if name in fields]
  assert told == [SIZES["positions"] if isinstance(c, decoder.Config) and c.learned else 64]
  assert ("decoder_start_token_id" in generation) == (kind == "t5")


def refused(write, line: str, **changed):
  c = material.config()
  with pytest.raises(errors.UserError, match=line) as refusal:
    write(material.LLAMA, c, random(c), **changed)
  return refusal.value


def test_what_is_there_already_is_not_written_over(write, tmp_path):
  (tmp_path / "out").mkdir()
  assert refused(write, "is there already: remove it").code == errors.USAGE
  assert not list((tmp_path / "out").iterdir())


def test_what_makes_no_directory_is_refused_and_leaves_nothing(write, tmp_path):
  refused(write, "--dtype=float16 is none of float32, bfloat16", dtype="float16")
  (tmp_path / "nothing").mkdir()
  refused(write, "holds no tokenizer", tokenizer=tmp_path / "nothing")
  assert {f.name for f in tmp_path.iterdir()} == {"nothing"}


def test_a_full_disk_is_one_line_and_leaves_nothing(write, tmp_path):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # the weights are 50 kB
  try:
    found = refused(write, r"out could not be written \(File too large\); nothing is there$")
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert found.code == errors.DATA and not list(tmp_path.iterdir())


def test_what_interrupts_leaves_nothing_either(write, tmp_path, monkeypatch):
  def interrupted(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(hf_file, "_compare", interrupted)
  c = material.config()
  with pytest.raises(KeyboardInterrupt):
    write(material.LLAMA, c, random(c))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", [-1, -500])
def test_a_bit_that_does_not_read_back_is_refused(place, write, tmp_path, monkeypatch):
  real = hf_file._compare

  def flipping(file, *args):
    raw = bytearray(file.read_bytes())
    raw[place] ^= 1
    file.write_bytes(raw)
    real(file, *args)

  monkeypatch.setattr(hf_file, "_compare", flipping)
  refused(write, r"tensor \S+ did not read back as it was written: is the disk sound")
  assert not list(tmp_path.iterdir())


def test_another_header_than_was_written_is_refused(write, monkeypatch):
  real = hf_file._compare

  def renaming(file, *args):
    file.write_bytes(file.read_bytes().replace(b"model.norm.weight", b"model.norm.Weight"))
    real(file, *args)

  monkeypatch.setattr(hf_file, "_compare", renaming)
  refused(write, "does not hold the tensors that were written")


def test_one_array_at_a_time_is_asked_for(tmp_path):
  alive = []

  def array(name):
    assert not [x for x in alive if x() is not None]
    out = np.full((3, 4), float(name), np.float32)
    alive.append(weakref.ref(out))
    return out

  hf_file.write(tmp_path / "x", np.dtype(np.float32), {str(n): (3, 4) for n in range(5)}, array)
  assert len(alive) == 5
  assert math.isclose(safetensors.numpy.load_file(tmp_path / "x")["4"].sum(), 48)
