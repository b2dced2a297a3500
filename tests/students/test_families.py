"""Families: reading and writing config.json, names of tensors, students from scratch."""

import functools
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax import errors, students
from distill_jax.runtime import base_model
from distill_jax.students import decoder, families, token_rows
from tests import compilations
from tests.golden import cases
from tests.students import reading

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)

every_case = pytest.mark.parametrize("case", cases.CASES)
DECODERS = [name for name in families.BY_TYPE if name != "t5"]
LLAMA3 = {
  "factor": 32.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 8192,
}
FULL, SLIDING = "full_attention", "sliding_attention"


def changed(case: str, **fields) -> dict:
  return cases.CASES[case] | fields


@every_case
def test_a_written_config_reads_back_as_the_same_config(case):
  config = cases.read(cases.CASES[case])
  assert cases.read(families.of(cases.CASES[case]["model_type"]).write(config)) == config


@pytest.mark.parametrize("case", ["gpt2", "gptj", "opt", "llama", "qwen2", "gemma3_text"])
def test_a_null_field_equals_a_missing_one(case):
  names = ("activation_function", "hidden_act", "hidden_activation", "n_inner", "rope_scaling")
  names += ("tie_word_embeddings", "layer_types", "rope_parameters", "quantization_config")
  fields = {name: None for name in names if name not in cases.CASES[case]}
  assert cases.read(cases.CASES[case] | fields) == cases.read(cases.CASES[case])


def test_a_missing_window_is_the_default_and_a_null_is_none():
  fields = dict(cases.CASES["mistral"])
  assert cases.read(fields | {"sliding_window": None}).local == ()
  del fields["sliding_window"]
  assert cases.read(fields).window == 4096 and all(cases.read(fields).local)


@pytest.mark.parametrize(
  ("case", "four", "five"),
  [
    (
      "llama",
      dict(rope_theta=5e5),
      dict(rope_parameters=dict(rope_type="default", rope_theta=5e5)),
    ),
    (
      "llama",
      dict(rope_theta=5e5, rope_scaling=dict(type="linear", factor=2)),
      dict(rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=5e5)),
    ),
    (
      "llama",
      dict(rope_theta=5e5, rope_scaling=dict(rope_type="llama3", **LLAMA3), torch_dtype="bfloat16"),
      dict(rope_parameters=dict(rope_type="llama3", rope_theta=5e5, **LLAMA3), dtype="bfloat16"),
    ),
    (
      "qwen2",
      dict(use_sliding_window=True, sliding_window=9, max_window_layers=1),
      dict(use_sliding_window=True, sliding_window=9, layer_types=[FULL, SLIDING]),
    ),
    ("qwen3", dict(use_sliding_window=True, sliding_window=None), dict(layer_types=[FULL, FULL])),
    ("qwen3", dict(use_sliding_window=False), dict(layer_types=[FULL, FULL])),
    ("gemma2", dict(), dict(layer_types=[SLIDING, FULL])),
    (
      "gemma3_text_pattern",
      dict(
        rope_theta=1e6, rope_local_base_freq=1e4, rope_scaling=dict(rope_type="linear", factor=8.0)
      ),
      dict(
        sliding_window_pattern=None,
        layer_types=[SLIDING, SLIDING, FULL, SLIDING],
        rope_parameters={
          FULL: dict(rope_type="linear", factor=8.0, rope_theta=1e6),
          SLIDING: dict(rope_type="default", rope_theta=1e4),
        },
      ),
    ),
  ],
)
def test_transformers_4_and_5_give_the_same_config(case, four, five):
  assert cases.read(changed(case, **four)) == cases.read(changed(case, **five))


