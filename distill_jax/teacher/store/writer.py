"""What came is on the disk before it is handed on; one write serves all that came meanwhile."""

import asyncio

from distill_jax.teacher.store import cache


class StoreWriter:
  """Writes replies and counts to the cache from a thread; lives in one event loop.

  While one write is under way, what comes in waits together for the next: an fsync costs about as
  much for a hundred replies as for one. Counts of requests are written along, and within a moment,
  but a request does not wait for its count.
  """

  def __init__(self, store: cache.ReplyCache, place: cache.RunPhase):
    self._store, self._place = store, place
    self._calls: list = []  # what the next write takes: (request, outcomes, place), future
    self._sent = [0, 0]  # requests, retries not counted on the disk yet
    self._writer: asyncio.Task | None = None

  def count_request(self, retry: bool) -> None:
    """Counts a request that is about to be sent. Raises what a write before has raised."""
    self._sent[0] += 1
    self._sent[1] += retry
    self._wake()

  async def write(self, request: str, outcomes: dict) -> None:
    """Returns when the outcomes of a call are on the disk. Raises errors.UserError if they cannot."""
    written = asyncio.get_running_loop().create_future()
    self._calls.append(((request, outcomes, self._place), written))
    self._wake()
    await written

  async def close(self) -> None:
    """Returns when everything is on the disk."""
    if self._writer is not None:
      await self._writer

  def _wake(self) -> None:
    if self._writer is not None and self._writer.done():
      self._writer.result()
      self._writer = None
    if self._writer is None:
      self._writer = asyncio.get_running_loop().create_task(self._write())

  async def _write(self) -> None:
    while self._calls or any(self._sent):
      calls, self._calls = self._calls, []
      sent, self._sent = self._sent, [0, 0]
      try:
        await asyncio.to_thread(self._flush, [call for call, _ in calls], *sent)
      except BaseException as error:
        for _, written in calls:
          written.set_exception(error)
        if not calls:
          raise
        continue
      for _, written in calls:
        written.set_result(None)

  def _flush(self, calls, requests: int, retries: int) -> None:
    if calls:
      self._store.store_many(calls)
    if requests:
      self._store.record_sent(self._place, requests, retries)
