"""Ctrl-C where work can stop only at some points: the first stops it there, the second at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from distill_jax import errors, together
from distill_jax.teacher.client import interrupts

TRAINING = "Interrupted. Saving at the next log row. Interrupt again to exit now."


class StopRequest:
  """Whether the process has been asked to stop."""

  def __init__(self, notice: str) -> None:
    """Creates a request that has not been made; `notice` is printed when it is made."""
    self.made, self._notice = False, notice

  def on_signal(self, *_: object) -> None:
    """Handles the first signal."""
    self.made = True
    for number in interrupts.watched():
      signal.signal(number, errors.SecondSignal())
    with contextlib.suppress(OSError):  # not sys.stderr, which may be in use
      os.write(2, f"distill-jax: {self._notice}\n".encode())


@contextlib.contextmanager
def watch(notice: str = TRAINING) -> Iterator[StopRequest]:
  """Yields a request that the first signal of `interrupts.watched` makes; a second one exits.

  The first one prints `notice`.

  Signals reach the main thread only: in another thread, no request is ever made. Of several
  processes, only process 0 has requests; the others pass their signals on to it.
  """
  request = StopRequest(notice)
  if threading.current_thread() is not threading.main_thread() or not together.is_first():
    yield request
    return
  previous = {number: signal.signal(number, request.on_signal) for number in interrupts.watched()}
  try:
    yield request
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
