"""The queue of prompts: a row depends on its prompt and key alone; long rows delay no others."""

import jax
import numpy as np
import pytest

from distill_jax.decoding import decode_loop, rollout, sampling
from tests import compilations
from tests.decoding import toy
from tests.students import oracle

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)

BUCKET, NEW, PAD, EOS = 9, 30, 0, (3, 17)
CONFIGS = {"decoder": toy.Config(), "apart": toy.Config(apart=True)}
PARAMS = toy.params(toy.Config())


@pytest.fixture(autouse=True, scope="module")
def toys():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(decode_loop, "students", toy.students())
    yield


def requests(prompts: int, samples: int = 1, seed: int = 0):
  """Returns prompts of different lengths, and keys for their samples."""
  draw = oracle.rng(seed)
  lengths = draw.integers(1, BUCKET + 1, prompts)
  keys = draw.integers(0, 2**32, (prompts, samples, 2), dtype=np.uint32)
  return [draw.integers(1, 24, n).tolist() for n in lengths], list(keys)


def opened(config="decoder", *, batch=4, refill=0.25, samples=1, **options):
  given = {"max_new_tokens": NEW, "eos": EOS, "settings": sampling.sampling(1.0)} | options
  sizes = rollout.sizes(batch, refill, samples, 1)
  return rollout.Rollout(CONFIGS[config], PARAMS, sizes=sizes, bucket=BUCKET, pad=PAD, **given)


def sample(
  prompts, keys, config="decoder", *, has_stopped=None, on_progress=lambda out, now: None, **options
):
  rows = opened(config, **options)
  return rollout.sample(rows, prompts, keys, has_stopped=has_stopped, on_progress=on_progress)


def produced(out, row: int) -> list[int]:
  return out.tokens[row, : out.lengths[row]].tolist()


def assert_same(a, b, rows=slice(None)):
  for name in ("tokens", "lengths", "ended"):
    np.testing.assert_array_equal(getattr(a, name), getattr(b, name)[rows], name)
  np.testing.assert_allclose(a.logprobs, b.logprobs[rows], rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def one_at_a_time():
  """Rows (tokens, ended, logprobs) of requests(12, 3), each sampled alone."""

  def rows(config):
    prompts, keys = requests(12, 3)
    options = dict(temperature=1.0, max_new_tokens=NEW, eos=EOS)
    return [
      toy.sample_row(CONFIGS[config], PARAMS, prompt, key, **options)
      for prompt, prompt_keys in zip(prompts, keys, strict=True)
      for key in prompt_keys
    ]

  return {name: rows(name) for name in CONFIGS}


@pytest.fixture
def iterations(monkeypatch):
  """A list that gets the iterations of every call of decode."""
  seen, decode = [], decode_loop.decode

  def counted(config, params, state, *args, **kwargs):
    before = int(state.iteration)
    state, running = decode(config, params, state, *args, **kwargs)
    seen.append(int(state.iteration) - before)
    return state, running

  monkeypatch.setattr(decode_loop, "decode", counted)
  return seen


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
  ("batch", "refill", "samples"),
  [(1, 1.0, 3), (4, 0.25, 3), (7, 0.5, 1), (16, 0.3, 3), (64, 1.0, 3), (5, 0.2, 50)],
)
def test_rows_equal_those_that_are_sampled_one_at_a_time(
  one_at_a_time, config, batch, refill, samples
):
  out = sample(*requests(12, 3), config, batch=batch, refill=refill, samples=samples)
  want = one_at_a_time[config]
  assert len(out.lengths) == len(want) == 36
  for row, (tokens, ended, logprobs) in enumerate(want):
    assert produced(out, row) == tokens
    assert out.ended[row] == ended
    np.testing.assert_allclose(out.logprobs[row, : len(tokens)], logprobs, rtol=1e-4)
    assert (out.tokens[row, len(tokens) :] == PAD).all()
    assert (out.logprobs[row, len(tokens) :] == 0).all()


