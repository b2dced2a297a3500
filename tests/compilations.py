"""Counts what XLA compiles, and lets it compile fast."""

import contextlib

import jax


@contextlib.contextmanager
def counted():
  """A list that grows by one with every program compiled inside."""
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
  """A fixture's body: programs are compiled fast and run slowly, as suits those that run once.

  Only the last stage of the compiler is spared: what a program holds and moves stays the same.
  """
  before = jax.config.read("jax_disable_most_optimizations")
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", before)
