"""Teacher backed by the OpenAI Batch API (about half price, up to 24 h).

Every batch is recorded in the teacher cache before it is sent, and its ID as soon as the server
returns it (`store.batches`). After a kill, the next process finds the pending batches in the cache
or, if the process was killed before the ID arrived, in the server's list. It collects their results
and submits nothing twice.
"""

from collections.abc import Callable, Sequence
from typing import Any

from distill_jax import settings
from distill_jax.teacher import types
from distill_jax.teacher.batch import ask, format
from distill_jax.teacher.client import client, interrupts, request_jobs
from distill_jax.teacher.store import batches, cache, ledger

OnProgress = Callable[[types.Progress], None] | None


class BatchTeacher(client.Client):
  """A teacher that asks in batches.

  Attributes:
    poll: Seconds between polls of a batch.
    batch_size: Maximum number of requests in a file.
    registry: The pending batches.
  """

  def __init__(
    self, *, poll: float, discount: float, batch_size: int, prices: settings.Prices, **options: Any
  ):
    """Creates a teacher.

    Args:
      poll: Seconds between polls of a batch.
      discount: Discount of batches on `prices`, as a share.
      batch_size: Maximum number of requests in a file.
      prices: Prices of ordinary calls.
      **options: Of `client.Client`.
    """
    super().__init__(prices=format.discounted(prices, discount), **options)
    self.poll, self.batch_size = poll, batch_size
    self.registry = batches.BatchRegistry(self._store.path, self._identity)

  def close(self) -> None:
    """Closes the cache file."""
    self.registry.close()
    super().close()

  def _check_not_pending(self, keys: set[str]) -> None:
    """Accepts pending batches: this teacher collects them."""

  def _ask(
    self,
    requests: Sequence[types.Request],
    run_phase: cache.RunPhase,
    temperature: float,
    on_progress: OnProgress,
  ) -> list[list[cache.Outcome]]:
    outcomes = super()._ask(requests, run_phase, temperature, on_progress)
    # Close batches of a process that was killed after it had stored all of their results.
    for batch in self.registry.pending():
      if batch.id and batch.run_phase == run_phase:
        keys = [key for line in self.registry.lines(batch.name) for key in line.keys.values()]
        if len(self._store.lookup(keys, run_phase)) == len(keys):
          self.registry.close_batch(batch.name, "collected")
    return outcomes

  async def _dispatch(
    self,
    jobs: list[request_jobs.Job],
    run_phase: cache.RunPhase,
    temperature: float,
    total: int,
    on_progress: OnProgress,
    budget: ledger.Budget,
  ) -> None:
    async with self._openai_client() as http:
      batch_ask = ask.BatchAsk(
        jobs,
        run_phase,
        temperature,
        total,
        http=http,
        config=self._config,
        store=self._store,
        registry=self.registry,
        redact=self._redact,
        poll=self.poll,
        batch_size=self.batch_size,
        budget=budget,
        answered=self._answered,
        on_progress=on_progress,
      )
      try:
        with self._stop_at_deadline(batch_ask), interrupts.stop_on_signals(batch_ask):
          await batch_ask.run()
      finally:
        self._answered = batch_ask.answered