def test_the_rows_of_these_tests_end_in_every_way(one_at_a_time):
  for rows in one_at_a_time.values():
    assert {tokens[-1] for tokens, ended, _ in rows if ended} == set(EOS)
    assert any(not ended and len(tokens) == NEW for tokens, ended, _ in rows)
    assert len({len(tokens) for tokens, _, _ in rows}) > 10


def test_neither_order_nor_other_rows_change_a_row():
  prompts, keys = requests(12, 3)
  alone = sample(prompts, keys)
  others, other_keys = requests(9, 3, seed=1)
  order = oracle.rng(2).permutation(21).tolist()
  mixed, mixed_keys = prompts + others, keys + other_keys
  out = sample([mixed[n] for n in order], [mixed_keys[n] for n in order])
  rows = [3 * order.index(n) + k for n in range(12) for k in range(3)]
  assert_same(alone, out, rows)


def test_prompts_may_have_any_number_of_samples():
  prompts, keys = requests(12, 3)
  alone = sample(prompts, keys)
  ragged = [k[: 1 + n % 3] for n, k in enumerate(keys)]
  rows = [3 * n + k for n in range(12) for k in range(1 + n % 3)]
  assert_same(sample(prompts, ragged, samples=2), alone, rows)


def test_a_row_depends_on_its_prompt_and_on_its_key():
  """Otherwise the tests above would hold for a sampler that draws nothing."""
  prompts, keys = requests(12, 3)
  one, other = sample(prompts, keys), sample(prompts, requests(12, 3, seed=1)[1])
  differ = lambda a, b: sum(produced(a, n) != produced(b, n) for n in range(36))
  assert differ(one, other) > 30
  assert differ(one, sample(prompts[::-1], keys)) > 30


def test_weights_are_taken_apart_once_however_often_the_device_is_called(monkeypatch):
  apart, calls = [], []
  unstack, decode = decode_loop.unstack_once, decode_loop.decode

  def counted(*args):
    apart.append(unstack(*args))
    return apart[-1]

  def noted(config, params, *args, **kwargs):
    calls.append(params)
    return decode(config, params, *args, **kwargs)

  monkeypatch.setattr(decode_loop, "unstack_once", counted)
  monkeypatch.setattr(decode_loop, "decode", noted)
  sample(*requests(12, 3), samples=3)
  assert len(apart) == 1 < len(calls)
  assert all(held.unstacked is apart[0] for held in calls)


def test_long_rows_do_not_delay_the_batch(iterations):
  prompts, keys = requests(64)
  out = sample(prompts, keys, batch=8, refill=0.125)
  static = sum(out.lengths[n : n + 8].max() for n in range(0, 64, 8))
  assert sum(iterations) < 0.65 * static
  assert sum(iterations) <= out.lengths.sum() / 8 + NEW, "no row is idle before the last ones end"


def test_with_a_refill_of_one_the_batch_waits_for_its_longest(iterations):
  prompts, keys = requests(64)
  out = sample(prompts, keys, batch=8, refill=1.0)
  assert iterations == [out.lengths[n : n + 8].max() for n in range(0, 64, 8)]


def test_rows_begin_when_a_share_of_them_is_free(iterations):
  """Eight rows, three start at once: decoding returns when three are free, or all are done."""
  prompts, keys = requests(20)
  out = sample(prompts, keys, batch=8, refill=0.375)
  ends, at, free = np.zeros(8, int), 0, list(range(8))
  for start in range(0, 20, 3):
    if len(free) < min(3, 20 - start):
      at = np.sort(ends)[min(3, 20 - start) - 1]
      free = np.flatnonzero(ends <= at).tolist()
    for row in range(start, min(start + 3, 20)):
      ends[free.pop(0)] = at + out.lengths[row]
  assert sum(iterations) == ends.max()


