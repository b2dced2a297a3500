"""Every attention path that can run here computes what the plain one computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.students import attention, sharding, splash, token_rows, unfold
from tests import meshes
from tests.students import oracle

LENGTH = 256


def packed_rows(trees: bool = False):
  """Returns two rows: three examples and padding; one example and padding."""
  segments = np.zeros((2, LENGTH), np.int32)
  segments[0, :60], segments[0, 60:130], segments[0, 130:240] = 1, 2, 3
  segments[1, :200] = 1
  positions = np.zeros_like(segments)
  for row, line in zip(segments, positions, strict=True):
    for segment in {*row.tolist()} - {0}:
      line[row == segment] = np.arange((row == segment).sum())
  line = jnp.asarray(positions)
  return token_rows.Rows(line, line, jnp.asarray(segments), line if trees else None)


def material(dtype=np.float32):
  draw = oracle.rng()
  shapes = ((2, LENGTH, 4, 128), (2, 2, LENGTH, 128), (2, 2, LENGTH, 128))
  return [jnp.asarray(draw.normal(size=s), dtype) for s in shapes]


def attended(path, q, k, v, *, window=0, softcap=0.0):
  """Returns the result of attention, 0 at padding."""
  rows = packed_rows()
  out = attention.over_rows(
    q, k, v, rows=rows, mask_BLL=token_rows.visible(rows, window), window=window, scale=0.09,
    softcap=softcap, path=path,
  )  # fmt: skip
  return jnp.where((rows.segments > 0)[..., None, None], out, 0.0)


@pytest.mark.parametrize("window, softcap", [(0, 0.0), (40, 0.0), (0, 5.0)])
def test_splash_equals_the_plain_path_forwards_and_backwards(window, softcap):
  options = dict(window=window, softcap=softcap)
  inputs, look = material(), oracle.rng(1).normal(size=(2, LENGTH, 4, 128)).astype(np.float32)
  total = lambda path: lambda *xs: jnp.sum(attended(path, *xs, **options) * look)
  with jax.default_matmul_precision("highest"):
    for path in ("plain", "splash"):
      out = jax.jit(functools.partial(attended, path, **options))(*inputs)
      grads = jax.jit(jax.grad(total(path), argnums=(0, 1, 2)))(*inputs)
      if path == "plain":
        want, wanted = out, grads
  np.testing.assert_allclose(out, want, atol=2e-5)
  for got, expected in zip(grads, wanted, strict=True):
    np.testing.assert_allclose(got, expected, atol=2e-4)


def tree_rows():
  """Returns two rows: two trees, the second root with three branches; one tree and padding.

  The last branch of each tree sees its root without gradient.
  """
  segments, roots, detached = (np.zeros((2, LENGTH), np.int32) for _ in range(3))
  for row, start, stop, segment, root, stopped in (
    (0, 0, 40, 1, 1, 0), (0, 40, 70, 2, 1, 0), (0, 70, 99, 3, 1, 1), (0, 99, 150, 4, 4, 0),
    (0, 150, 190, 5, 4, 0), (0, 190, 240, 6, 4, 0), (0, 240, 256, 7, 4, 1),
    (1, 0, 130, 1, 1, 0), (1, 130, 200, 2, 1, 1),
  ):  # fmt: skip
    segments[row, start:stop], roots[row, start:stop] = segment, root
    detached[row, start:stop] = stopped
  line = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), segments.shape)
  return token_rows.Rows(*map(jnp.asarray, (line, line, segments, roots, detached)))


def stopped_twice(q, k, v, rows, mask):
  """Detached attention by its definition: a second one, whose roots have no gradient."""
  in_root = (rows.segments == rows.roots)[:, None, :, None]
  stopped = [jnp.where(in_root, jax.lax.stop_gradient(x), x) for x in (k, v)]
  out, detached = (
    attention.attend(q, *xs, mask, scale=0.09, softcap=0.0) for xs in ((k, v), stopped)
  )
  return jnp.where((rows.detached > 0)[:, :, None, None], detached, out)


# One block for all: bash launch/test.sh -m heavy tests/students
@pytest.mark.parametrize(
  "path, block",
  [("plain", 128), ("splash", 128), pytest.param("splash", 256, marks=pytest.mark.heavy)],
)
def test_trees_equal_their_definition_forwards_and_backwards(path, block, monkeypatch):
  monkeypatch.setattr(splash, "BLOCKS", (block,))
  rows, inputs = tree_rows(), material()
  mask, real = token_rows.visible(rows), (rows.segments > 0)[..., None, None]
  look = oracle.rng(1).normal(size=(2, LENGTH, 4, 128)).astype(np.float32)

  def computed(*xs):
    return attention.over_rows(
      *xs, rows=rows, mask_BLL=mask, window=0, scale=0.09, softcap=0.0, path=path, detach=True
    )

  def total(function, *xs):
    out = jnp.where(real, function(*xs), 0.0)
    return jnp.sum(out * look), out

  with jax.default_matmul_precision("highest"):
    (got, slopes), (want, wanted) = (
      (lambda pair: (pair[0][1], pair[1]))(
        jax.jit(jax.value_and_grad(functools.partial(total, f), (0, 1, 2), has_aux=True))(*inputs)
      )
      for f in (computed, lambda *xs: stopped_twice(*xs, rows, mask))
    )
  np.testing.assert_allclose(got, want, atol=2e-5)
  for slope, expected in zip(slopes, wanted, strict=True):
    np.testing.assert_allclose(slope, expected, atol=2e-4)


def test_unfolded_trees_equal_their_definition_forwards_and_backwards():
  """On GPU every branch gets a copy of the root, and plain causal attention."""
  segments, detached = np.zeros((3, 24), np.int32), np.zeros((3, 24), np.int32)
  for row, segment, start, stop in (
    (0, 1, 0, 5), (0, 2, 5, 9), (0, 5, 9, 14), (0, 3, 14, 15), (0, 4, 15, 24),
    (1, 1, 0, 9), (1, 2, 9, 12), (1, 3, 12, 20), (2, 1, 0, 1), (2, 2, 1, 3),
  ):  # fmt: skip
    segments[row, start:stop], detached[row, start:stop] = segment, segment > 2
  roots = np.int32(segments > 0)
  rows = token_rows.Rows(*map(jnp.asarray, (segments, segments, segments, roots, detached)))
  draw = oracle.rng().normal
  q, k, v = (jnp.float32(draw(size=(3, 24, heads, 8))) for heads in (4, 2, 2))
  look = np.where((segments > 0)[..., None, None], draw(size=q.shape), 0.0)
  line = jnp.tril(jnp.ones((24, 24), bool))[None]
  turn = lambda x: x.swapaxes(1, 2)
  causal = lambda q, k, v: attention.attend(q, turn(k), turn(v), line, scale=0.09)
  unfolded = lambda *xs: unfold.attend(causal, *xs, rows, branches=4, detach=True)
  mask = token_rows.visible(rows)
  defined = lambda q, k, v: stopped_twice(q, turn(k), turn(v), rows, mask)
  with jax.default_matmul_precision("highest"):
    (got, slopes), (want, wanted) = (
      jax.jit(jax.value_and_grad(lambda *xs, f=f: jnp.sum(f(*xs) * look), (0, 1, 2)))(q, k, v)
      for f in (unfolded, defined)
    )
  np.testing.assert_allclose(got, want, rtol=1e-5)
  for slope, expected in zip(slopes, wanted, strict=True):
    np.testing.assert_allclose(slope, expected, atol=2e-5)


def test_splash_gives_the_same_on_a_mesh():
  mesh = sharding.make_mesh(data=2, fsdp=1, tensor=2, devices=jax.devices()[:4])
  with meshes.one_device():
    want = jax.jit(functools.partial(attended, "splash"))(*material())
  with jax.set_mesh(mesh):
    got = jax.jit(functools.partial(attended, "splash"))(*material())
  np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs an NVIDIA GPU")
def test_cudnn_equals_the_plain_path():
  inputs = [x.astype(jnp.bfloat16) for x in material()]
  np.testing.assert_allclose(
    *(np.float32(jax.jit(functools.partial(attended, p))(*inputs)) for p in ("cudnn", "plain")),
    atol=2e-2,
  )


@pytest.mark.parametrize(
  "path, dtype, softcap, why",
  [("cudnn", np.float32, 0.0, "16 bits"), ("cudnn", jnp.bfloat16, 5.0, "soft-cap")],
)
def test_a_path_that_cannot_run_says_why(path, dtype, softcap, why):
  with pytest.raises(ValueError, match=why):
    attended(path, *material(dtype), softcap=softcap)


def test_splash_rejects_trees_with_a_window_and_rows_that_are_not_whole_blocks():
  q, k, v = material()
  call = lambda q, k, v, rows, window=0: attention.over_rows(
    q, k, v, rows=rows, mask_BLL=None, window=window, scale=1.0, softcap=0.0, path="splash"
  )
  with pytest.raises(ValueError, match="trees"):
    call(q, k, v, packed_rows(trees=True), 40)
  with pytest.raises(ValueError, match="not a multiple of 128"):
    call(q[:, :200], k[:, :, :200], v[:, :, :200], packed_rows())


def test_splash_takes_trees_whose_places_fit_into_one_number():
  blocks = {length: splash.block_of(length, trees=True) for length in (512, 8192, 16384, 32768)}
  assert blocks == {512: 512, 8192: 512, 16384: 1024, 32768: 0}
  assert splash.block_of(32768, trees=False) == 512


@pytest.mark.parametrize("path", ["plain", "splash"])
def test_detaching_rows_that_do_not_say_where_is_rejected(path):
  rows = packed_rows(trees=True)
  with pytest.raises(ValueError, match=r"needs rows\.detached"):
    attention.over_rows(
      *material(), rows=rows, mask_BLL=token_rows.visible(rows), window=0, scale=1.0, softcap=0.0,
      path=path, detach=True,
    )  # fmt: skip


def test_on_this_device_auto_is_the_plain_path():
  inputs = material()
  np.testing.assert_array_equal(attended("auto", *inputs), attended("plain", *inputs))
