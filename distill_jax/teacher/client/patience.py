"""How long a request may wait: for the first byte of its response, and for the rest.

A server that handles requests one after another lets the others wait in its queue. Each response
shows that the queue moves, so it restarts the wait of the others, a limited number of times: a
request that hangs does not wait forever. A timeout doubles the wait of requests sent later.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

TURNS = 2  # responses that restart a wait, for each request that was in flight before


class Wait:
  """The wait of one request.

  Attributes:
    deadline: When the request times out; within `Patience.wait`.
    turns: How many responses to other requests still restart it.
    ends_at: When the request times out at the latest, while signs of life keep coming.
    begun: Whether a body has begun.
  """

  def __init__(self, deadline: asyncio.Timeout, turns: int):
    self.deadline, self.turns = deadline, turns
    self.ends_at: float | None = None
    self.begun = False


class Patience:
  """The waits of all requests to one server; belongs to one event loop.

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
    self._waits: set[Wait] = set()
    self._lengthened_at = float("-inf")

  @contextlib.asynccontextmanager
  async def wait(self) -> AsyncIterator[Wait]:
    """Yields the `Wait` of a request that is about to be sent; raises TimeoutError at its end."""
    sent_at = _now()
    try:
      async with asyncio.timeout_at(sent_at + self.seconds) as deadline:
        wait = Wait(deadline, TURNS * len(self._waits))
        self._waits.add(wait)
        try:
          yield wait
        finally:
          self._waits.discard(wait)
    except TimeoutError:
      if sent_at >= self._lengthened_at:  # others that left before are late for the same reason
        self._lengthened_at = _now()
        self.seconds = min(2 * self.seconds, self._longest)
      raise

  def on_alive(self, wait: Wait) -> None:
    """A part of a response has come after which more is expected: a stream, or a sign of life."""
    now = _now()
    wait.ends_at = wait.ends_at or now + self._total
    wait.turns = 0
    wait.deadline.reschedule(min(now + self.seconds, wait.ends_at))

  def on_body(self, wait: Wait) -> None:
    """The first part of a body has come: the rest of it has as long as the first had."""
    if not wait.begun:
      wait.begun, wait.turns = True, 0
      wait.deadline.reschedule(_now() + self.seconds)

  def on_response(self, answered: Wait) -> None:
    """A complete response has come: the server gets on with the others."""
    for wait in self._waits:
      if wait is not answered and wait.turns:
        wait.turns -= 1
        wait.deadline.reschedule(_now() + self.seconds)


def _now() -> float:
  return asyncio.get_running_loop().time()
