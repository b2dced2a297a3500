"""The decoder against a float64 oracle, and rows that are trees."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.data import batches, encode
from distill_jax.students import attention, decoder, layers
from distill_jax.students.token_rows import Rows
from tests import compilations, rounding
from tests.students import oracle

TINY = oracle.TINY
PROMPT, TARGET, POSITIVE, NEGATIVE = (5, 6, 7, 8), (10, 11, 12, 1), (20, 21, 1), (13, 14, 15, 16, 1)

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)


@functools.cache
def hidden(config=TINY, detach: bool = False):
  return jax.jit(functools.partial(decoder.hidden, config, detach=detach))


@pytest.fixture(scope="module")
def params():
  return oracle.params(TINY)


def tree(*, detach: bool, length: int = 24) -> Rows:
  """Returns one row: a target, a positive and a negative on one prompt."""
  row = encode.supervised_row(PROMPT, TARGET, prompt_weight=0.0, denominator="weights")
  row = encode.add_triplet(row, POSITIVE, NEGATIVE, pool="last", detach=detach, max_response=99)
  out = batches.stack([row], batch=1, length=length, targets=8, pad=0)
  return Rows(**{name: out[name] for name in Rows._fields if name in out})


def test_rms_norm_divides_by_the_root_of_the_mean_square():
  x, scale = oracle.rng().normal(size=(2, 3, 8)), oracle.rng(1).normal(size=8)
  x[0, 0] *= 1e4
  x[0, 1] *= 1e-4  # here eps decides
  x[0, 2] = 0
  got = jax.jit(layers.rms_norm)(np.float32(x), np.float32(scale), 1e-5)
  np.testing.assert_allclose(got, oracle.rms_norm(x, scale, 1e-5), rtol=2e-6, atol=1e-6)


def test_rms_norm_of_small_floats_is_computed_in_large_ones():
  x = oracle.rng().normal(size=(1, 4, 64)).astype(jnp.bfloat16)
  got = jax.jit(layers.rms_norm)(x, jnp.ones(64), 1e-5)
  want = oracle.rms_norm(np.float64(x), np.ones(64), 1e-5).astype(jnp.bfloat16)
  assert got.dtype == jnp.bfloat16
  np.testing.assert_array_equal(np.float32(got), np.float32(want))


def test_rope_rotates_each_pair_by_position_times_its_frequency():
  x, positions = (
    oracle.rng().normal(size=(2, 5, 3, 8)),
    np.array([[0, 1, 2, 3, 4], [7, 3, 3, 90, 0]]),
  )
  rotary = decoder.Rotary(100.0, width=8)
  got = jax.jit(lambda x, p: layers.apply_rope(x, rotary, layers.rope_cos_sin(rotary, p)))(
    np.float32(x), positions
  )
  for b in range(2):
    for h in range(3):
      want = oracle.apply_rope(x[b, :, h], positions[b], 100.0)
      np.testing.assert_allclose(got[b, :, h], want, rtol=1e-5, atol=2e-5)


def test_attention_is_a_softmax_over_what_the_mask_shows_with_keys_shared_by_a_group():
  draw = oracle.rng()
  q, k, v = (draw.normal(size=s) for s in ((2, 5, 4, 6), (2, 2, 7, 6), (2, 2, 7, 6)))
  mask = draw.random((2, 5, 7)) < 0.5
  mask[:, :, 0] = True
  got = jax.jit(lambda *xs: attention.attend(*xs, scale=6**-0.5))(
    np.float32(q), np.float32(k), np.float32(v), mask
  )
  for b in range(2):
    for h in range(4):
      want = oracle.attend(q[b, :, h], k[b, h // 2], v[b, h // 2], mask[b])
      np.testing.assert_allclose(got[b, :, h], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", [TINY, oracle.UNTIED], ids=["tied", "untied"])
def test_the_decoder_equals_the_oracle(config):
  weights, row = oracle.params(config), [3, 1, 4, 1, 5, 9, 2, 6]
  states = hidden(config)(weights, oracle.plain_rows([row], len(row)))[0]
  np.testing.assert_allclose(states, oracle.hidden(config, weights, row), rtol=1e-4, atol=1e-5)
  matrix = jax.jit(functools.partial(decoder.head, config))(weights)
  got = jax.jit(lambda s, m: jax.nn.log_softmax(s @ m))(states, matrix)
  np.testing.assert_allclose(got, oracle.logprobs(config, weights, row), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", [TINY, oracle.UNTIED], ids=["tied", "untied"])
def test_prefill_of_prompts_of_different_lengths_gives_the_logits_after_their_last_tokens(config):
  weights, prompts = oracle.params(config), [[3, 1, 4, 1, 5], [9, 2]]
  tokens = oracle.plain_rows(prompts, 6).tokens
  read = jax.jit(lambda p, t, n: decoder.prefill(config, p, t, n))
  logits, cache, filled = read(weights, tokens, np.int32([5, 2]))
  want = [oracle.logprobs(config, weights, prompt)[-1] for prompt in prompts]
  np.testing.assert_allclose(jax.nn.log_softmax(logits), want, rtol=1e-4, atol=1e-4)
  assert logits.dtype == jnp.float32
  assert {x.shape for x in jax.tree.leaves(cache)} == {(2, config.kv_heads, 6, config.head_width)}
  np.testing.assert_array_equal(filled, [5, 2])


def test_the_tied_head_is_the_embedding_and_the_untied_one_is_separate():
  tied, untied = decoder.shapes(TINY), decoder.shapes(oracle.UNTIED)
  assert "head" not in tied and untied["head"].shape == (TINY.width, TINY.vocab)


def test_a_token_sees_everything_before_it_and_nothing_after_it(params):
  """By gradient: all tokens differ, so each has its own row of the embedding."""
  tokens = [9, 3, 7, 1, 8, 2]
  rows, look = oracle.plain_rows([tokens], len(tokens)), oracle.rng(1).normal(size=(TINY.width, 1))

  def seen(embed):
    return (decoder.hidden(TINY, params | {"embed": embed}, rows)[0] @ look)[:, 0]

  influence_LVD = jax.jit(jax.jacrev(seen))(jnp.asarray(params["embed"]))
  size_LL = np.abs(influence_LVD).sum(axis=-1)[:, tokens]
  assert (size_LL[np.tril_indices(6)] > 1e-3).all()
  assert (size_LL[np.triu_indices(6, 1)] == 0).all()


def test_padding_changes_nothing(params):
  row = [3, 1, 4, 1, 5]
  alone = hidden()(params, oracle.plain_rows([row], 9, pad=0))
  spoiled = hidden()(
    params,
    oracle.plain_rows([row], 9, pad=31)._replace(
      positions=np.int32([[0, 1, 2, 3, 4, 70, 3, 1, 2]])
    ),
  )
  np.testing.assert_array_equal(alone[:, :5], spoiled[:, :5])
  np.testing.assert_allclose(alone[0, :5], oracle.hidden(TINY, params, row), rtol=1e-4, atol=1e-5)
  assert np.isfinite(alone).all()


@pytest.mark.parametrize("detach", [False, True])
def test_every_branch_of_a_tree_equals_its_own_row_behind_the_prompt(params, detach):
  states = hidden(detach=detach)(params, tree(detach=detach))[0]
  at = 4
  branches = [TARGET, *([TARGET] if detach else []), POSITIVE, NEGATIVE]
  for branch in branches:
    want = oracle.hidden(TINY, params, PROMPT + branch)
    np.testing.assert_allclose(states[:4], want[:4], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(states[at : at + len(branch)], want[4:], rtol=1e-4, atol=1e-5)
    at += len(branch)


def test_detaching_changes_no_value(params):
  rows = tree(detach=True)
  np.testing.assert_array_equal(hidden(detach=True)(params, rows), hidden()(params, rows))


def test_detached_branches_send_no_gradient_to_the_prompt_and_the_target_still_does(params):
  """Prompt tokens occur nowhere else, so their rows of the embedding hold their gradient."""
  rows = tree(detach=True)
  segments = rows.segments[0]

  @functools.partial(jax.jit, static_argnames="detach")
  def sent(chosen_L, detach):
    def total(embed):
      states = decoder.hidden(TINY, params | {"embed": embed}, rows, detach=detach)[0]
      return jnp.sum(jnp.sum(states**3, axis=-1) * chosen_L)

    return jax.grad(total)(jnp.asarray(params["embed"]))

  for segment in (encode.ANCHOR, encode.POSITIVE, encode.NEGATIVE):
    grads = sent(np.float32(segments == segment), True)
    assert (grads[np.array(PROMPT)] == 0).all() and np.abs(grads).max() > 1e-2
    assert np.abs(sent(np.float32(segments == segment), False)[np.array(PROMPT)]).max() > 1e-2
  target = np.float32(segments == encode.TARGET)
  np.testing.assert_allclose(sent(target, True), sent(target, False), rtol=1e-4, atol=1e-6)
  assert np.abs(sent(target, True)[np.array(PROMPT)]).max() > 1e-2


def test_computing_in_bfloat16_keeps_parameters_and_gradients_in_float32(params):
  small = dataclasses.replace(TINY, dtype="bfloat16")
  rows = oracle.plain_rows([[3, 1, 4, 1, 5, 9]], 6)
  assert {x.dtype for x in jax.tree.leaves(decoder.shapes(small))} == {jnp.dtype("float32")}
  states = hidden(small)(params, rows)
  assert states.dtype == jnp.bfloat16
  computed = lambda w: hidden()(w, rows)
  # Sums are accumulated in float32: a product rounds its weights once.
  allowed = rounding.bounds(computed, params, length=1, dtype=jnp.bfloat16)
  rounding.assert_within(np.float32(states), computed(params), allowed)
  assert np.abs(np.float32(states) - computed(params)).max() > 1e-3, (
    "otherwise nothing is in bfloat16"
  )
  total = lambda p: jnp.sum(decoder.hidden(small, p, rows).astype(jnp.float32) ** 2)
  grads = jax.eval_shape(jax.grad(total), params)
  assert {x.dtype for x in jax.tree.leaves(grads)} == {jnp.dtype("float32")}


def test_new_parameters_differ_between_layers_and_depend_on_the_key():
  init = jax.jit(functools.partial(decoder.init, TINY))
  fresh, again, other = init(jax.random.key(0)), init(jax.random.key(0)), init(jax.random.key(1))
  jax.tree.map(np.testing.assert_array_equal, fresh, again)
  assert (fresh["embed"] != other["embed"]).any()
  for name, value in fresh["blocks"].items():
    same = (value[0] == value[1]).all()
    assert same == name.endswith("norm"), name
  assert jax.tree.map(lambda x: (x.shape, x.dtype), fresh) == jax.tree.map(
    lambda x: (x.shape, x.dtype), decoder.shapes(TINY)
  )
