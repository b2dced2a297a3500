"""The encoder-decoder student against a float64 oracle: rows, cache and mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.students import lora, sharding, t5, t5_layers, token_rows
from tests import compilations, meshes, rounding
from tests.students import oracle, oracle_t5

FIRST, SECOND = oracle_t5.FIRST, oracle_t5.SECOND
BOTH = pytest.mark.parametrize("config", [FIRST, SECOND], ids=["v1.0", "v1.1"])
LORA_TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
LONG = [*oracle.rng(5).integers(2, 32, 17)]  # longer than the distance that buckets tell apart
SHORT = [5, 6, 7]
TARGET, POSITIVE, NEGATIVE = [0, 10, 11, 12, 8], [20, 21], [13, 14, 15, 9]

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)


@functools.cache
def hidden(config, **options):
  return jax.jit(functools.partial(t5.hidden, config, **options))


def assert_oracle(got, oracle_of, config, weights, *given):
  """`got` [L, ...] is oracle_of(config, weights, *given), as close as rounding allows."""
  computed = lambda w: oracle_of(config, w, *given)
  allowed = rounding.bounds(computed, weights, length=max(config.mlp, config.vocab))
  rounding.assert_within(got, computed(weights), allowed)


def rows_of(*packs, length: int, source_length: int, pad: int = 0):
  """Returns rows from packs: lists of (source, target, branches).

  A branch hangs on the start token and is detached.
  """
  out = token_rows.Rows(
    *(np.zeros((len(packs), length), np.int32) for _ in range(5)),
    *(np.zeros((len(packs), source_length), np.int32) for _ in range(2)),
  )
  out.tokens[:], out.source[:] = pad, pad
  for n, pack in enumerate(packs):
    at, source_at, segment = 0, 0, 0
    for source, target, branches in pack:
      root = segment = segment + 1
      out.source[n, source_at : source_at + len(source)] = source
      out.source_segments[n, source_at : source_at + len(source)] = root
      source_at += len(source)
      for first, part in enumerate([target[:1], target[1:], *branches]):
        here = slice(at, at + len(part))
        out.tokens[n, here] = part
        out.positions[n, here] = np.arange(len(part)) + (first > 0)
        out.segments[n, here], out.roots[n, here] = segment, root
        out.detached[n, here] = first > 1
        at, segment = at + len(part), segment + 1
  return out


TREE = rows_of(
  [(LONG, TARGET, [POSITIVE, NEGATIVE]), (SHORT, TARGET[:3], [])],
  [(SHORT, [*TARGET, *LONG], [])],
  length=24,
  source_length=22,
)


def test_offsets_have_the_buckets_of_the_paper():
  """32 buckets up to 128 tokens: those of every released T5."""
  offsets = np.arange(-300, 301)
  table = np.float32(np.arange(32))[:, None]
  for both_ways in (True, False):
    seen = offsets if both_ways else -np.abs(offsets)
    got = t5_layers.relative_bias(
      jnp.asarray(table), jnp.asarray(seen)[None, None], distance=128, both_ways=both_ways
    )
    want = [oracle_t5.bucket(offset, 32, 128, both_ways) for offset in seen]
    np.testing.assert_array_equal(got[0, 0, 0], want)
  edges = [offset for offset in range(1, 300) if want[300 - offset] != want[301 - offset]]
  assert edges == [*range(1, 17), 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]


@BOTH
def test_packed_rows_and_trees_equal_the_oracle_of_each_sequence_alone(config):
  weights = oracle_t5.params(config)
  states = hidden(config)(weights, TREE)
  check = lambda got, *given: assert_oracle(got, oracle_t5.hidden, config, weights, *given)
  check(states[0, :5], LONG, TARGET)
  for at, branch in ((5, POSITIVE), (7, NEGATIVE)):
    row = TARGET[:1] + branch
    check(jnp.concatenate([states[0, :1], states[0, at : at + len(branch)]]), LONG, row)
  check(states[0, 11:14], SHORT, TARGET[:3])
  check(states[1, :22], SHORT, [*TARGET, *LONG])
  got = jax.nn.log_softmax(states[1, :22] @ t5.head(config, jax.tree.map(jnp.asarray, weights)))
  assert_oracle(got, oracle_t5.logprobs, config, weights, SHORT, [*TARGET, *LONG])


def test_padding_changes_nothing():
  weights = oracle_t5.params(SECOND)
  spoiled = TREE._replace(
    tokens=np.where(TREE.segments == 0, 31, TREE.tokens),
    positions=np.where(TREE.segments == 0, 77, TREE.positions),
    source=np.where(TREE.source_segments == 0, 30, TREE.source),
  )
  states, again = hidden(SECOND)(weights, TREE), hidden(SECOND)(weights, spoiled)
  np.testing.assert_array_equal(states[TREE.segments > 0], again[TREE.segments > 0])
  assert np.isfinite(states).all()


def test_the_encoder_sees_both_ways_and_the_decoder_only_back():
  """By gradient: all tokens differ, so each has its own row of the embedding."""
  weights, source, tokens = oracle_t5.params(FIRST), [9, 3, 7], [0, 8, 2, 4]
  rows = rows_of([(source, tokens, [])], length=4, source_length=3)
  look = oracle.rng(1).normal(size=(FIRST.width, 1))

  def seen(embed):
    return (t5.hidden(FIRST, weights | {"embed": embed}, rows)[0] @ look)[:, 0]

  def encoded(embed):
    read = t5.encode(FIRST, weights | {"embed": embed}, rows.source, rows.source_segments)
    return (read[0] @ look)[:, 0]

  size = lambda f: np.abs(jax.jit(jax.jacrev(f))(jnp.asarray(weights["embed"]))).sum(axis=-1)
  size_LV = size(seen)
  assert (size_LV[:, source] > 1e-4).all()
  assert (size_LV[:, tokens][np.tril_indices(4)] > 1e-4).all()
  assert (size_LV[:, tokens][np.triu_indices(4, 1)] == 0).all()
  assert (size(encoded)[:, source] > 1e-4).all()


def test_detaching_changes_no_value():
  weights = oracle_t5.params(FIRST)
  want = hidden(FIRST)(weights, TREE)
  np.testing.assert_array_equal(hidden(FIRST, detach=True)(weights, TREE), want)


def test_recomputing_in_the_backward_pass_changes_no_gradient():
  weights = oracle_t5.params(FIRST)

  @functools.partial(jax.jit, static_argnames="remat")
  def grads(params, remat):
    total = lambda p: jnp.sum(jnp.square(t5.hidden(FIRST, p, TREE, remat=remat)))
    return jax.grad(total)(params)

  want = grads(weights, "none")
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())
  jax.tree.map(close, grads(weights, "dots"), want)
  jax.tree.map(close, grads(weights, "full"), want)


def test_rows_that_are_not_trees_need_no_roots():
  weights = oracle_t5.params(FIRST)
  packs = [(LONG, TARGET, []), (SHORT, TARGET[:3], [])]
  rows = rows_of(packs, length=9, source_length=21)
  plain = rows._replace(segments=rows.roots, roots=None, detached=None)
  want = hidden(FIRST)(weights, rows)
  np.testing.assert_array_equal(hidden(FIRST)(weights, plain)[0, :8], want[0, :8])


def test_an_attention_path_without_a_relative_bias_is_rejected():
  auto = functools.partial(t5.hidden, FIRST, path="auto")
  jax.eval_shape(auto, t5.shapes(FIRST), TREE)
  for path in ("cudnn", "splash", "fast"):
    with pytest.raises(ValueError, match="relative bias"):
      t5.hidden(FIRST, t5.shapes(FIRST), TREE, path=path)


def test_attached_adapters_compute_what_merged_ones_do():
  weights = jax.tree.map(jnp.asarray, oracle_t5.params(SECOND))
  names, shapes = t5.axes(SECOND), t5.shapes(SECOND)
  fresh = lora.init(jax.random.key(0), names, shapes, rank=2, targets=LORA_TARGETS)
  assert set(fresh["decoder"]["cross"]) == {"q", "k", "v", "o"}
  trained = jax.tree.map(lambda x: np.float32(0.3 * oracle.rng(2).normal(size=x.shape)), fresh)
  attached = lora.attach(weights, trained, 2.0)
  merged, real = lora.merge(attached), TREE.segments > 0
  states = lambda params: hidden(SECOND)(params, TREE)[real]
  prefill = jax.jit(functools.partial(t5.prefill, SECOND))
  logits = lambda params: prefill(params, np.int32([LONG]), np.int32([17]))[0]
  for computed in (states, logits):
    allowed = rounding.bounds(computed, merged, length=SECOND.mlp)
    rounding.assert_within(computed(attached), computed(merged), allowed)
    assert np.abs(computed(merged) - computed(weights)).max() > 0.1


def test_detached_branches_send_no_gradient_to_source_and_root_and_the_target_does():
  """Start and source tokens occur nowhere else, so their embeddings hold their gradient."""
  weights = oracle_t5.params(SECOND)
  rows = rows_of([([3, 4, 5], TARGET, [POSITIVE, NEGATIVE])], length=12, source_length=4)
  prompt = np.array([0, 3, 4, 5])

  @functools.partial(jax.jit, static_argnames="detach")
  def gradient(weights, chosen_L, detach):
    def total(embed):
      states = t5.hidden(SECOND, weights | {"embed": embed}, rows, detach=detach)[0]
      return jnp.sum(jnp.sum(states**3, axis=-1) * chosen_L)

    return jax.grad(total)(jnp.asarray(weights["embed"]))

  def sent(chosen_L, detach):
    return gradient(weights, chosen_L, detach)

  branches, target = np.float32(rows.detached[0]), np.float32(rows.segments[0] == 2)
  grads = sent(branches, True)
  assert (grads[prompt] == 0).all() and np.abs(grads).max() > 1e-2
  assert (np.abs(sent(branches, False)[prompt]).max(axis=-1) > 1e-2).all()
  allowed = rounding.bounds(
    lambda w: gradient(w, target, False), weights, length=max(SECOND.mlp, SECOND.vocab)
  )
  rounding.assert_within(sent(target, True), sent(target, False), allowed)
  assert (np.abs(sent(target, True)[prompt]).max(axis=-1) > 1e-2).all()


@BOTH
def test_decoding_token_by_token_equals_reading_the_whole_row(config):
  """Unused columns hold garbage; the second row starts when the first is half done."""
  weights, late = oracle_t5.params(config), 12
  sources, targets = [LONG, SHORT], [[*oracle.rng(7).integers(2, 32, n)] for n in (20, 15)]
  computed = lambda w: [
    oracle_t5.logprobs(config, w, source, [0, *target])
    for source, target in zip(sources, targets, strict=True)
  ]
  want = computed(weights)
  allowed = rounding.bounds(computed, weights, length=max(config.mlp, config.vocab))
  tokens = np.int32([row + [31] * (20 - len(row)) for row in sources])
  logits, cache, filled = jax.jit(functools.partial(t5.prefill, config))(
    weights, tokens, np.int32([17, 3])
  )
  assert logits.dtype == jnp.float32 and filled.tolist() == [1, 1]
  assert {x.shape for x in cache.keys + cache.values} == {(2, config.heads, 1, config.head_width)}
  rounding.assert_within([*jax.nn.log_softmax(logits)], [w[0] for w in want], allowed)

  longer = lambda x: jnp.full((*x.shape[:2], 24, x.shape[3]), 9.0).at[:, :, :1].set(x)
  cache = cache._replace(keys=(*map(longer, cache.keys),), values=(*map(longer, cache.values),))
  layers = t5.unstack_layers(config, weights)
  step = jax.jit(functools.partial(t5.decode_step, config))
  for n in range(late + 15):
    done = (n, n - late)
    inside = [0 <= at < len(target) for at, target in zip(done, targets, strict=True)]
    token = [target[at] if i else 1 for target, at, i in zip(targets, done, inside, strict=True)]
    position = np.int32([1 + n, max(1 + n - late, 1)])
    logits, cache = step(weights, layers, np.int32(token), position, cache)
    got = jax.nn.log_softmax(logits)
    for row in range(2):
      if inside[row]:
        rounding.assert_within(got[row], want[row][done[row] + 1], allowed[row])


def test_an_empty_prompt_fills_up_the_batch_and_changes_nothing():
  weights = oracle_t5.params(FIRST)
  tokens, read = np.int32([SHORT, SHORT]), jax.jit(functools.partial(t5.prefill, FIRST))
  with_filler, _, _ = read(weights, tokens, np.int32([3, 0]))
  alone, _, _ = read(weights, tokens, np.int32([3, 3]))
  np.testing.assert_array_equal(with_filler[0], alone[0])
  assert np.isfinite(with_filler).all()


def test_new_parameters_have_the_scales_of_t5():
  config = dataclasses.replace(
    SECOND, vocab=300, width=64, head_width=16, mlp=256, buckets=64, layers=2, decoder_layers=2
  )
  fresh = jax.jit(functools.partial(t5.init, config))(jax.random.key(0))
  near, inner = 64**-0.5, (4 * 16) ** -0.5
  attention = dict(q=near / 4, k=near, v=near, o=inner, norm=0)
  mlp = dict(gate=near, up=near, down=256**-0.5, norm=0)
  want = dict(
    embed=1, head=1, encoder_relative=near, decoder_relative=near, encoder_norm=0, norm=0,
    encoder=dict(attention=attention, mlp=mlp),
    decoder=dict(attention=attention, cross=attention, mlp=mlp),
  )  # fmt: skip
  jax.tree.map(lambda x, std: np.testing.assert_allclose(np.std(x), std, rtol=0.15), fresh, want)
  norms = [fresh["norm"], fresh["encoder_norm"], fresh["decoder"]["cross"]["norm"]]
  assert all((x == 1).all() for x in norms)
  assert (fresh["encoder"]["attention"]["q"][0] != fresh["encoder"]["attention"]["q"][1]).any()
  assert (fresh["decoder"]["attention"]["q"] != fresh["decoder"]["cross"]["q"]).any()


def test_the_head_of_a_tied_student_is_its_embedding():
  assert "head" not in t5.shapes(FIRST)
  assert t5.shapes(SECOND)["head"].shape == (SECOND.width, SECOND.vocab)
  gated = lambda config: "gate" in t5.shapes(config)["decoder"]["mlp"]
  assert gated(SECOND) and not gated(FIRST)


def test_computing_in_bfloat16_keeps_parameters_and_gradients_in_float32():
  small, weights = dataclasses.replace(FIRST, dtype="bfloat16"), oracle_t5.params(FIRST)
  states = hidden(small)(weights, TREE)
  assert states.dtype == jnp.bfloat16
  total = lambda p: jnp.sum(t5.hidden(small, p, TREE).astype(jnp.float32) ** 2)
  grads = jax.eval_shape(jax.grad(total), weights)
  assert {x.dtype for x in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
  logits, cache, _ = jax.eval_shape(
    functools.partial(t5.prefill, small), weights, np.int32([SHORT]), np.int32([3])
  )
  assert logits.dtype == jnp.float32
  assert {x.dtype for x in cache.keys + cache.values} == {jnp.dtype("bfloat16")}


def test_eight_devices_compute_what_one_computes():
  weights = oracle_t5.params(SECOND)
  rows = jax.tree.map(lambda x: np.concatenate([x, x]), TREE)  # 4 rows over data x fsdp

  def loss_and_grads(params, rows):
    return jax.value_and_grad(lambda p: jnp.sum(jnp.square(t5.hidden(SECOND, p, rows))))(params)

  with meshes.one_device():
    one, one_grads = jax.jit(loss_and_grads)(weights, rows)
  mesh = sharding.make_mesh(2, 2, 2)
  shardings = sharding.of_params(mesh, t5.axes(SECOND), t5.shapes(SECOND))
  assert shardings["encoder"]["attention"]["q"].spec == jax.sharding.PartitionSpec(
    None, "fsdp", "tensor", None
  )
  with jax.set_mesh(mesh):
    placed = jax.tree.map(jax.device_put, weights, shardings)
    eight, eight_grads = jax.jit(loss_and_grads)(
      placed, jax.tree.map(lambda x: jax.device_put(x, sharding.batch(mesh)), rows)
    )
  np.testing.assert_allclose(one, eight, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(a).max()),
    one_grads,
    eight_grads,
  )
