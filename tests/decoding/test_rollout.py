"""Rows in a queue: what a row draws depends on its prompt and its key alone, and a long chain holds
up nobody."""

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


def asked(prompts: int, samples: int = 1, seed: int = 0):
  """Ragged prompts, and keys for their samples."""
  draw = oracle.rng(seed)
  lengths = draw.integers(1, BUCKET + 1, prompts)
  keys = draw.integers(0, 2**32, (prompts, samples, 2), dtype=np.uint32)
  return [draw.integers(1, 24, n).tolist() for n in lengths], list(keys)


def sample(prompts, keys, config="decoder", *, batch=4, refill=0.25, samples=1, **options):
  given = {"max_new_tokens": NEW, "eos": EOS, "settings": sampling.sampling(1.0)} | options
  return rollout.sample(
    CONFIGS[config],
    PARAMS,
    prompts,
    keys,
    sizes=rollout.sizes(batch, refill, samples, 1),
    bucket=BUCKET,
    pad=PAD,
    **given,
  )


def produced(out, row: int) -> list[int]:
  return out.tokens[row, : out.lengths[row]].tolist()


def assert_same(a, b, rows=slice(None)):
  for name in ("tokens", "lengths", "ended"):
    np.testing.assert_array_equal(getattr(a, name), getattr(b, name)[rows], name)
  np.testing.assert_allclose(a.logprobs, b.logprobs[rows], rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def one_at_a_time():
  """Rows (tokens, ended, logprobs) of asked(12, 3), by themselves."""

  def of(config):
    prompts, keys = asked(12, 3)
    chain = lambda p, k: toy.chain(
      CONFIGS[config], PARAMS, p, k, temperature=1.0, max_new_tokens=NEW, eos=EOS
    )
    return [chain(p, k) for p, ks in zip(prompts, keys, strict=True) for k in ks]

  return {name: of(name) for name in CONFIGS}


@pytest.fixture
def turns(monkeypatch):
  """Grows by the turns of every call of decode."""
  seen, plain = [], decode_loop.decode

  def counted(config, params, state, *args, **kwargs):
    before = int(state.turn)
    state, running = plain(config, params, state, *args, **kwargs)
    seen.append(int(state.turn) - before)
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
  out = sample(*asked(12, 3), config, batch=batch, refill=refill, samples=samples)
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


def test_neither_order_nor_company_changes_a_row():
  prompts, keys = asked(12, 3)
  whole = sample(prompts, keys)
  others, other_keys = asked(9, 3, seed=1)
  order = oracle.rng(2).permutation(21).tolist()
  mixed, mixed_keys = prompts + others, keys + other_keys
  out = sample([mixed[n] for n in order], [mixed_keys[n] for n in order])
  rows = [3 * order.index(n) + k for n in range(12) for k in range(3)]
  assert_same(whole, out, rows)


def test_prompts_may_have_any_number_of_samples():
  prompts, keys = asked(12, 3)
  whole = sample(prompts, keys)
  ragged = [k[: 1 + n % 3] for n, k in enumerate(keys)]
  rows = [3 * n + k for n in range(12) for k in range(1 + n % 3)]
  assert_same(sample(prompts, ragged, samples=2), whole, rows)


def test_a_row_depends_on_its_prompt_and_on_its_key():
  """Or the laws above would hold for a sampler that draws nothing."""
  prompts, keys = asked(12, 3)
  whole, other = sample(prompts, keys), sample(prompts, asked(12, 3, seed=1)[1])
  differ = lambda a, b: sum(produced(a, n) != produced(b, n) for n in range(36))
  assert differ(whole, other) > 30
  assert differ(whole, sample(prompts[::-1], keys)) > 30


def test_long_chains_do_not_hold_the_batch(turns):
  prompts, keys = asked(64)
  out = sample(prompts, keys, batch=8, refill=0.125)
  static = sum(out.lengths[n : n + 8].max() for n in range(0, 64, 8))
  assert sum(turns) < 0.65 * static
  assert sum(turns) <= out.lengths.sum() / 8 + NEW, "no row is idle before the last ones end"


def test_with_a_refill_of_one_the_batch_waits_for_its_longest(turns):
  prompts, keys = asked(64)
  out = sample(prompts, keys, batch=8, refill=1.0)
  assert turns == [out.lengths[n : n + 8].max() for n in range(0, 64, 8)]


def test_rows_begin_when_a_share_of_them_is_free(turns):
  """Eight rows, three at once: the device is left when three are free, or when all are done."""
  prompts, keys = asked(20)
  out = sample(prompts, keys, batch=8, refill=0.375)
  ends, at, free = np.zeros(8, int), 0, list(range(8))
  for start in range(0, 20, 3):
    if len(free) < min(3, 20 - start):
      at = np.sort(ends)[min(3, 20 - start) - 1]
      free = np.flatnonzero(ends <= at).tolist()
    for row in range(start, min(start + 3, 20)):
      ends[free.pop(0)] = at + out.lengths[row]
  assert sum(turns) == ends.max()


def test_samples_of_a_prompt_share_its_reading(monkeypatch):
  read, plain = [], decode_loop.prefill

  def noted(config, params, tokens, lengths):
    read.append(int(np.count_nonzero(lengths)))
    return plain(config, params, tokens, lengths)

  monkeypatch.setattr(decode_loop, "prefill", noted)
  sample(*asked(12, 3), batch=16, samples=3, refill=0.5)
  assert read == [2] * 6
  read.clear()
  sample(*asked(3, 11), batch=4, samples=11)
  assert read == [1, 1, 1]


def test_sizes_follow_the_settings_in_whole_shards():
  at = lambda *x: tuple(rollout.sizes(*x))
  assert at(256, 0.25, 1, 1) == (256, 64, 64)
  assert at(256, 0.25, 4, 1) == (256, 64, 16)
  assert at(256, 0.25, 4, 8) == (256, 64, 16)
  assert at(60, 0.25, 4, 8) == (64, 16, 8)
  assert at(8, 0.01, 100, 1) == (8, 1, 1)
  assert at(1, 1.0, 1, 8) == (8, 8, 8)


def test_rows_that_are_stopped_make_room_and_the_others_never_know(turns):
  prompts, keys = asked(24)
  long = {"eos": (-1,), "max_new_tokens": 80}
  whole = sample(prompts, keys, **long)
  plain = sum(turns)
  turns.clear()
  out = sample(prompts, keys, **long, stopped=lambda tokens: 7 in tokens)
  assert sum(turns) < 0.7 * plain and max(turns) <= rollout.LOOK
  early = 0
  for row in range(24):
    tokens, n = produced(whole, row), out.lengths[row]
    assert produced(out, row) == tokens[:n] and not out.ended[row]
    first = tokens.index(7) + 1 if 7 in tokens else 80
    assert first <= n < first + rollout.LOOK
    early += n < 80
  assert early > 5


def test_one_program_each_whatever_is_asked():
  settings = [sampling.Sampling(np.float32(t), np.float32(p), np.int32(k))
              for t, p, k in ((0, 1, 0), (0.7, 0.9, 0), (1.3, 1, 5), (1, 0.5, 3))]  # fmt: skip
  with compilations.counted() as programs:
    for n in range(20):
      sample(*asked(1 + n, seed=n), batch=6, refill=0.5, max_new_tokens=7, settings=settings[n % 4])
  assert len(programs) <= 4, "prefill, empty, place, decode"


def test_at_temperature_zero_keys_do_not_matter():
  prompts, keys = asked(12)
  greedy = sampling.sampling(0.0)
  out = sample(prompts, keys, settings=greedy)
  assert_same(out, sample(prompts, keys[::-1], settings=greedy))
  assert_same(out, sample(prompts, keys, settings=sampling.sampling(2.0, 1.0, 1)))


def test_nothing_asked_is_nothing_sampled():
  out = sample([], [])
  assert out.tokens.shape == (0, NEW) and out.lengths.shape == (0,)


def test_a_prompt_without_tokens_is_refused():
  with pytest.raises(ValueError, match="without tokens"):
    sample([[4, 5], []], asked(2)[1])


def test_placing_costs_as_much_as_is_placed():
  """The state is changed where it lies; what is made beside it has the size of what is placed."""
  prefilled = decode_loop.prefill(
    CONFIGS["decoder"], PARAMS, np.ones((2, BUCKET), np.int32), np.full(2, 3, np.int32)
  )
  state = decode_loop.empty(prefilled, count=4096, max_new_tokens=NEW)
  whole = sum(x.nbytes for x in jax.tree.leaves(state))
  index = np.zeros(2, np.int32)
  program = decode_loop.place.lower(state, prefilled, index, index, np.zeros((2, 2), np.uint32))
  memory = program.compile().memory_analysis()
  assert memory.alias_size_in_bytes > 0.99 * whole
  assert memory.temp_size_in_bytes < 0.01 * whole
