"""Ctrl-C during an `ask`: the first awaits the requests in flight, the second exits at once."""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

from distill_jax import errors

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECOND_SIGNAL = errors.SecondSignal("Exiting. Replies in flight are lost and may be billed again.")


class Stoppable(Protocol):
  """An `ask` that is under way."""

  @property
  def in_flight(self) -> int | None:
    """Requests that a stop waits for; None if it waits for nothing. A signal handler may ask."""
    ...

  def stop(self, reason: BaseException) -> None:
    """Sends nothing from now on, and raises `reason` once nothing is in flight."""
    ...


# Every `ask` under way, in whichever thread.
_active: set[tuple[asyncio.AbstractEventLoop, Stoppable]] = set()
# The reason of a first signal, while the main thread is inside `handle_signals`.
_reasons: list[errors.UserError] = []


@contextlib.contextmanager
def stop_on_signals(ask: Stoppable) -> Iterator[None]:
  """Within this context, a first signal of SIGNALS stops `ask`, a second ends the process.

  Signals reach the main thread only. They stop an `ask` of another thread if the main thread is
  inside `handle_signals`, or inside an `ask` of its own; also one that begins after the signal.
  """
  entry = (asyncio.get_running_loop(), ask)
  _active.add(entry)
  try:
    with handle_signals():
      for reason in list(_reasons):
        ask.stop(reason)
      yield
  finally:
    _active.discard(entry)


@contextlib.contextmanager
def handle_signals() -> Iterator[None]:
  """Within this context, every signal of `watched` stops every `ask`, also one that begins later.

  Raises:
    errors.UserError: There was such a signal, and the context ended without an error.
  """
  main = threading.current_thread() is threading.main_thread()
  if not main or signal.getsignal(signal.SIGINT) in (_on_first_signal, SECOND_SIGNAL):
    yield
    return
  previous = {number: signal.signal(number, _on_first_signal) for number in watched()}
  try:
    yield
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
    reasons = _reasons.copy()
    _reasons.clear()
  if reasons:  # no `ask` was left to raise it
    raise reasons[0]


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
  reason = errors.UserError(
    "Interrupted. Replies received so far are saved; re-run the same command to resume.",
    errors.PREEMPTED,
  )
  _reasons.append(reason)
  stop_all(reason)
  _write_stderr(_notice([ask.in_flight for _, ask in list(_active)]))


def _notice(in_flight: Sequence[int | None]) -> str:
  """What a first signal says, for every `ask` under way."""
  awaited = [count for count in in_flight if count is not None]
  parts = ["Interrupted."]
  if awaited or not in_flight:
    parts.append(
      f"Waiting for {sum(awaited)} teacher requests in flight, whose replies will be saved."
    )
  if None in in_flight:
    parts.append("Batches that were sent go on at the server; the same command collects them.")
  return " ".join([*parts, "Interrupt again to exit now."])


def _write_stderr(text: str) -> None:
  """Bypasses sys.stderr, which the interrupted code may be writing to."""
  with contextlib.suppress(OSError):
    os.write(2, f"distill-jax: {text}\n".encode())
