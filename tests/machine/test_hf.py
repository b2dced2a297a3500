"""A Hugging Face directory: where it is found, what it describes, and what is rejected."""

import json
import os
import pathlib
import re

import hf_material as material
import huggingface_hub
import jax
import numpy as np
import pytest
import safetensors.numpy

from distill_jax import errors
from distill_jax.machine import hf, hf_read
from distill_jax.students import families, sharding

REAL = pathlib.Path(__file__).parents[3] / "shared" / "models"
AVAILABLE = [path for path in (REAL / "stories260k-hf",) if path.is_dir()]


@pytest.fixture
def base(tmp_path):
  c = material.config()
  arrays = material.random_tensors(material.LLAMA.tensors(c))
  return material.write_directory(tmp_path / "base", material.LLAMA, c, arrays)


@pytest.fixture
def many(tmp_path):
  c = material.config()
  arrays = material.random_tensors(material.LLAMA.tensors(c))
  return material.write_directory(tmp_path / "many", material.LLAMA, c, arrays, files=3)


def test_a_directory_is_described_by_its_files(base, many):
  fields, generation, files = hf.describe(base)
  assert fields["model_type"] == "llama" and generation == {} and files == [base / hf.WEIGHTS]
  (base / hf.GENERATION).write_text('{"eos_token_id": [1, 2]}')
  assert hf.describe(base)[1] == {"eos_token_id": [1, 2]}
  assert [f.name for f in hf.describe(many)[2]] == [
    f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)
  ]


def weight_map(value):
  return lambda f: (f / hf.INDEX).write_text(json.dumps({"weight_map": value}))


ONE = {
  "no_config": (lambda f: (f / hf.CONFIG).unlink(), f"{hf.CONFIG} cannot be read .No such file"),
  "config_not_json": (
    lambda f: (f / hf.CONFIG).write_text("{'a'"), "config.json is not JSON; download"
  ),
  "config_not_utf8": (lambda f: (f / hf.CONFIG).write_bytes(b'{"a": "\xff"}'), "is not JSON"),
  "config_a_list": (
    lambda f: (f / hf.CONFIG).write_text("[1]"), "config.json is not a JSON object"
  ),
  "config_deep": (lambda f: (f / hf.CONFIG).write_text("[" * 100_000), "is not JSON"),
  "generation_not_json": (
    lambda f: (f / hf.GENERATION).write_text("{"), "generation_config.json is not JSON"
  ),
  "no_weights": (lambda f: (f / hf.WEIGHTS).unlink(), f"has no {hf.WEIGHTS}: convert it"),
  "pickle": (
    lambda f: (f / hf.WEIGHTS).rename(f / "pytorch_model.bin"),
    "only pytorch_model.bin, a pickle, which can run code; convert it .*save_pretrained",
  ),
}  # fmt: skip
MANY = {
  "shard_missing": (
    lambda f: (f / "model-00002-of-00003.safetensors").unlink(),
    f"lacks model-00002-of-00003.safetensors, listed in {hf.INDEX}; download it again",
  ),
  "index_not_json": (lambda f: (f / hf.INDEX).write_text("x"), "index.json is not JSON"),
  "no_map": (lambda f: (f / hf.INDEX).write_text("{}"), "has no weight_map"),
  "empty_map": (weight_map({}), "has no weight_map"),
  "map_of_numbers": (weight_map({"a": 3}), "has no weight_map"),
  "map_to_elsewhere": (weight_map({"a": "../base/model.safetensors"}), "has no weight_map"),
  "map_to_a_directory": (weight_map({"a": ".."}), "has no weight_map"),
}


@pytest.mark.parametrize("case", ONE | MANY)
def test_every_damage_is_reported_in_one_line_with_the_file_and_the_remedy(case, request):
  damage, line = (ONE | MANY)[case]
  path = request.getfixturevalue("base" if case in ONE else "many")
  damage(path)
  with pytest.raises(errors.UserError, match=line) as caught:
    hf.describe(path)
  assert str(caught.value).startswith(str(path)) and caught.value.code == errors.DATA


