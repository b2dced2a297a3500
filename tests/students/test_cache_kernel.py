"""The kernel that writes columns of a cache writes what the plain operation writes, in place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.students import cache_kernel, sharding, token_rows
from tests.students import oracle


@pytest.mark.parametrize("columns, data, tensor", [(300, 1, 1), (40, 2, 2)])
def test_the_kernel_writes_what_the_plain_operation_writes(columns, data, tensor):
  draw = oracle.rng().normal
  caches = [jnp.asarray(draw(size=(4, 2, columns, 8)), jnp.bfloat16) for _ in range(2)]
  news = [jnp.asarray(draw(size=(4, 2, 1, 8)), jnp.bfloat16) for _ in range(2)]
  position = np.int32([0, columns - 1, columns, columns // 2])  # a full row may be one beyond
  mesh = sharding.make_mesh(data, 1, tensor, devices=jax.devices()[: data * tensor])
  with jax.set_mesh(mesh):
    got = jax.jit(cache_kernel.write)(caches, news, position)
    plain = jax.jit(token_rows.write_columns)(caches, news, position)
  for written, expected, old in zip(got, plain, caches, strict=True):
    np.testing.assert_array_equal(written, expected)
    assert np.any(np.asarray(written) != np.asarray(old), axis=(1, 3)).sum() == 4
