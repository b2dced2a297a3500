"""Ctrl-C while a teacher is asked: at first, what is in flight is awaited; then, no more."""

import asyncio
import contextlib
import os
import signal
import threading

from distill_jax import errors

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_senders: set = set()  # (event loop, sender) of every ask under way, in whichever thread


@contextlib.contextmanager
def heard(sender):
  """Within this context a first SIGINT or SIGTERM stops `sender`, and a second ends the process.

  `sender` has in_flight and stop(reason). Signals reach the main thread only: an ask of another
  thread is stopped by them if the main one is within listening() or an ask of its own.
  """
  entry = (asyncio.get_running_loop(), sender)
  _senders.add(entry)
  try:
    with listening():
      yield
  finally:
    _senders.discard(entry)


@contextlib.contextmanager
def listening():
  """Within this context SIGINT and SIGTERM go to the asks that are under way."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = {number: signal.signal(number, _first) for number in SIGNALS}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _first(*_) -> None:
  for number in SIGNALS:
    signal.signal(number, _second)
  flying = sum(sender.in_flight for _, sender in list(_senders))
  _say(
    f"interrupted; {flying} requests to the teacher are in flight, and their replies will be kept;"
    " once more to leave now"
  )
  reason = errors.UserError(
    "interrupted; every reply that came is kept: run the same command again to go on from here",
    errors.PREEMPTED,
  )
  for loop, sender in list(_senders):
    loop.call_soon_threadsafe(sender.stop, reason)


def _second(*_) -> None:
  _say("left; replies that were in flight are lost, and may have to be paid for again")
  os._exit(errors.PREEMPTED)


def _say(text: str) -> None:
  """Not through sys.stderr, which the interrupted code may be in the middle of."""
  with contextlib.suppress(OSError):
    os.write(2, f"distill_jax: {text}\n".encode())
