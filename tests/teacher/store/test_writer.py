"""The thread that writes to the cache: an error reaches all who wait."""

import asyncio
import threading

import pytest

from distill_jax import errors
from distill_jax.teacher.store import cache, writer


class FullDisk:
  """A store that has no room for the answers to requests."""

  def __init__(self):
    self.writing, self.queued = threading.Event(), threading.Event()

  def account(self, run_phase, requests, answers, *, retries):
    self.writing.set()
    self.queued.wait(10)
    raise errors.data("the disk is full")


@pytest.mark.parametrize("queue", ["reserve", "write"])
def test_what_is_queued_while_a_write_fails_gets_its_error(queue):
  async def run():
    store = FullDisk()
    writing = writer.StoreWriter(store, cache.RunPhase("run", 0, "annotate"))
    writing.settle("one", None)
    await asyncio.to_thread(store.writing.wait, 10)
    if queue == "reserve":
      queued = asyncio.create_task(writing.reserve(cache.Reservation("two", 1, 1, 0.0), False))
    else:
      queued = asyncio.create_task(writing.write("{}", {}))
    await asyncio.sleep(0)
    store.queued.set()
    with pytest.raises(errors.UserError, match="the disk is full"):
      await asyncio.wait_for(queued, 5)
    with pytest.raises(errors.UserError, match="the disk is full"):
      await writing.close()

  asyncio.run(run())


def test_a_request_whose_reply_could_not_be_stored_stays_counted():
  """It was paid for: its answer is not recorded without its reply."""

  class FullOnce:
    def __init__(self):
      self.tries, self.answered = 0, []

    def account(self, run_phase, requests, answers, *, retries):
      self.answered += answers

    def store_many(self, calls):
      self.tries += 1
      if self.tries == 1:
        raise errors.data("the disk is full")

  async def run() -> list[str]:
    store = FullOnce()
    writing = writer.StoreWriter(store, cache.RunPhase("run", 0, "annotate"))
    writing.settle("lost", None)
    with pytest.raises(errors.UserError, match="the disk is full"):
      await writing.write("{}", {})
    writing.settle("stored", None)
    await writing.write("{}", {})
    await writing.close()
    return store.answered

  assert asyncio.run(run()) == ["stored"]
