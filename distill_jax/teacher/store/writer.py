"""Writes outcomes to the teacher cache from a thread, many with one fsync."""

import asyncio

from distill_jax.teacher.store import cache


class StoreWriter:
  """Batches writes to the cache. Belongs to one event loop.

  While one write is in progress, further outcomes wait for the next: an fsync costs about as much
  for a hundred replies as for one. Request counts are written along, soon after they change, but
  requests do not wait for them.
  """

  def __init__(self, store: cache.ReplyCache, run_phase: cache.RunPhase):
    self._store, self._run_phase = store, run_phase
    self._calls: list[tuple[cache.StoredCall, asyncio.Future[None]]] = []  # for the next write
    self._requests = self._retries = 0  # not on disk yet
    self._task: asyncio.Task[None] | None = None

  def count_request(self, retry: bool) -> None:
    """Counts a request that is about to be sent. Raises the error of an earlier write, if any."""
    self._requests += 1
    self._retries += int(retry)
    self._wake()

  async def write(self, request: str, outcomes: dict[tuple[int, str], cache.Outcome]) -> None:
    """Returns once the outcomes of a call are on disk.

    Args:
      request: Canonical JSON of the request.
      outcomes: {(sample, key): reply or failure}.

    Raises:
      errors.UserError: The cache cannot be written.
    """
    written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    self._calls.append(((request, outcomes, self._run_phase), written))
    self._wake()
    await written

  async def close(self) -> None:
    """Returns once everything is on disk."""
    if self._task is not None:
      await self._task

  def _wake(self) -> None:
    if self._task is not None and self._task.done():
      self._task.result()
      self._task = None
    if self._task is None:
      self._task = asyncio.get_running_loop().create_task(self._run())

  async def _run(self) -> None:
    while self._calls or self._requests or self._retries:
      calls, self._calls = self._calls, []
      requests, retries = self._requests, self._retries
      self._requests = self._retries = 0
      try:
        await asyncio.to_thread(self._flush, [call for call, _ in calls], requests, retries)
      except BaseException as error:
        for _, written in calls:
          written.set_exception(error)
        if not calls:
          raise
        continue
      for _, written in calls:
        written.set_result(None)

  def _flush(self, calls: list[cache.StoredCall], requests: int, retries: int) -> None:
    if calls:
      self._store.store_many(calls)
    if requests:
      self._store.record_sent(self._run_phase, requests, retries)
