"""The table of sharding rules: every axis has one, and each of them has an effect."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.learning import optim, step
from distill_jax.students import decoder, sharding, t5
from tests.students import oracle, oracle_t5

CONFIG = oracle.UNTIED


def is_axes(x) -> bool:
  return isinstance(x, tuple)


def leaves():
  """Returns (logical axes, shape) of every parameter."""
  axes = jax.tree.leaves(decoder.axes(CONFIG), is_leaf=is_axes)
  shapes = jax.tree.leaves(decoder.shapes(CONFIG))
  return list(zip(axes, shapes, strict=True))


def test_every_axis_has_a_rule_and_every_rule_an_axis():
  named = {name for axes, _ in leaves() for name in axes if name is not None}
  assert named | {"batch"} == set(sharding.RULES)


def test_every_dimension_of_every_parameter_has_its_axis():
  assert all(len(axes) == len(shape.shape) for axes, shape in leaves())
  assert jax.tree.structure(decoder.axes(CONFIG), is_leaf=is_axes) == jax.tree.structure(
    decoder.shapes(CONFIG)
  )


def test_every_rule_names_axes_of_the_mesh_and_no_parameter_uses_one_twice():
  for axes, _ in leaves():
    names = [name for name in sharding.spec(axes) if name is not None]
    assert set(names) <= set(sharding.MESH_AXES) and len(set(names)) == len(names), axes


@pytest.mark.parametrize("sizes", [(1, 4, 2), (2, 2, 2), (4, 1, 2), (1, 8, 1)])
def test_shards_really_shrink_by_the_size_of_their_mesh_axes(sizes):
  mesh = sharding.make_mesh(*sizes)
  shardings = jax.tree.leaves(
    sharding.of_params(mesh, decoder.axes(CONFIG), decoder.shapes(CONFIG))
  )
  for (axes, shape), placed in zip(leaves(), shardings, strict=True):
    divide = [
      1 if sharding.RULES.get(axis) is None else mesh.shape[sharding.RULES[axis]] for axis in axes
    ]
    want = tuple(n // by for n, by in zip(shape.shape, divide, strict=True))
    assert placed.shard_shape(shape.shape) == want, axes


def test_every_matrix_is_split_over_a_mesh_with_fsdp_and_tensor():
  mesh = sharding.make_mesh(2, 2, 2)
  shardings = jax.tree.leaves(
    sharding.of_params(mesh, decoder.axes(CONFIG), decoder.shapes(CONFIG))
  )
  for (axes, shape), placed in zip(leaves(), shardings, strict=True):
    if "norm" not in axes:
      assert math.prod(placed.shard_shape(shape.shape)) * 4 == math.prod(shape.shape), axes


def test_a_dimension_that_does_not_divide_is_not_split():
  mesh = sharding.make_mesh(1, 1, 8)
  shapes = decoder.shapes(CONFIG)
  shardings = sharding.of_params(mesh, decoder.axes(CONFIG), shapes)
  q, gate = shapes["blocks"]["q"].shape, shapes["blocks"]["gate"].shape
  assert shardings["blocks"]["q"].shard_shape(q) == q  # 4 heads over 8 devices
  assert shardings["blocks"]["gate"].shard_shape(gate) == (2, 16, 3)


def test_the_moments_of_the_optimizer_are_placed_like_their_parameters():
  mesh = sharding.make_mesh(2, 2, 2)
  shapes, axes = decoder.shapes(CONFIG), decoder.axes(CONFIG)
  tx = optim.adamw(
    lambda _: 1.0, beta1=0.9, beta2=0.9, eps=1e-8, weight_decay=0.1, grad_clip_norm=1.0
  )
  shardings = step.state_shardings(mesh, axes, shapes, tx)
  state = jax.eval_shape(lambda p: step.init_state(p, tx), shapes)
  assert jax.tree.structure(shardings) == jax.tree.structure(state)
  params = sharding.of_params(mesh, axes, shapes)
  mirrors = [
    node
    for node in jax.tree.leaves(
      shardings.opt_state, is_leaf=lambda x: jax.tree.structure(x) == jax.tree.structure(params)
    )
    if isinstance(node, dict)
  ]
  assert mirrors == [params, params]
  assert shardings.params == params and shardings.step.is_fully_replicated


@pytest.mark.parametrize("model, config", [(decoder, CONFIG), (t5, oracle_t5.SECOND)])
def test_the_cached_description_of_a_model_does_not_depend_on_the_mesh_of_its_first_caller(
  model, config
):
  want = model._describe.__wrapped__(config)
  with jax.set_mesh(sharding.make_mesh(2, 2, 2)):
    got = model._describe.__wrapped__(config)
  assert got == want


def test_rows_are_split_over_data_and_fsdp():
  for sizes, rows in (((8, 1, 1), 2), ((2, 2, 2), 4), ((1, 8, 1), 2), ((1, 1, 8), 16)):
    placed = sharding.batch(sharding.make_mesh(*sizes))
    assert placed.shard_shape((16, 5)) == (rows, 5)


def test_one_size_may_take_all_devices_that_are_left():
  for sizes, want in (
    ((-1, 1, 1), (8, 1, 1)),
    ((2, -1, 2), (2, 2, 2)),
    ((1, 2, -1), (1, 2, 4)),
    ((-1, 8, 1), (1, 8, 1)),
  ):
    mesh = sharding.make_mesh(*sizes)
    assert tuple(mesh.shape[name] for name in sharding.MESH_AXES) == want
  assert sharding.make_mesh(devices=jax.devices()[:4]).shape["data"] == 4


@pytest.mark.parametrize(
  "sizes",
  [(2, 2, 1), (3, 1, 1), (-1, -1, 1), (-1, 3, 1), (-1, 16, 1), (-1, 0, 1), (0, 1, 1), (-2, -4, 1)],
)
def test_sizes_that_do_not_multiply_to_the_devices_are_rejected(sizes):
  with pytest.raises(ValueError, match="mesh"):
    sharding.make_mesh(*sizes)


def test_the_mesh_leaves_the_placement_to_the_compiler():
  mesh = sharding.make_mesh(2, 2, 2)
  assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


def test_an_activation_is_pinned_under_a_mesh_and_left_alone_without_one():

  def pin():
    return jax.jit(lambda x: sharding.constrain(x + 1, "batch", None))

  x = np.zeros((8, 3), np.float32)
  assert len(pin()(x).sharding.device_set) == 1
  with jax.set_mesh(sharding.make_mesh(2, 4, 1)):
    assert pin()(x).sharding.shard_shape((8, 3)) == (1, 3)
    assert pin()(jnp.zeros((3, 3))).sharding.shard_shape((3, 3)) == (3, 3)
