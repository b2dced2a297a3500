"""How long a request may wait: for the first byte of its response, and for the rest.

A server that handles requests one after another lets the others wait in its queue. Each response
shows that the queue moves, so it restarts the wait of the others, a limited number of times: a
request that hangs does not wait forever. A timeout doubles the wait of requests sent later.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

TIMEOUT, LOCAL_TIMEOUT = 60.0, 300.0  # seconds to the first byte of a response
TURNS = 2  # responses that restart a wait, for each request that was in flight before


def default(*, local: bool) -> float:
  """Seconds that the first requests wait. A local server may be slow; resending slows it more."""
  return LOCAL_TIMEOUT if local else TIMEOUT


class Wait:
  """The wait of one request.

  Attributes:
    turns: How many responses to other requests restart it.
    first: The number of responses that had come when it began.
    at: When it ends, as far as it is known.
    timer: Ends it, or finds that it was prolonged.
    ends_at: When it ends at the latest, while signs of life keep coming.
    begun: Whether a body has begun.
  """

  def __init__(self, deadline: asyncio.Timeout, turns: int, first: int):
    self._deadline, self.turns, self.first = deadline, turns, first
    self.at = float("inf")
    self.timer: asyncio.TimerHandle | None = None
    self.ends_at: float | None = None
    self.begun = False

  def end(self) -> None:
    """Makes the request time out now."""
    self._deadline.reschedule(_now())


class Patience:
  """The waits of all requests to one server; belongs to one event loop at a time.

  Attributes:
    seconds: How long the next request waits for the first byte of its response.
  """

  def __init__(self, seconds: float, *, longest: float, total: float):
    """Creates the waits.

    Args:
      seconds: How long the first requests wait.
      longest: The most to which timeouts lengthen it; no less than `seconds`.
      total: How long a response may take that keeps coming.
    """
    self.seconds, self._longest, self._total = seconds, max(seconds, longest), total
    self._waiting = 0
    self._responses: list[float] = []  # when each complete response came
    self._lengthened_at = float("-inf")

  @contextlib.asynccontextmanager
  async def wait(self) -> AsyncIterator[Wait]:
    """Yields the `Wait` of a request that is about to be sent; raises TimeoutError at its end."""
    sent_at = _now()
    try:
      async with asyncio.timeout(None) as deadline:
        wait = Wait(deadline, TURNS * self._waiting, len(self._responses))
        self._waiting += 1
        self._arm(wait, sent_at + self.seconds)
        try:
          yield wait
        finally:
          self._waiting -= 1
          if wait.timer is not None:
            wait.timer.cancel()
    except TimeoutError:
      # Not if no connection was made. Others that left before are late for the same reason.
      if deadline.expired() and sent_at >= self._lengthened_at:
        self._lengthened_at = _now()
        self.seconds = min(2 * self.seconds, self._longest)
      raise

  def on_alive(self, wait: Wait) -> None:
    """A part of a response has come after which more is expected: a stream, or a sign of life."""
    now = _now()
    wait.ends_at = wait.ends_at or now + self._total
    wait.turns = 0
    self._arm(wait, min(now + self.seconds, wait.ends_at))

  def on_body(self, wait: Wait) -> None:
    """The first part of a body has come: the rest of it has as long as the first had."""
    if not wait.begun:
      wait.begun, wait.turns = True, 0
      self._arm(wait, _now() + self.seconds)

  def on_response(self) -> None:
    """A complete response has come: the server gets on with the others."""
    self._responses.append(_now())

  def _arm(self, wait: Wait, at: float) -> None:
    """Sets the end of a wait. A timer that ends earlier is kept: most of them never end."""
    wait.at = at
    if wait.timer is not None and wait.timer.when() <= at:
      return
    if wait.timer is not None:
      wait.timer.cancel()
    wait.timer = asyncio.get_running_loop().call_at(at, self._expire, wait)

  def _expire(self, wait: Wait) -> None:
    """Ends a wait, unless it was prolonged or a response to another request has restarted it."""
    wait.timer = None
    if wait.at > _now():
      self._arm(wait, wait.at)
      return
    turns = min(wait.turns, len(self._responses) - wait.first)
    restarted = self._responses[wait.first + turns - 1] + self.seconds if turns else 0.0
    if restarted > _now():
      self._arm(wait, restarted)
    else:
      wait.end()


def _now() -> float:
  return asyncio.get_running_loop().time()