def test_samples_of_a_prompt_share_its_prefill(monkeypatch):
  read, prefill = [], decode_loop.prefill

  def noted(config, params, tokens, lengths):
    read.append(int(np.count_nonzero(lengths)))
    return prefill(config, params, tokens, lengths)

  monkeypatch.setattr(decode_loop, "prefill", noted)
  sample(*requests(12, 3), batch=16, samples=3, refill=0.5)
  assert read == [2] * 6
  read.clear()
  sample(*requests(3, 11), batch=4, samples=11)
  assert read == [1, 1, 1]


def test_sizes_follow_the_settings_in_whole_shards():
  at = lambda *x: tuple(rollout.sizes(*x))
  assert at(256, 0.25, 1, 1) == (256, 64, 64)
  assert at(256, 0.25, 4, 1) == (256, 64, 16)
  assert at(256, 0.25, 4, 8) == (256, 64, 16)
  assert at(60, 0.25, 4, 8) == (64, 16, 8)
  assert at(8, 0.01, 100, 1) == (8, 1, 1)
  assert at(1, 1.0, 1, 8) == (8, 8, 8)


def test_rows_that_are_stopped_make_room_and_do_not_change_others(iterations):
  prompts, keys = requests(24)
  long = {"eos": (-1,), "max_new_tokens": 80}
  full = sample(prompts, keys, **long)
  without_stop = sum(iterations)
  iterations.clear()
  out = sample(prompts, keys, **long, has_stopped=lambda tokens: 7 in tokens)
  assert sum(iterations) < 0.7 * without_stop and max(iterations) <= rollout.STOP_INTERVAL
  early = 0
  for row in range(24):
    tokens, n = produced(full, row), out.lengths[row]
    assert produced(out, row) == tokens[:n] and not out.ended[row]
    first = tokens.index(7) + 1 if 7 in tokens else 80
    assert first <= n < first + rollout.STOP_INTERVAL
    early += n < 80
  assert early > 5


def test_every_request_uses_the_same_programs():
  settings = [sampling.Sampling(np.float32(t), np.float32(p), np.int32(k))
              for t, p, k in ((0, 1, 0), (0.7, 0.9, 0), (1.3, 1, 5), (1, 0.5, 3))]  # fmt: skip
  with compilations.counted() as programs:
    for n in range(20):
      sample(
        *requests(1 + n, seed=n), batch=6, refill=0.5, max_new_tokens=7, settings=settings[n % 4]
      )
  assert len(programs) <= 4, "prefill, empty_state, insert, decode"


def test_at_temperature_zero_keys_do_not_matter():
  prompts, keys = requests(12)
  greedy = sampling.sampling(0.0)
  out = sample(prompts, keys, settings=greedy)
  assert_same(out, sample(prompts, keys[::-1], settings=greedy))
  assert_same(out, sample(prompts, keys, settings=sampling.sampling(2.0, 1.0, 1)))


def test_no_prompts_give_no_rows():
  out = sample([], [])
  assert out.tokens.shape == (0, NEW) and out.lengths.shape == (0,)


def test_a_prompt_without_tokens_is_rejected():
  with pytest.raises(ValueError, match="has no tokens"):
    sample([[4, 5], []], requests(2)[1])


def test_inserting_costs_as_much_as_is_inserted():
  """The state is updated in place; temporary arrays have the size of what is inserted."""
  prefilled = decode_loop.prefill(
    CONFIGS["decoder"], PARAMS, np.ones((2, BUCKET), np.int32), np.full(2, 3, np.int32)
  )
  state = decode_loop.empty_state(prefilled, count=4096, max_new_tokens=NEW)
  whole = sum(x.nbytes for x in jax.tree.leaves(state))
  index = np.zeros(2, np.int32)
  program = decode_loop.insert.lower(state, prefilled, index, index, np.zeros((2, 2), np.uint32))
  memory = program.compile().memory_analysis()
  assert memory.alias_size_in_bytes > 0.99 * whole
  assert memory.temp_size_in_bytes < 0.01 * whole
