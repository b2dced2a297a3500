"""Spares the garbage collector the objects of the loaded modules while requests are sent."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def modules_frozen() -> Iterator[None]:
  """Keeps the garbage collector from visiting what exists already, in this context.

  Each request makes many objects, which starts collections, and the loaded modules have 100,000:
  visiting them takes a tenth of the client's CPU time.
  """
  if gc.get_freeze_count():  # objects that the caller has frozen stay frozen
    yield
    return
  gc.freeze()
  try:
    yield
  finally:
    gc.unfreeze()
