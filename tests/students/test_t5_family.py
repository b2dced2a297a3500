"""T5's config.json and tensor names; tests/parity/test_parity_t5.py compares with transformers."""

import dataclasses

import jax
import pytest

from distill_jax import errors
from distill_jax.runtime import base_model
from distill_jax.students import t5
from distill_jax.students.families import t5 as family
from tests.students import oracle_t5

FIRST, SECOND = oracle_t5.FIRST, oracle_t5.SECOND


@pytest.mark.parametrize("config", [FIRST, SECOND], ids=["v1.0", "v1.1"])
def test_a_config_survives_its_config_json_and_every_parameter_has_a_tensor(config):
  config = dataclasses.replace(config, distance=20)
  assert family.read(family.write(config)) == config
  layers_of, names = {}, set()
  for tensor in family.tensors(config):
    names.add(tensor.name)
    layers_of.setdefault(tensor.path, []).append((tensor.layer, tensor.ours))
  shapes, _ = jax.tree.flatten_with_path(t5.shapes(config))
  assert len(names) == sum(map(len, layers_of.values())) and len(shapes) == len(layers_of)
  for path, array in shapes:
    layers = layers_of[tuple(key.key for key in path)]
    whole = (len(layers), *layers[0][1]) if layers[0][0] == 0 else layers[0][1]
    assert whole == array.shape and len({ours for _, ours in layers}) == 1


def test_a_config_json_of_any_transformers_identifies_the_t5():
  """t5-small from the hub, and Flan-T5 as transformers 4 and 5 write it."""
  small = dict(
    architectures=["T5ForConditionalGeneration"], d_ff=2048, d_kv=64, d_model=512,
    decoder_start_token_id=0, dropout_rate=0.1, eos_token_id=1, initializer_factor=1.0,
    is_encoder_decoder=True, layer_norm_epsilon=1e-06, model_type="t5", n_positions=512,
    num_heads=8, num_layers=6, output_past=True, pad_token_id=0,
    relative_attention_num_buckets=32, task_specific_params={}, vocab_size=32128,
  )  # fmt: skip
  first = family.read(small)
  assert (first.tied, first.gated, first.activation) == (True, False, "relu")
  assert (first.decoder_layers, first.distance, first.start) == (6, 128, 0)
  flan = small | dict(feed_forward_proj="gated-gelu", num_decoder_layers=8)
  fourth = family.read(flan | dict(tie_word_embeddings=False, dense_act_fn="gelu_new"))
  fifth = family.read(flan | dict(tie_word_embeddings=True, scale_decoder_outputs=False))
  assert fourth == fifth and (fifth.tied, fifth.gated, fifth.decoder_layers) == (False, True, 8)
  assert fifth.activation == "gelu_tanh"


@pytest.mark.parametrize(
  "field, value",
  [
    ("feed_forward_proj", "gated-silu"),
    ("feed_forward_proj", ""),
    ("is_encoder_decoder", 1),
    ("is_encoder_decoder", False),
    ("relative_attention_max_distance", 4),
    ("scale_decoder_outputs", True),
    ("decoder_start_token_id", None),
    ("num_heads", 0),
  ],
)
def test_what_a_student_does_not_compute_is_rejected_by_its_name(field, value):
  with pytest.raises(errors.UserError, match=f"config.json: {field} is"):
    family.read(family.write(SECOND) | {field: value})


def test_a_t5_from_scratch_has_the_given_sizes():
  sizes = base_model.ScratchSizes(
    vocab=40, width=16, layers=2, heads=2, kv_heads=2, head_width=8, mlp=24, tied=False,
    positions=64,
  )  # fmt: skip
  config = family.scratch(sizes)
  assert (config.layers, config.decoder_layers, config.norm_eps, config.gated) == (2, 2, 1e-6, True)
  assert "head" in t5.shapes(config)
  for name, value in (("kv_heads", 1), ("rope_theta", 1e4)):
    with pytest.raises(errors.UserError, match=f"config.student.scratch.{name} is"):
      family.scratch(dataclasses.replace(sizes, **{name: value}))
