"""The sampler against the oracle, and what a row's tokens may depend on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.decoding import choice, sampler
from distill_jax.learning import logprobs, sharding
from distill_jax.students import decoder
from tests import compilations
from tests.students import oracle

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)

CONFIG = oracle.TINY
SAMPLES, NEW, PAD, EOS = 2, 10, 0, (3, 17, 22)
GREEDY, WARM = choice.sampling(0.0), choice.sampling(1.0)
PROMPTS = [[5, 9, 2], [7], [30, 4, 4, 12, 9, 1, 8, 2], [5, 9, 2, 6], [31, 30], [1, 2, 3, 4, 5]]
PROMPTS += [[11, 21], [13]]


@pytest.fixture(scope="module")
def params():
  return oracle.params(CONFIG, scale=0.5)


def padded(prompts, length: int = 8):
  """(tokens, lengths) as the sampler wants them."""
  tokens = oracle.plain_rows(prompts, length, pad=PAD).tokens
  return tokens, np.int32([len(p) for p in prompts])


def keys_of(rows, seed: int = 0):
  return oracle.rng(seed).integers(0, 2**32, (rows, 2), dtype=np.uint32)


def sample(params, prompts, keys, settings):
  out = sampler.sample(
    CONFIG,
    params,
    *padded(prompts),
    keys,
    settings,
    samples=SAMPLES,
    new_tokens=NEW,
    eos=EOS,
    pad=PAD,
  )
  return jax.device_get(out)


@pytest.fixture(scope="module")
def greedy(params):
  return sample(params, PROMPTS, keys_of(16), GREEDY)


@pytest.fixture(scope="module")
def warm(params):
  return sample(params, PROMPTS, keys_of(16), WARM)


def produced(out, row: int) -> list[int]:
  return out.tokens[row, : out.lengths[row]].tolist()


def assert_same_tokens(a, b, rows_a, rows_b):
  for name in ("tokens", "lengths", "ended"):
    np.testing.assert_array_equal(getattr(a, name)[rows_a], getattr(b, name)[rows_b], name)
  np.testing.assert_allclose(a.logprobs[rows_a], b.logprobs[rows_b], rtol=1e-5, atol=1e-5)


def test_greedy_tokens_are_the_argmax_of_the_full_forward_token_for_token(params, greedy):
  for row in range(16):
    prompt, tokens = PROMPTS[row // SAMPLES], produced(greedy, row)
    logp = oracle.logprobs(CONFIG, params, prompt + tokens)[len(prompt) - 1 : -1]
    ranked = np.sort(logp, axis=-1)
    assert (ranked[:, -1] - ranked[:, -2] > 1e-4).all(), "too close to call: choose other weights"
    assert tokens == logp.argmax(-1).tolist()


@pytest.mark.parametrize("kind", ["greedy", "warm"])
def test_log_probabilities_are_those_of_the_full_forward(params, request, kind):
  out = request.getfixturevalue(kind)
  for row in range(16):
    prompt, tokens = PROMPTS[row // SAMPLES], produced(out, row)
    logp = oracle.logprobs(CONFIG, params, prompt + tokens)[len(prompt) - 1 : -1]
    want = logp[np.arange(len(tokens)), tokens]
    np.testing.assert_allclose(out.logprobs[row, : len(tokens)], want, rtol=1e-4, atol=1e-4)


def test_log_probabilities_are_those_that_training_computes(params, warm):
  rows = [PROMPTS[n // SAMPLES] + produced(warm, n) for n in range(16)]
  start = np.int32([len(PROMPTS[n // SAMPLES]) for n in range(16)])

  @jax.jit
  def score(params, rows, where, labels):
    states = decoder.hidden(CONFIG, params, rows)
    here = jnp.take_along_axis(states, where[..., None], axis=1)
    return logprobs.token_logprobs(here, decoder.head(CONFIG, params), labels, chunk=4)

  where = start[:, None] - 1 + np.arange(NEW, dtype=np.int32)[None]
  got = score(params, oracle.plain_rows(rows, 8 + NEW), where, warm.tokens)
  inside = np.arange(NEW)[None] < warm.lengths[:, None]
  np.testing.assert_allclose(np.where(inside, got, 0), warm.logprobs, rtol=1e-4, atol=1e-4)


def test_a_row_stops_at_its_first_end_token_or_is_cut_off(greedy, warm):
  for out in (greedy, warm):
    for row in range(16):
      tokens = produced(out, row)
      assert not set(tokens[:-1]) & set(EOS)
      assert out.ended[row] == (tokens[-1] in EOS)
      assert out.ended[row] or len(tokens) == NEW
  assert set(warm.ended.tolist()) == {True, False} and len(set(warm.lengths.tolist())) > 3
  ends = {produced(warm, row)[-1] for row in range(16) if warm.ended[row]}
  assert len(ends) > 1, "every end token ends"


def test_after_the_end_there_is_padding_without_log_probability(warm):
  after = np.arange(NEW)[None] >= warm.lengths[:, None]
  assert (warm.tokens[after] == PAD).all() and (warm.logprobs[after] == 0).all()
  assert (warm.logprobs[~after] < 0).all()


def test_samples_of_a_prompt_differ_and_equal_keys_do_not(params, greedy, warm):
  pairs = [(produced(warm, row), produced(warm, row + 1)) for row in range(0, 16, 2)]
  assert sum(a != b for a, b in pairs) >= 6
  assert all(produced(greedy, row) == produced(greedy, row + 1) for row in range(0, 16, 2))
  same = sample(params, PROMPTS, np.repeat(keys_of(8), 2, axis=0), WARM)
  np.testing.assert_array_equal(same.tokens[::2], same.tokens[1::2])


def test_samples_of_a_prompt_share_its_prefill(params, monkeypatch):
  read, plain = [], decoder.prefill

  def noted(config, params, tokens, lengths, slots):
    read.append(tokens.shape)
    return plain(config, params, tokens, lengths, slots)

  monkeypatch.setattr(decoder, "prefill", noted)
  run = functools.partial(
    sampler.sample.__wrapped__, CONFIG, samples=SAMPLES, new_tokens=NEW, eos=EOS, pad=PAD
  )
  out = jax.eval_shape(run, params, *padded(PROMPTS), keys_of(16), WARM)
  assert read == [(8, 8)] and out.tokens.shape == (16, NEW)


def test_a_row_depends_on_its_prompt_and_its_key_alone(params, warm):
  """The same rows among others, in another order, with prompts that only fill up the batch."""
  keys, others = keys_of(16), keys_of(16, seed=1)
  order = [6, 0, 3]
  prompts = [PROMPTS[n] for n in order] + [[29, 28, 27], [], [19, 19, 19, 19, 19, 19], [], []]
  rows = [row for n in order for row in (2 * n, 2 * n + 1)]
  out = sample(params, prompts, np.concatenate([keys[rows], others[6:]]), WARM)
  assert_same_tokens(out, warm, list(range(6)), rows)


def test_a_row_depends_on_its_prompt_and_on_its_key(params, warm):
  """Or the law above would hold for a sampler that draws nothing."""
  changed = sample(params, PROMPTS, keys_of(16, seed=1), WARM)
  assert sum(produced(changed, row) != produced(warm, row) for row in range(16)) >= 12
  keys = np.tile(keys_of(1), (16, 1))
  one = sample(params, PROMPTS, keys, WARM)
  assert len({tuple(produced(one, row)) for row in range(16)}) == len(PROMPTS)


def test_the_numbers_a_row_draws_are_new_at_every_token(params):
  """At a huge temperature the tokens follow the numbers alone."""
  out = sample(params, PROMPTS, keys_of(16), choice.sampling(1e6))
  assert all(len(set(produced(out, row))) > 0.5 * out.lengths[row] for row in range(16))


def test_prompts_of_length_zero_have_ended_before_they_begin(params):
  out = sample(params, [PROMPTS[0]] + [[]] * 7, keys_of(16), WARM)
  assert out.ended[2:].all() and (out.lengths[2:] == 0).all()
  assert (out.tokens[2:] == PAD).all() and (out.logprobs[2:] == 0).all()


def test_the_loop_ends_with_its_last_row(params, monkeypatch):
  turns, plain = [], decoder.advance

  def noted(config, params, modules, token, positions, cache, slot, mask):
    jax.debug.callback(lambda s: turns.append(int(s)), slot)
    return plain(config, params, modules, token, positions, cache, slot, mask)

  monkeypatch.setattr(decoder, "advance", noted)
  run = jax.jit(
    functools.partial(
      sampler.sample.__wrapped__, CONFIG, samples=1, new_tokens=NEW, eos=tuple(range(8)), pad=PAD
    )
  )
  for prompts in ([[5, 9], [7]], [[5, 9], []], [[], []]):
    turns.clear()
    out = jax.device_get(run(params, *padded(prompts), keys_of(2), WARM))
    jax.effects_barrier()
    assert len(turns) == out.lengths.max() < NEW


def test_other_temperatures_and_filters_compile_nothing(params, greedy):
  with compilations.counted() as programs:
    out = [
      sample(params, PROMPTS, keys_of(16), choice.Sampling(*map(np.asarray, settings)))
      for settings in (
        (np.float32(0), np.float32(1), np.int32(0)),
        (np.float32(0.7), np.float32(0.9), np.int32(0)),
        (np.float32(1.3), np.float32(1), np.int32(5)),
      )
    ]
  assert programs == []
  np.testing.assert_array_equal(out[0].tokens, greedy.tokens)
  assert (out[1].tokens != out[2].tokens).any()


def test_top_k_of_one_is_greedy_at_any_temperature(params, greedy):
  out = sample(params, PROMPTS, keys_of(16), choice.sampling(3.0, 1.0, 1))
  np.testing.assert_array_equal(out.tokens, greedy.tokens)


@pytest.mark.parametrize("sizes", [(2, 2, 2), (4, 2, 1)])
def test_the_mesh_changes_no_token(params, warm, sizes):
  mesh = sharding.make_mesh(*sizes)
  places = sharding.of_params(mesh, decoder.axes(CONFIG), decoder.shapes(CONFIG))
  put = lambda x: jax.device_put(x, sharding.batch(mesh))
  with jax.set_mesh(mesh):
    out = sampler.sample(
      CONFIG,
      jax.device_put(params, places),
      *map(put, padded(PROMPTS)),
      put(keys_of(16)),
      WARM,
      samples=SAMPLES,
      new_tokens=NEW,
      eos=EOS,
      pad=PAD,
    )
  assert len(out.tokens.sharding.device_set) == 8
  assert_same_tokens(jax.device_get(out), warm, slice(None), slice(None))
