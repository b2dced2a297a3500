"""Every family equals recorded results of transformers (tests/golden/make.py), without torch."""

import functools
import json
import pathlib

import numpy as np
import pytest

from distill_jax.students import families
from tests import compilations, rounding
from tests.golden import cases
from tests.students import reading

FILES = sorted(pathlib.Path(cases.__file__).parent.glob("*.npz"))
# One of each family, and those with another order or head; tests/parity decodes with all.
WRITERS = [file for file in FILES if file.stem in (*families.BY_TYPE, "opt_350m", "t5_v1_1")]

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)


@functools.cache
def golden(file):
  return dict(np.load(file))


@functools.cache
def student(file):
  fields = json.loads(str(golden(file)["config"]))
  config = families.of(fields["model_type"]).read(fields)
  return config, cases.ours(fields["model_type"], config, cases.weight)


def test_every_family_and_every_case_has_a_golden_file():
  every = cases.CASES | cases.ENCODER_DECODERS
  assert [file.stem for file in FILES] == sorted(every)
  assert {fields["model_type"] for fields in every.values()} == {*families.BY_TYPE}
  assert sum(file.stat().st_size for file in FILES) < 400_000


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_logits_and_summed_log_probs_are_golden(file):
  want = golden(file)
  given = [want[name] for name in ("tokens", "mask", "source", "inside") if name in want]
  (config, params), real = student(file), want["mask"] > 0

  def computed(weights):
    logits, logp = reading.logits(config, weights, *given)
    return np.asarray(logits)[real], logp

  # transformers computes in float32, too.
  allowed = rounding.bounds(computed, params, length=max(config.mlp, config.vocab))
  rounding.assert_within(computed(params), (want["logits"][real], want["logprobs"]), allowed)


@pytest.mark.parametrize("file", WRITERS, ids=lambda file: file.stem)
def test_greedy_tokens_are_golden(file):
  want = golden(file)
  names = ("source", "inside") if "source" in want else ("tokens", "mask")
  prompts, mask = (want[name] for name in names)
  new = want["greedy"].shape[1]
  got = reading.greedy(*student(file), prompts, np.int32(mask.sum(axis=1)), new)
  np.testing.assert_array_equal(got, want["greedy"])
