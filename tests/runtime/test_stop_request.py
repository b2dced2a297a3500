"""The first signal asks a training to stop; the handlers before it come back."""

import os
import signal

from distill_jax.runtime import stop_request


def test_a_signal_is_a_request_and_the_previous_handlers_come_back():
  before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
  with stop_request.watch() as stop:
    assert not stop.made
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.made
  assert before == {n: signal.getsignal(n) for n in before}
