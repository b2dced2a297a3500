"""A student leaves as a Hugging Face directory and is the same student there."""

import json
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy

from distill_jax import errors
from distill_jax.data import tokenizer
from distill_jax.machine import hf
from distill_jax.students import decoder

SHAPE = dict(
  vocab=300, width=24, layers=2, heads=4, kv_heads=2, head_width=6, mlp=40, rope_theta=5000.0,
  norm_eps=1e-5, dtype="float32",
)  # fmt: skip


def student(tied: bool):
  config = decoder.Config(**SHAPE, tied=tied)
  return config, decoder.init(config, jax.random.key(3))


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> pathlib.Path:
  path = tmp_path_factory.mktemp("words") / "tokenizer"
  tokenizer.train(["Question: 12 + 3\nReasoning:\n12 + 3 = 15.\nAnswer: 15"], vocab=300, path=path)
  return path


def exported(out, words, tied=True):
  config, params = student(tied)
  hf.export(config, params, tokenizer=words, end=1, pad=0, positions=64, card="# card\n", out=out)
  return config, params, safetensors.numpy.load_file(out / hf.WEIGHTS)


@pytest.mark.parametrize("tied", [True, False])
def test_every_tensor_is_llamas_in_name_shape_and_place(tied, words, tmp_path):
  config, params, found = exported(tmp_path / "out", words, tied)
  d, k = config.width, config.head_width
  assert found["model.layers.1.self_attn.q_proj.weight"].shape == (4 * k, d)
  assert found["model.layers.1.self_attn.k_proj.weight"].shape == (2 * k, d)
  assert len(found) == 2 + 9 * config.layers + (not tied)
  q = np.asarray(params["blocks"]["q"][1])  # [D, H, K]
  np.testing.assert_array_equal(
    found["model.layers.1.self_attn.q_proj.weight"][2 * k + 1], q[:, 2, 1]
  )
  o = np.asarray(params["blocks"]["o"][0])  # [H, K, D]
  np.testing.assert_array_equal(found["model.layers.0.self_attn.o_proj.weight"][:, 3 * k], o[3, 0])
  up = np.asarray(params["blocks"]["up"][0])
  np.testing.assert_array_equal(found["model.layers.0.mlp.up_proj.weight"], up.T)
  assert ("lm_head.weight" in found) is not tied


def test_the_directory_is_whole_and_its_tokenizer_the_students(words, tmp_path):
  exported(tmp_path / "out", words)
  names = {f.name for f in (tmp_path / "out").iterdir()}
  assert {"config.json", "generation_config.json", "model.safetensors", "README.md"} <= names
  config = json.loads((tmp_path / "out" / "config.json").read_text())
  assert config["model_type"] == "llama" and config["head_dim"] == 6
  assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 5000.0
  ours, theirs = tokenizer.Tokenizer(words), tokenizer.Tokenizer(tmp_path / "out")
  assert ours.encode("12 + 3 = 15") == theirs.encode("12 + 3 = 15")
  assert not (tmp_path / "out.part").exists()


def test_what_is_there_already_is_not_written_over(words, tmp_path):
  exported(tmp_path / "out", words)
  with pytest.raises(errors.Refusal, match="is there already"):
    exported(tmp_path / "out", words)


def test_a_tensor_that_reads_back_differently_is_refused(words, tmp_path, monkeypatch):
  def save(arrays, path, metadata):
    spoilt = {name: x + (name == "model.norm.weight") for name, x in arrays.items()}
    real(spoilt, path, metadata)

  real = safetensors.numpy.save_file
  monkeypatch.setattr(safetensors.numpy, "save_file", save)
  with pytest.raises(errors.Refusal, match=r"model\.norm\.weight"):
    exported(tmp_path / "out", words)
  assert not (tmp_path / "out").exists()