def test_a_digest_changes_with_the_weights_and_the_config_only(base, many):
  for path in (base, many):
    first = hf.digest(path)
    (path / "README.md").write_text("x")
    assert hf.digest(path) == first and re.fullmatch("[0-9a-f]{64}", first)
    for file in (path / hf.CONFIG, hf.describe(path)[2][-1]):
      was = file.read_bytes()
      file.write_bytes(was[:-1] + bytes([was[-1] ^ 1]) if file.suffix != ".json" else was + b" ")
      assert hf.digest(path) != first
      file.write_bytes(was)
    assert hf.digest(path) == first


def test_a_directory_is_used_as_it_is_without_a_download(base, monkeypatch):
  monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
  assert hf.fetch(str(base)) == base


def test_only_files_that_are_read_are_downloaded(monkeypatch, tmp_path):
  requested = {}

  def download(name, **options):
    requested[name] = options
    return str(tmp_path)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
  assert hf.fetch("someone/small") == tmp_path
  assert list(requested) == ["someone/small"] and list(requested["someone/small"]) == [
    "allow_patterns"
  ]
  wanted = [
    *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"),
    *("model-00001-of-00002.safetensors", "model.safetensors.index.json", "spiece.model"),
  ]
  unwanted = [
    *("pytorch_model.bin", "modeling_x.py", "model.pt", "tf_model.h5", "consolidated.safetensors"),
    *("onnx/model.onnx", "flax_model.msgpack", "training_args.bin", "adapter_model.safetensors"),
  ]
  patterns = requested["someone/small"]["allow_patterns"]
  keep = huggingface_hub.utils.filter_repo_objects
  assert list(keep([*wanted, *unwanted], allow_patterns=patterns)) == wanted


def test_a_model_that_neither_the_disk_nor_the_hub_has_is_rejected_by_name(monkeypatch):
  def offline(*_, **__):
    raise ConnectionError("no network\nat all")

  monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
  line = r"^someone/small is not a directory, and its download from the hub failed \(no network\); "
  with pytest.raises(errors.UserError, match=line + ".*give the directory"):
    hf.fetch("someone/small")
  monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
  for path in ("./small", "/small", "~/small", "models/llama/small"):
    with pytest.raises(errors.UserError, match="is not a directory; give one"):
      hf.fetch(path)


def test_an_invalid_hub_name_is_rejected_in_one_line():
  with pytest.raises(errors.UserError, match=r"^no such name! is not a directory"):
    hf.fetch("no such name!")


@pytest.mark.parametrize("path", AVAILABLE, ids=lambda f: f.name)
def test_a_published_model_is_loaded_as_its_file_stores_it(path):
  fields, _, (file,) = hf.describe(path)
  family = families.of(fields["model_type"])
  c = family.read(fields)
  like = material.like(c, sharding.make_mesh(2, 2, 2))
  tensors = family.tensors(c)
  params = hf_read.load(path, tensors, spare=family.spare(c), prefix=family.PREFIX, like=like)
  arrays = safetensors.numpy.load_file(file)
  names = {t.name for t in tensors}
  assert names <= arrays.keys() and all(
    re.fullmatch(family.spare(c), n) for n in arrays.keys() - names
  )
  material.assert_same(params, material.expected(tensors, arrays, like))
  assert all(
    np.isfinite(x).all() and np.ptp(x) > 0 for x in jax.tree.leaves(jax.device_get(params))
  )


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-that-name/model"])
def test_an_invalid_path_is_rejected_in_one_line(name):
  with pytest.raises(errors.UserError, match="is not a valid path"):
    hf.fetch(name)


def stored_tensors(path, c):
  family = material.LLAMA
  return hf_read.match(path, family.tensors(c), spare=family.spare(c), prefix=family.PREFIX)


