"""Where the reference of a mesh test is computed."""

import contextlib
from collections.abc import Iterator

import jax

from distill_jax.students import sharding


@contextlib.contextmanager
def one_device() -> Iterator[None]:
  """Computes on a mesh of one device, whatever mesh the caller has set.

  What a mesh is compared with must not depend on who asks for it first: a cached reference that is
  first needed inside `jax.set_mesh` would otherwise be computed on that very mesh. This also works
  as a decorator.
  """
  with jax.set_mesh(sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])):
    yield
