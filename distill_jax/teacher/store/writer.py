"""Writes outcomes to the teacher cache from a thread, many with one fsync."""

import asyncio
from collections.abc import Callable, Iterable

from distill_jax.teacher.store import cache


class StoreWriter:
  """Batches writes to the cache. Belongs to one event loop.

  While one write is in progress, further outcomes wait for the next: an fsync costs about as much
  for a hundred replies as for one.
  """

  def __init__(self, store: cache.ReplyCache, run_phase: cache.RunPhase):
    self._store, self._run_phase = store, run_phase
    # For the next write:
    self._calls: list[tuple[cache.StoredCall, asyncio.Future[None]]] = []
    self._requests: list[tuple[cache.Reservation, bool, asyncio.Future[None]]] = []
    self._answers: dict[str, tuple[float, str] | None] = {}
    self._task: asyncio.Task[None] | None = None

  async def reserve(self, request: cache.Reservation, retry: bool) -> None:
    """Returns once a request that is about to be sent is counted, in the file.

    Args:
      request: The request.
      retry: Whether it is not sent for the first time.

    Raises:
      errors.UserError: The cache cannot be written.
    """
    counted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    self._requests.append((request, retry, counted))
    self._wake()
    await counted

  def settle(self, id: str, estimate: tuple[float, str] | None) -> None:
    """Records the answer to a reserved request, with the next write.

    Args:
      id: The request.
      estimate: (dollars, reason) if the server may bill what it has not reported, else None.
    """
    self._answers[id] = estimate
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
    await asyncio.sleep(0)  # lets other tasks that are ready add to this write
    try:
      await self._write_all()
    except BaseException as error:
      _fail([*(future for *_, future in self._requests), *(f for _, f in self._calls)], error)
      raise

  async def _write_all(self) -> None:
    answers: dict[str, tuple[float, str] | None] = {}  # to requests whose replies are stored
    while self._calls or self._requests or self._answers or answers:
      requests, self._requests = self._requests, []
      counted = [future for _, _, future in requests]
      if requests or answers:
        reservations = [request for request, _, _ in requests]
        retries = sum(retry for _, retry, _ in requests)
        await self._in_thread(self._account, reservations, retries, answers, futures=counted)
      calls, self._calls = self._calls, []
      # Recorded after the replies: a kill in between counts both.
      answers, self._answers = self._answers, {}
      if calls:
        stored, written = [call for call, _ in calls], [future for _, future in calls]
        if not await self._in_thread(self._store.store_many, stored, futures=written):
          answers = {}  # their requests stay counted at what was reserved for them

  async def _in_thread(
    self, work: Callable[..., object], *args: object, futures: list[asyncio.Future[None]]
  ) -> bool:
    """Runs `work` in a thread; `futures` get its error, or are done. Raises if there are none.

    Returns:
      Whether it succeeded.
    """
    try:
      await asyncio.to_thread(work, *args)
    except BaseException as error:
      _fail(futures, error)
      if not futures:
        raise
      return False
    for future in futures:
      if not future.done():
        future.set_result(None)
    return True

  def _account(
    self, requests: list[cache.Reservation], retries: int, answers: cache.Answers
  ) -> None:
    self._store.account(self._run_phase, requests, answers, retries=retries)


def _fail(futures: Iterable[asyncio.Future[None]], error: BaseException) -> None:
  for future in futures:
    if not future.done():
      future.set_exception(error)