@pytest.mark.parametrize("kind", [np.float32, np.float16, jax.numpy.bfloat16, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_found_while_the_digest_is_computed(value, kind, tmp_path):
  c = material.config()
  arrays = material.random_tensors(material.LLAMA.tensors(c))
  arrays = {name: x.astype(kind) for name, x in arrays.items()}
  good = material.write_directory(tmp_path / "good", material.LLAMA, c, arrays, files=2)
  assert hf.digest(good, stored_tensors(good, c)) == hf.digest(good)
  name = sorted(arrays)[-1]
  arrays[name].reshape(-1)[-1] = value
  bad = material.write_directory(tmp_path / "bad", material.LLAMA, c, arrays, files=2)
  with pytest.raises(errors.UserError, match=f"tensor {re.escape(name)} has values") as caught:
    hf.digest(bad, stored_tensors(bad, c))
  assert caught.value.code == errors.DATA
  hf.digest(bad)  # a tensor that no student reads may hold anything


@pytest.mark.parametrize("value", [2.0**128 - 2.0**103, -1e39, 1e308])
def test_a_number_beyond_float32_is_not_finite(value, tmp_path):
  """A float64 that rounds to the largest float32 is."""
  c = material.config()
  arrays = material.random_tensors(material.LLAMA.tensors(c))
  arrays = {name: x.astype(np.float64) for name, x in arrays.items()}
  name = sorted(arrays)[-1]
  arrays[name].reshape(-1)[:2] = np.nextafter(2.0**128 - 2.0**103, 0) * np.array([1, -1])
  good = material.write_directory(tmp_path / "good", material.LLAMA, c, arrays)
  hf.digest(good, stored_tensors(good, c))
  arrays[name].reshape(-1)[0] = value
  bad = material.write_directory(tmp_path / "bad", material.LLAMA, c, arrays)
  with pytest.raises(errors.UserError, match=f"tensor {re.escape(name)} has values"):
    hf.digest(bad, stored_tensors(bad, c))


def test_the_largest_finite_numbers_and_small_ones_are_finite(tmp_path):
  c = material.config()
  arrays = material.random_tensors(material.LLAMA.tensors(c))
  first = next(iter(arrays.values())).reshape(-1)
  first[:4] = np.finfo(np.float32).max, np.finfo(np.float32).min, 1e-45, -0.0
  path = material.write_directory(tmp_path / "m", material.LLAMA, c, arrays)
  hf.digest(path, stored_tensors(path, c))


@pytest.mark.parametrize(
  ("field", "value"),
  [("num_hidden_layers", 1_000_000), ("vocab_size", 10**9), ("hidden_size", 10**4_000)],
)
def test_sizes_beyond_the_weight_files_are_rejected_before_anything_is_built(base, field, value):
  hf.check_sizes(base)
  fields = json.loads((base / hf.CONFIG).read_text())
  (base / hf.CONFIG).write_text(json.dumps(fields | {field: value}))
  with pytest.raises(errors.UserError, match=f"{field} is .*but the weight files hold only"):
    hf.check_sizes(base)


@pytest.mark.parametrize("name", [hf.CONFIG, hf.GENERATION, hf.WEIGHTS, hf.INDEX, "shard"])
def test_a_link_to_a_missing_file_is_named_with_what_it_links_to(name, base, many):
  """A snapshot of the hub whose blobs are gone."""
  path = many if name in (hf.INDEX, "shard") else base
  file = path / name if name != "shard" else hf.describe(many)[2][1]
  file.unlink(missing_ok=True)
  file.symlink_to("../blobs/0a1b")
  line = (
    rf"^{re.escape(str(file))} cannot be read \(is a link to '\.\./blobs/0a1b', which is missing\)"
  )
  with pytest.raises(errors.UserError, match=line) as caught:
    hf.describe(path)
  assert caught.value.code == errors.DATA


@pytest.mark.parametrize("name", [hf.CONFIG, hf.GENERATION, hf.WEIGHTS])
def test_a_fifo_in_a_directory_is_not_read(base, name):
  (base / name).unlink(missing_ok=True)
  os.mkfifo(base / name)
  with pytest.raises(errors.UserError, match="a FIFO, not a regular file"):
    hf.check_sizes(base)
