"""Ctrl-C during an `ask`: the first awaits the requests in flight, the second exits at once."""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Protocol

from distill_jax import errors

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECOND_SIGNAL = errors.SecondSignal("Exiting. Replies in flight are lost and may be billed again.")


class Stoppable(Protocol):
  """An `ask` that is under way."""

  @property
  def in_flight(self) -> int:
    """Requests that have no response yet."""
    ...

  def stop(self, reason: BaseException) -> None:
    """Sends nothing from now on, and raises `reason` once nothing is in flight."""
    ...


# Every `ask` under way, in whichever thread.
_active: set[tuple[asyncio.AbstractEventLoop, Stoppable]] = set()


@contextlib.contextmanager
def stop_on_signals(ask: Stoppable) -> Iterator[None]:
  """Within this context, a first signal of SIGNALS stops `ask`, a second ends the process.

  Signals reach the main thread only. They stop an `ask` of another thread if the main thread is
  inside `handle_signals`, or inside an `ask` of its own.
  """
  entry = (asyncio.get_running_loop(), ask)
  _active.add(entry)
  try:
    with handle_signals():
      yield
  finally:
    _active.discard(entry)


@contextlib.contextmanager
def handle_signals() -> Iterator[None]:
  """Within this context, every signal of `watched` stops every `ask` under way."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  previous = {number: signal.signal(number, _on_first_signal) for number in watched()}
  try:
    yield
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


def stop_all(reason: BaseException) -> None:
  """Stops every `ask` under way, in whichever thread; each raises `reason`."""
  for loop, ask in list(_active):
    with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
      loop.call_soon_threadsafe(ask.stop, reason)


def watched() -> list[signal.Signals]:
  """Returns the signals that end a run: SIGNALS, but not a SIGHUP that is ignored (`nohup`)."""
  return [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]


def _on_first_signal(*_: object) -> None:
  for number in watched():
    signal.signal(number, SECOND_SIGNAL)
  in_flight = sum(ask.in_flight for _, ask in list(_active))
  _write_stderr(
    f"Interrupted. Waiting for {in_flight} teacher requests in flight, whose replies will be saved."
    " Interrupt again to exit now."
  )
  reason = errors.UserError(
    "Interrupted. Replies received so far are saved; re-run the same command to resume.",
    errors.PREEMPTED,
  )
  stop_all(reason)


def _write_stderr(text: str) -> None:
  """Bypasses sys.stderr, which the interrupted code may be writing to."""
  with contextlib.suppress(OSError):
    os.write(2, f"distill-jax: {text}\n".encode())