@pytest.mark.parametrize(
  ("case", "fields", "name"),
  [
    ("gpt2", dict(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx"),
    ("gpt2", dict(add_cross_attention=True), "add_cross_attention"),
    ("gpt2", dict(activation_function="mish"), "activation_function"),
    ("gpt2", dict(n_head=5), "n_head"),
    ("gptj", dict(rotary_dim=None), "rotary_dim"),
    ("gptj", dict(rotary_dim=7), "rotary_dim"),
    ("gpt_neo", dict(attention_types=[[["global", "local"], 2]]), "attention_types"),
    ("gpt_neo", dict(attention_types=[[["global", "far"], 1]]), "attention_types"),
    ("gpt_neo", dict(attention_types=7), "attention_types"),
    ("opt", dict(layer_norm_elementwise_affine=False), "layer_norm_elementwise_affine"),
    ("opt", dict(do_layer_norm_before="no"), "do_layer_norm_before"),
    ("llama", dict(rope_scaling=dict(rope_type="yarn", factor=2.0)), "rope_type"),
    ("llama", dict(rope_scaling=dict(type="dynamic", factor=2.0)), "rope_type"),
    ("llama", dict(rope_scaling=dict(type="linear")), "factor"),
    ("llama", dict(rope_parameters=dict(rope_theta=-1)), "rope_theta"),
    ("llama", dict(rope_parameters={FULL: dict(rope_theta=1e4)}), "rope_parameters.full_attention"),
    ("llama", dict(rope_scaling="linear"), "rope_scaling"),
    ("llama", dict(head_dim=7), "head_dim"),
    ("llama", dict(head_dim=None, num_attention_heads=10), "num_attention_heads"),
    ("llama", dict(partial_rotary_factor=0.5), "partial_rotary_factor"),
    ("llama", dict(num_key_value_heads=3), "num_key_value_heads"),
    ("llama", dict(quantization_config=dict(bits=4)), "quantization_config"),
    ("llama", dict(rms_norm_eps=10**400), "rms_norm_eps"),
    ("llama", dict(hidden_size=None), "hidden_size"),
    ("llama", dict(hidden_size="24"), "hidden_size"),
    ("llama", dict(num_hidden_layers=0), "num_hidden_layers"),
    ("mistral", dict(layer_types=[FULL, SLIDING]), "layer_types"),
    ("qwen2", dict(layer_types=[FULL, SLIDING]), "sliding_window"),
    ("qwen2", dict(layer_types=[FULL]), "layer_types"),
    ("qwen3", dict(layer_types=[FULL, "chunked_attention"]), "layer_types"),
    ("qwen3", dict(num_experts=8), "num_experts"),
    ("gemma2", dict(sliding_window=None), "sliding_window"),
    ("gemma2", dict(query_pre_attn_scalar=14.5), "query_pre_attn_scalar"),
    ("gemma3_text", dict(use_bidirectional_attention=True), "use_bidirectional_attention"),
    ("gemma3_text", dict(attn_logit_softcapping=50.0), "attn_logit_softcapping"),
  ],
)
def test_what_a_student_does_not_compute_is_rejected_by_name(case, fields, name):
  with pytest.raises(errors.UserError, match=rf"^config\.json: {re.escape(name)} is ") as rejected:
    cases.read(changed(case, **fields))
  assert rejected.value.code == errors.DATA


@pytest.mark.parametrize(
  ("case", "name", "nested"),
  [
    ("llama", "hidden_act", {}),
    ("llama", "rope_scaling", {}),
    ("llama", "partial_rotary_factor", {}),
    ("llama", "rope_type", dict(type="linear", factor=2.0)),
    ("llama", "original_max_position_embeddings", dict(rope_type="llama3") | LLAMA3),
    ("gpt2", "activation_function", {}),
    ("gpt2", "scale_attn_by_inverse_layer_idx", {}),
    ("gpt_neo", "attention_types", {}),
    ("opt", "_remove_final_layer_norm", {}),
  ],
)
@pytest.mark.parametrize("value", ["", [], 0])
def test_an_empty_or_zero_field_is_not_a_missing_one(case, name, nested, value):
  fields = {"rope_scaling": nested | {name: value}} if nested else {name: value}
  fields |= {"max_position_embeddings": 64, "do_layer_norm_before": False}
  with pytest.raises(
    errors.UserError, match=rf"^config\.json: {name} is {re.escape(repr(value))},"
  ):
    cases.read(changed(case, **fields))


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
def test_both_names_of_the_rope_are_read(name):
  linear = dict(rope_type="linear", factor=2.0)
  fields = dict(rope_scaling=linear, rope_parameters=linear)
  with pytest.raises(errors.UserError, match=f"{name} is 'linear', but"):
    cases.read(changed("llama", **fields | {name: "linear"}))


@pytest.mark.parametrize("kind", ["gemma3", "mixtral", "qwen2_moe", "bert"])
def test_other_families_are_rejected_with_a_list_of_those_there_are(kind):
  with pytest.raises(errors.UserError, match=f"model_type.*{kind}.*gemma3_text"):
    families.of(kind)


@every_case
def test_the_tensors_of_a_file_cover_every_parameter_exactly_once(case):
  kind, config = cases.CASES[case]["model_type"], cases.read(cases.CASES[case])
  tensors = families.of(kind).tensors(config)
  covered = jax.tree.map(lambda x: np.zeros(x.shape, int), decoder.shapes(config))
  for tensor in tensors:
    counts = functools.reduce(dict.__getitem__, tensor.path, covered)
    counts = counts if tensor.layer is None else counts[tensor.layer]
    assert counts.shape == tensor.ours, tensor.name
    counts += 1
  assert all((count == 1).all() for count in jax.tree.leaves(covered))
  assert len({(tensor.name, tensor.part) for tensor in tensors}) == len(tensors)
  for parts in cases.by_name(kind, config).values():
    elements = sum(math.prod(tensor.ours) for tensor in parts)
    assert elements == math.prod(parts[0].shape) and len({t.shape for t in parts}) == 1
  pattern = families.of(kind).spare(config)
  assert not [tensor.name for tensor in tensors if re.fullmatch(pattern, tensor.name)]
  assert bool(re.fullmatch(pattern, "lm_head.weight")) == config.tied


@pytest.mark.parametrize(
  ("case", "name"),
  [
    ("gpt2", "h.0.attn.bias"),
    ("gpt2", "transformer.h.11.attn.masked_bias"),
    ("gptj", "transformer.h.3.attn.masked_bias"),
    ("gpt_neo", "transformer.h.3.attn.attention.bias"),
    ("llama", "model.layers.21.self_attn.rotary_emb.inv_freq"),
    ("llama", "model.rotary_emb.inv_freq"),
    ("gemma3_text", "rotary_emb_local.inv_freq"),
  ],
)
def test_buffers_of_older_files_are_ignored(case, name):
  family, config = families.of(cases.CASES[case]["model_type"]), cases.read(cases.CASES[case])
  assert re.fullmatch(family.spare(config), name)
  assert not re.fullmatch(family.spare(config), name + ".more")


def gpt(kind: str, width: int, layers: int, heads: int, **fields) -> dict:
  sizes = dict(n_embd=width, n_layer=layers, n_head=heads)
  return dict(model_type=kind, vocab_size=50257) | sizes | fields


def opt(width: int, ffn: int, layers: int, heads: int, **fields) -> dict:
  names = ("hidden_size", "ffn_dim", "num_hidden_layers", "num_attention_heads")
  sizes = dict(zip(names, (width, ffn, layers, heads), strict=True))
  return dict(model_type="opt", vocab_size=50272, max_position_embeddings=2048) | sizes | fields


def llama(kind: str, vocab, width, mlp, layers, heads, kv_heads, tied, **fields) -> dict:
  names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
  names += ("num_attention_heads", "num_key_value_heads", "tie_word_embeddings")
  sizes = (vocab, width, mlp, layers, heads, kv_heads, tied)
  return dict(model_type=kind) | dict(zip(names, sizes, strict=True)) | fields


@pytest.mark.parametrize(
  ("fields", "parameters"),
  [
    (gpt("gpt2", 768, 12, 12, n_positions=1024), 124_439_808),
    (gpt("gpt2", 1600, 48, 25, n_positions=1024), 1_557_611_200),
    (gpt("gptj", 4096, 28, 16, vocab_size=50400, rotary_dim=64), 6_050_882_784),
    (
      dict(model_type="gpt_neo", vocab_size=50257, hidden_size=768, num_layers=12, num_heads=12)
      | dict(attention_types=[[["global", "local"], 6]]),
      125_198_592,
    ),
    (opt(768, 3072, 12, 12), 125_239_296),
    (opt(1024, 4096, 24, 16, do_layer_norm_before=False, word_embed_proj_dim=512), 331_196_416),
    (llama("llama", 49152, 576, 1536, 30, 9, 3, True), 134_515_008),  # SmolLM2
    (llama("llama", 128256, 2048, 8192, 16, 32, 8, True, head_dim=64), 1_235_814_400),
    (llama("mistral", 32000, 4096, 14336, 32, 32, 8, False), 7_241_732_096),
    (llama("qwen2", 151936, 896, 4864, 24, 14, 2, True), 494_032_768),  # Qwen2.5
    (llama("qwen3", 151936, 1024, 3072, 28, 16, 8, True, head_dim=128), 596_049_920),
    (llama("gemma2", 256000, 2304, 9216, 26, 8, 4, None), 2_614_341_888),
    (llama("gemma3_text", 262144, 1152, 6912, 26, 4, 1, None, head_dim=256), 999_885_952),
  ],
  ids=lambda x: x["model_type"] if isinstance(x, dict) else f"{x:_}",
)
def test_released_models_have_their_known_numbers_of_parameters(fields, parameters):
  shapes = jax.tree.leaves(decoder.shapes(cases.read(fields)))
  assert sum(math.prod(shape.shape) for shape in shapes) == parameters


def sizes(**other):
  default = dict(vocab=30, width=24, layers=2, heads=4, kv_heads=4, head_width=6, mlp=32)
  return base_model.ScratchSizes(**default | dict(positions=24) | other)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", DECODERS)
def test_a_student_from_scratch_belongs_to_the_family(kind, tied):
  family = families.of(kind)
  config = family.scratch(sizes(tied=tied))
  assert cases.read(json.loads(json.dumps(family.write(config)))) == config
  assert (config.vocab, config.width, config.layers, config.mlp) == (30, 24, 2, 32)
  assert config.tied == tied and config.dtype == "float32" and config.norm_eps > 0


@pytest.mark.parametrize("kind", DECODERS)
def test_a_student_from_scratch_learns_and_decodes_and_every_parameter_has_a_gradient(kind):
  config = families.of(kind).scratch(sizes())
  params = jax.jit(functools.partial(decoder.init, config))(jax.random.key(0))
  tokens, mask = cases.batch("gpt2")
  tokens %= config.vocab
  read = token_rows.Rows(tokens, np.broadcast_to(np.arange(12), tokens.shape), mask)

  @jax.jit
  @jax.value_and_grad
  def loss(params):
    states = decoder.hidden(config, params, read)[:, :-1]
    logp = students.token_logprobs(config, params, states, tokens[:, 1:], chunk=64)
    return -jnp.sum(logp * mask[:, 1:]) / mask[:, 1:].sum()

  before, grads = loss(params)
  after, _ = loss(jax.tree.map(lambda p, g: p - 0.1 * g, params, grads))
  assert abs(before - np.log(config.vocab)) < 1.5 and after < before - 0.05
  for path, grad in jax.tree.leaves_with_path(grads):
    # A bias on all keys shifts all scores of a query equally, which a softmax ignores.
    assert np.abs(grad).max() > 0 or path[-1].key == "k_bias", path
  written = reading.greedy(config, params, tokens, np.int32(cases.LENGTHS), 8)
  assert ((written >= 0) & (written < config.vocab)).all()


@pytest.mark.parametrize(
  ("kind", "other", "name"),
  [
    ("gpt2", dict(kv_heads=2), "kv_heads"),
    ("gpt2", dict(head_width=8), "head_width"),
    ("gpt2", dict(rope_theta=1e4), "rope_theta"),
    ("gptj", dict(rope_theta=1e3), "rope_theta"),
    ("gptj", dict(width=12, head_width=3), "head_width"),
    ("gpt_neo", dict(kv_heads=2), "kv_heads"),
    ("opt", dict(norm_eps=1e-6), "norm_eps"),
    ("opt", dict(rope_theta=1e4), "rope_theta"),
    ("llama", dict(kv_heads=3), "kv_heads"),
    ("llama", dict(width=22), "heads"),
    ("qwen3", dict(head_width=5), "head_width"),
    ("gemma2", dict(width=22), "heads"),
  ],
)
def test_sizes_a_family_cannot_have_are_rejected(kind, other, name):
  with pytest.raises(errors.UserError, match=rf"config\.student\.scratch\.{name} is ") as rejected:
    families.of(kind).scratch(sizes(**other))
  assert rejected.value.code == errors.CONFIG
