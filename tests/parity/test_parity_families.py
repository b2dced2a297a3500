"""Every family computes what transformers computes, both ways through a file.

bash launch/test.sh -m parity        (after: .venv/bin/pip install torch==2.13.0)

Passes with transformers 5.23 and 4.57.
"""

import functools
import json

import numpy as np
import pytest
import safetensors.numpy

from distill_jax.students import families
from tests import compilations
from tests.golden import cases
from tests.students import reading

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)
every_case = pytest.mark.parametrize("case", cases.CASES)


@functools.cache
def theirs(case: str):
  from tests.parity import reference

  return reference.model(cases.CASES[case])


@functools.cache
def ours(case: str):
  """Returns (Config, params) read from transformers' own model."""
  kind = cases.CASES[case]["model_type"]
  config = cases.read(cases.CASES[case])
  state = {name: value.numpy() for name, value in theirs(case).state_dict().items()}

  def array(name, shape):
    assert state[name].shape == shape
    return state[name]

  return config, cases.ours(kind, config, array)


@every_case
def test_logits_and_summed_log_probs_equal_transformers_with_padding_on_either_side(case):
  from tests.parity import reference

  config, params = ours(case)
  for tokens, mask in (right := cases.batch(case), reference.to_the_left(*right)):
    want = reference.logits(theirs(case), tokens, mask)
    got, logp = reading.logits(config, params, tokens, mask)
    np.testing.assert_allclose(np.asarray(got)[mask > 0], want[mask > 0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(logp, reference.summed(want, tokens, mask), rtol=0, atol=1e-4)


@every_case
def test_greedy_tokens_are_those_of_transformers(case):
  from tests.parity import reference

  tokens, mask = cases.batch(case)
  want, lead = reference.greedy(theirs(case), tokens, mask, cases.NEW)
  assert lead > 1e-3
  got = reading.greedy(*ours(case), tokens, np.int32(cases.LENGTHS), cases.NEW)
  np.testing.assert_array_equal(got, want)


@every_case
def test_a_written_model_loads_in_transformers_without_warning_and_reads_back_bit_for_bit(
  case, tmp_path
):
  import transformers

  from tests.parity import reference

  kind = cases.CASES[case]["model_type"]
  config, params = ours(case)
  fields = families.of(kind).write(config)
  if config.rotary:
    fields["max_position_embeddings"] = 96  # left to the caller
  arrays = cases.theirs(kind, config, params)
  safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
  (tmp_path / "config.json").write_text(json.dumps(fields))
  loaded, report = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path, output_loading_info=True, attn_implementation="eager"
  )
  assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
  tokens, mask = cases.batch(case)
  for name, value in theirs(case).state_dict().items():
    np.testing.assert_array_equal(loaded.state_dict()[name], value, name)
  want = reference.logits(theirs(case), tokens, mask)
  np.testing.assert_allclose(reference.logits(loaded, tokens, mask), want, rtol=0, atol=1e-5)
  again = safetensors.numpy.load_file(tmp_path / "model.safetensors")
  read_back = json.loads((tmp_path / "config.json").read_text())
  assert cases.read(read_back) == config
  assert cases.read(json.loads(loaded.config.to_json_string(use_diff=False))) == config
  back = cases.ours(kind, config, lambda name, shape: again[name])
  for name, array in cases.theirs(kind, config, back).items():
    np.testing.assert_array_equal(array, arrays[name])
  np.testing.assert_equal(back, params)
