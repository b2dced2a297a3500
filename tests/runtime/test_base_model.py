"""A loaded model is what its files hold, whatever its config.json says of them."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from distill_jax import errors
from distill_jax.machine import hf, hf_read
from distill_jax.runtime import base_model
from distill_jax.students import families
from tests.golden import cases
from tests.machine import hf_material

TIED = [
  case
  for case, fields in cases.CASES.items()
  if families.of(fields["model_type"]).ties(cases.read(fields))
]


def write(path, case, change=None):
  """Writes a random model of a golden case; returns its family, config and arrays."""
  fields = cases.CASES[case]
  family, config = families.of(fields["model_type"]), cases.read(fields)
  arrays = hf_material.random_tensors(family.tensors(config))
  arrays = change(family.ties(config), arrays) if change else arrays
  path.mkdir()
  (path / hf.CONFIG).write_text(json.dumps(family.write(config)))
  safetensors.numpy.save_file(arrays, path / hf.WEIGHTS)
  return family, config, arrays


def load(path, family, config):
  shapes = jax.eval_shape(lambda: families_init(config))
  mesh = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=mesh), shapes)
  return hf_read.load(
    path, family.tensors(config), spare=family.spare(config), prefix=family.PREFIX, like=like,
    ties=family.ties(config),
  )  # fmt: skip


def families_init(config):
  from distill_jax import students

  return students.of(config).init(config, jax.random.key(0))


def copied(path, to):
  to.mkdir()
  base_model._copy_config(path, to / "base")
  fields = json.loads((to / "base/config.json").read_text())
  return fields, families.of(fields["model_type"]).read(fields)


@pytest.mark.parametrize("case", TIED)
def test_a_tied_tensor_is_found_under_each_of_its_names(case, tmp_path):
  family, config, arrays = write(tmp_path / "usual", case)
  wanted = load(tmp_path / "usual", family, config)
  for n, name in enumerate(family.ties(config)[1:]):
    renamed = {name if key == family.ties(config)[0] else key: x for key, x in arrays.items()}
    write(tmp_path / f"{n}", case, lambda _, __, renamed=renamed: renamed)
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / f"{n}", family, config), wanted)
    copied(tmp_path / f"{n}", tmp_path / f"run{n}")


@pytest.mark.parametrize("case", TIED)
def test_a_second_copy_is_ignored_if_it_is_equal_and_used_if_it_differs(case, tmp_path):
  def second(factor, kind=np.float32):
    return lambda ties, arrays: arrays | {ties[-1]: (arrays[ties[0]] * factor).astype(kind)}

  def coarse(ties, arrays):
    rounded = arrays[ties[0]].astype(np.float16)
    return arrays | {ties[0]: rounded, ties[-1]: rounded.astype(np.float32)}

  for n, change in enumerate((second(1), coarse)):
    family, config, _ = write(tmp_path / f"equal{n}", case, change)
    assert copied(tmp_path / f"equal{n}", tmp_path / f"run{n}")[1] == config
  _, _, arrays = write(tmp_path / "other", case, second(1.5))
  if case.startswith("t5"):
    with pytest.raises(errors.UserError, match=r"^[^\n]* and [^\n]* differ[^\n]*save the model"):
      copied(tmp_path / "other", tmp_path / "run")
    return
  fields, untied = copied(tmp_path / "other", tmp_path / "run")
  assert not untied.tied and fields["tie_word_embeddings"] is False
  head = load(tmp_path / "other", family, untied)["head"]
  np.testing.assert_array_equal(np.asarray(head), arrays[family.ties(config)[-1]].T)


def test_what_a_directory_holds_instead_of_a_model_is_named(tmp_path):
  for name, said in (
    ("pytorch_model-00001-of-00002.bin", "AutoTokenizer"),
    ("model.bin", "a pickle"),
    ("adapter_config.json", "merge_and_unload"),
    ("small.Q4.gguf", "gguf_file='small.Q4.gguf'"),
  ):
    path = tmp_path / name.replace(".", "_")
    path.mkdir()
    (path / hf.CONFIG).write_text('{"model_type": "llama"}')
    (path / name).write_text("{}")
    with pytest.raises(errors.UserError, match=rf"^[^\n]*{said}[^\n]*$"):
      hf.describe(path)


@pytest.mark.parametrize(
  ("changes", "said"),
  [({"hidden_act": "swish9"}, "hidden_act"), ({"model_type": "mamba"}, "model_type is 'mamba'")],
)
def test_an_error_about_a_config_names_its_directory(changes, said, tmp_path):
  write(tmp_path / "model", "llama")
  config = tmp_path / "model" / hf.CONFIG
  config.write_text(json.dumps(json.loads(config.read_text()) | changes))
  with pytest.raises(errors.UserError, match=rf"^{tmp_path}/model/config\.json: {said}"):
    copied(tmp_path / "model", tmp_path / "run")
