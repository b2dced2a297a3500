"""The sampler with real students: against float64 oracles, training, and several devices.

test_rollout.py tests what a row may depend on.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from distill_jax import students
from distill_jax.decoding import decode_loop, rollout, sampling
from distill_jax.students import decoder, sharding
from tests import compilations, meshes, rounding
from tests.students import oracle, oracle_t5

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)

BUCKET, NEW, PAD, EOS, SAMPLES = 8, 10, 0, (3, 17, 22), 2
GREEDY, WARM = sampling.sampling(0.0), sampling.sampling(1.0)
PROMPTS = [[5, 9, 2], [7], [30, 4, 4, 12, 9, 1, 8, 2], [5, 9, 2, 6], [31, 30], [1, 2, 3, 4, 5]]
PROMPTS += [[11, 21], [13]]
ROWS = len(PROMPTS) * SAMPLES

CONFIGS = {
  "decoder": oracle.TINY,
  "windowed": dataclasses.replace(oracle.TINY, window=3, local=(True, False)),
  "t5": oracle_t5.SECOND,
}


@functools.cache
def params_of(name: str):
  config = CONFIGS[name]
  return (oracle_t5 if name == "t5" else oracle).params(config, scale=0.5)


@functools.partial(jax.jit, static_argnums=0)
def _training_logprobs(config, params, rows):
  states = decoder.hidden(config, params, rows)
  return jax.nn.log_softmax(states @ decoder.head(config, params), axis=-1)[0]


def training_logprobs(config, params, row):
  """Returns log p(next token) [L, V] from the states that training computes."""
  return np.asarray(_training_logprobs(config, params, oracle.plain_rows([row], BUCKET + NEW)))[
    : len(row)
  ]


def expected(name: str, prompt, tokens, params=None):
  """Returns log p [N, V] at each new token, from a forward pass over the whole row."""
  config, params = CONFIGS[name], params_of(name) if params is None else params
  if name == "t5":
    return oracle_t5.logprobs(config, params, prompt, [config.start, *tokens])[:-1]
  logprobs = oracle.logprobs if name == "decoder" else training_logprobs
  return logprobs(config, params, prompt + tokens)[len(prompt) - 1 : -1]


@functools.cache
def rounding_of(name: str, row: int, tokens: tuple[int, ...]) -> dict:
  """How far apart two computations of a row may be: `logp` [N, V], `chosen` [N] out of it, and
  `edges`, the cumulative probabilities [V] at each of N tokens."""

  def computed(params):
    logp = np.float64(expected(name, PROMPTS[row // SAMPLES], [*tokens], params))
    chosen = logp[np.arange(len(tokens)), tokens]
    return {"logp": logp, "chosen": chosen, "edges": [*np.cumsum(np.exp(logp), axis=-1)]}

  return rounding.bounds(computed, params_of(name), length=CONFIGS[name].vocab)


def sample(name: str, settings, *, batch: int = 8, parts: int = 1, params=None, order=1):
  keys = oracle.rng().integers(0, 2**32, (len(PROMPTS), SAMPLES, 2), dtype=np.uint32)
  rows = rollout.Rollout(
    CONFIGS[name],
    params_of(name) if params is None else params,
    settings,
    sizes=rollout.sizes(batch, 0.25, SAMPLES, parts),
    bucket=BUCKET,
    max_new_tokens=NEW,
    eos=EOS,
    pad=PAD,
  )
  return rollout.sample(rows, PROMPTS[::order], list(keys)[::order])


@functools.cache
@meshes.one_device()
def greedy(name: str):
  """Rows at temperature 0, on one device."""
  return sample(name, GREEDY)


@functools.cache
@meshes.one_device()
def warm(name: str):
  """Rows at temperature 1, on one device."""
  return sample(name, WARM)


def produced(out, row: int) -> list[int]:
  return out.tokens[row, : out.lengths[row]].tolist()


def assert_same(name: str, got, want):
  """The same tokens, and log-probabilities as close as rounding allows."""
  for field in ("tokens", "lengths", "ended"):
    np.testing.assert_array_equal(getattr(got, field), getattr(want, field), field)
  for row in range(ROWS):
    tokens = produced(want, row)
    allowed = rounding_of(name, row, (*tokens,))["chosen"]
    np.testing.assert_allclose(got.logprobs[row], want.logprobs[row], rtol=0, atol=allowed)


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_tokens_are_the_argmax_of_the_full_forward_token_for_token(name):
  for row in range(ROWS):
    tokens = produced(greedy(name), row)
    logp = expected(name, PROMPTS[row // SAMPLES], tokens)
    ranked = np.sort(logp, axis=-1)
    apart = 2 * rounding_of(name, row, (*tokens,))["logp"]  # both of two logits err
    assert (ranked[:, -1] - ranked[:, -2] > apart).all(), "too close to call: choose other weights"
    assert tokens == logp.argmax(-1).tolist()


@pytest.mark.parametrize("name", CONFIGS)
def test_no_number_drawn_here_lies_so_near_the_edge_of_a_token_that_rounding_decides(name):
  """Or the exact comparisons of tokens in this file would depend on the CPU."""
  keys = oracle.rng().integers(0, 2**32, (ROWS, 2), dtype=np.uint32)
  for row in range(ROWS):
    tokens = produced(warm(name), row)
    logp = expected(name, PROMPTS[row // SAMPLES], tokens)
    edges = np.cumsum(np.exp(np.float64(logp)), axis=-1)
    drawn = np.array([decode_loop._uniform(keys[row], n) for n in range(len(tokens))], np.float64)
    # A cumulative sum adds a rounding a term to the error of its probabilities.
    sums = rounding.gamma(2 * CONFIGS[name].vocab)
    allowed = np.array(rounding_of(name, row, (*tokens,))["edges"]) + sums
    nearest = np.abs(edges - drawn[:, None]).min(axis=-1)
    assert (nearest > allowed).all(), (row, nearest, allowed)
    assert tokens == [int(np.argmax(e > u)) for e, u in zip(edges, drawn, strict=True)]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", [greedy, warm])
def test_log_probabilities_are_those_of_the_full_forward(name, kind):
  out = kind(name)
  for row in range(ROWS):
    tokens = produced(out, row)
    logp = expected(name, PROMPTS[row // SAMPLES], tokens)
    want = logp[np.arange(len(tokens)), tokens]
    allowed = rounding_of(name, row, (*tokens,))["chosen"]
    np.testing.assert_allclose(out.logprobs[row, : len(tokens)], want, rtol=0, atol=allowed)


def test_log_probabilities_are_those_that_training_computes():
  for row in range(ROWS):
    prompt, tokens = PROMPTS[row // SAMPLES], produced(warm("decoder"), row)
    logp = training_logprobs(CONFIGS["decoder"], params_of("decoder"), prompt + tokens)
    want = logp[len(prompt) - 1 : -1][np.arange(len(tokens)), tokens]
    got = warm("decoder").logprobs[row, : len(tokens)]
    allowed = rounding_of("decoder", row, (*tokens,))["chosen"]
    np.testing.assert_allclose(got, want, rtol=0, atol=allowed)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_row_stops_at_its_first_end_token_or_is_cut_off(name):
  for out in (greedy(name), warm(name)):
    for row in range(ROWS):
      tokens = produced(out, row)
      assert not set(tokens[:-1]) & set(EOS)
      assert out.ended[row] == (tokens[-1] in EOS)
      assert out.ended[row] or len(tokens) == NEW
  out = warm(name)
  assert set(out.ended.tolist()) == {True, False} and len(set(out.lengths.tolist())) > 3
  ends = {produced(out, row)[-1] for row in range(ROWS) if out.ended[row]}
  assert len(ends) > 1, "every end token ends"


@pytest.mark.parametrize("name", CONFIGS)
def test_the_number_of_rows_decoded_at_a_time_changes_no_token(name):
  for batch in (1, 3, 16):
    assert_same(name, sample(name, WARM, batch=batch), warm(name))


@pytest.mark.parametrize("name", CONFIGS)
def test_among_other_rows_at_other_iterations_a_row_is_the_same_to_the_last_bit(name):
  reversed_order = sample(name, WARM, order=-1)

  def by_prompt(x):
    return x.reshape(len(PROMPTS), SAMPLES, *x.shape[1:])

  for one, other in zip(warm(name), reversed_order, strict=True):
    np.testing.assert_array_equal(by_prompt(one), by_prompt(other)[::-1])


def test_samples_of_a_prompt_differ():
  out = warm("decoder")
  assert sum(produced(out, row) != produced(out, row + 1) for row in range(0, ROWS, 2)) >= 6


def test_the_numbers_a_row_draws_are_new_at_every_token():
  """At a huge temperature the tokens depend on the numbers only."""
  out = sample("decoder", sampling.sampling(1e6))
  assert all(len(set(produced(out, row))) > 0.5 * out.lengths[row] for row in range(ROWS))


def on_mesh(name: str, sizes):
  """Returns (mesh, parameters on it)."""
  mesh, config = sharding.make_mesh(*sizes), CONFIGS[name]
  student = students.of(config)
  shardings = sharding.of_params(mesh, student.axes(config), student.shapes(config))
  return mesh, jax.device_put(params_of(name), shardings)


@pytest.mark.parametrize(("name", "sizes"), [
  ("decoder", (2, 2, 2)), ("decoder", (4, 2, 1)), ("t5", (2, 2, 2)),
])  # fmt: skip
def test_the_mesh_changes_no_token_and_compiles_once(name, sizes):
  want_warm, want_greedy = warm(name), greedy(name)
  mesh, params = on_mesh(name, sizes)
  parts = sizes[0] * sizes[1]
  with jax.set_mesh(mesh):
    got_warm = sample(name, WARM, parts=parts, params=params)
    with compilations.counted() as programs:
      got_greedy = sample(name, GREEDY, parts=parts, params=params)
  assert programs == []
  assert_same(name, got_warm, want_warm)
  assert_same(name, got_greedy, want_greedy)


@pytest.mark.parametrize("reference", [greedy, warm])
def test_the_reference_of_a_mesh_is_computed_on_one_device_whoever_asks_for_it(
  reference, monkeypatch
):
  devices, decode = [], decode_loop.decode

  def noted(*args, **kwargs):
    state, running = decode(*args, **kwargs)
    devices.extend(len(x.sharding.device_set) for x in jax.tree.leaves(state))
    return state, running

  monkeypatch.setattr(decode_loop, "decode", noted)
  with jax.set_mesh(sharding.make_mesh(2, 2, 2)):
    under_a_mesh = reference.__wrapped__("decoder")
    assert {*devices} == {1}
    devices.clear()
    sample("decoder", GREEDY, parts=4)
    assert {*devices} == {8}, "or this test could not see a mesh"
  for got, want in zip(under_a_mesh, reference("decoder"), strict=True):
    np.testing.assert_array_equal(got, want)


def test_rows_are_split_over_the_devices_and_inserted_without_gathering_them():
  mesh, params = on_mesh("decoder", (2, 2, 2))
  index = np.zeros(2, np.int32)
  with jax.set_mesh(mesh):
    tokens, lengths = np.ones((4, BUCKET), np.int32), np.full(4, 3, np.int32)
    prefilled = decode_loop.prefill(CONFIGS["decoder"], params, tokens, lengths)
    state = decode_loop.empty_state(prefilled, count=64, max_new_tokens=NEW)
    insert = (state, prefilled, index, index, np.zeros((2, 2), np.uint32))
    programs = [decode_loop.insert.lower(*insert).compile().as_text()]
    decode = (state, np.ones(64, bool), WARM, np.int32(64), np.int32(9))
    programs.append(
      decode_loop.decode.lower(CONFIGS["decoder"], params, *decode, eos=EOS).compile().as_text()
    )
  for array in state.cache.keys + state.cache.values:
    assert array.sharding.shard_shape(array.shape) == (16, 1, BUCKET + NEW, 6)
  for text in programs:
    assert "[16,1,18,6]" in text, "a device's part of the cache"
    assert "[64,1,18,6]" not in text and "[64,2,18,6]" not in text and "[16,2,18,6]" not in text
