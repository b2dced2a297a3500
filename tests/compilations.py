"""Counts XLA compilations, and makes them fast."""

import contextlib

import jax


@contextlib.contextmanager
def counted():
  """Yields a list that grows by one with every program compiled inside the block."""
  seen = []

  def note(event: str, _seconds: float, **_):
    if event == "/jax/core/compile/backend_compile_duration":
      seen.append(event)

  jax.monitoring.register_event_duration_secs_listener(note)
  try:
    yield seen
  finally:
    jax.monitoring.unregister_event_duration_listener(note)


def quick():
  """The body of a fixture: programs compile fast and run slowly, which suits those that run once.

  Only the last step of the compiler is skipped; memory use and communication stay the same.
  """
  before = jax.config.read("jax_disable_most_optimizations")
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", before)
