"""The identity of weights."""

import hashlib

import jax
import numpy as np

from distill_jax.runtime.student import Params
from distill_jax.students import sharding


def digest(tree: Params) -> str:
  """Returns the sha256 of a pytree of arrays: paths, types, shapes and values."""
  total = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    value = np.ascontiguousarray(sharding.to_host(leaf))
    total.update(f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}".encode())
    total.update(value.view(np.uint8).data if value.ndim else value.tobytes())
  return total.hexdigest()
