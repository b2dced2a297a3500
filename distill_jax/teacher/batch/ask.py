"""One `ask` through the Batch API: submit, await, collect, retry."""

import asyncio
import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence

import openai
from openai.types import Batch

from distill_jax import errors
from distill_jax.teacher import types
from distill_jax.teacher.batch import calls, format, results
from distill_jax.teacher.client import features, request_jobs, verdicts
from distill_jax.teacher.store import batches, cache, ledger

ENDED = ("completed", "failed", "expired", "cancelled")
NO_ROOM = ("token_limit_exceeded", "rate_limit_exceeded")  # the server takes no more at present


class BatchAsk:
  """One `ask`: submits batches, waits for them and stores results until nothing is missing.

  Attributes:
    answered: Whether the server has given a valid reply in this run.
    in_flight: None; see `interrupts.Stoppable`. Batches go on without this process.
  """

  in_flight = None

  def __init__(
    self,
    jobs: Iterable[request_jobs.Job],
    run_phase: cache.RunPhase,
    temperature: float,
    total: int,
    *,
    http: openai.AsyncOpenAI,
    config: request_jobs.ClientConfig,
    store: cache.ReplyCache,
    registry: batches.BatchRegistry,
    redact: Callable[[str], str],
    poll: float,
    batch_size: int,
    budget: ledger.Budget,
    answered: bool,
    on_progress: Callable[[types.Progress], None] | None,
  ):
    """Prepares an `ask`; sends nothing.

    Args:
      jobs: Jobs with missing samples.
      run_phase: The phase that asks.
      temperature: Sampling temperature.
      total: Number of samples asked for, including those that are stored.
      http: The connection.
      config: Timeouts, retries, prices and limits.
      store: Receives the outcomes.
      registry: The batches under way.
      redact: Removes the API key from a text.
      poll: Seconds between polls of a batch.
      batch_size: Maximum number of requests in a file.
      budget: The run's caps; it knows the batches of the run that are under way.
      answered: Whether the server has ever given a valid reply in this run.
      on_progress: Receives progress reports; None for no reports.
    """
    self._run_phase, self._temperature, self._total = run_phase, temperature, total
    self._config, self._store, self._registry = config, store, registry
    self._redact, self._seconds_between_polls, self._batch_size = redact, poll, batch_size
    self._budget, self._on_progress, self.answered = budget, on_progress, answered
    self._api = calls.BatchApi(http, config, redact, self._rest)
    self._jobs = list(jobs)
    self._missing = {key: job for job in self._jobs for key in job.missing.values()}
    self._attempts: collections.Counter[str] = collections.Counter()  # by key
    self._done: dict[str, float] = {}  # by batch: samples that the server has finished
    self._incomplete_since: dict[str, float] = {}  # by batch: when results were first incomplete
    self._failures = self._retries = self._refused_batches = 0
    self._stop_reason: BaseException | None = None
    self._stopping = asyncio.Event()
    self._schema_works = False  # whether a line with a schema was answered
    self._no_room = False  # the server has no room until a batch ends
    self._room_made = False  # a batch has ended since the server had no room

  def stop(self, reason: BaseException) -> None:
    """Stops sending and waiting; `run` raises the first reason."""
    self._stop_reason = self._stop_reason or reason
    self._stopping.set()

  async def run(self) -> None:
    """Returns once every sample has an outcome.

    Raises:
      errors.UserError: The run cannot continue.
      BaseException: The reason given to `stop`.
    """
    await self._recover()
    last_collected = time.monotonic()
    while True:
      self._report()
      if self._stop_reason is not None:
        raise self._stop_reason
      await self._submit()
      awaited = self._awaited()
      if not awaited:
        return
      if await self._poll(awaited, last_collected):
        last_collected = time.monotonic()
      else:
        self._report()
        await self._rest(self._seconds_between_polls)

  async def _rest(self, seconds: float) -> None:
    """Sleeps; raises the reason to stop as soon as there is one."""
    with contextlib.suppress(TimeoutError):
      await asyncio.wait_for(self._stopping.wait(), seconds)
    if self._stop_reason is not None:
      raise self._stop_reason

  async def _recover(self) -> None:
    """Finds the ids of batches that a killed process left without one, or closes the batches."""
    for batch in self._registry.orphans(self._run_phase.run):
      id = ""
      if batch.tried:
        advice = self._advice_if_gone(batch)
        id = await self._api.find(batch.name, batch.file, batch.tried, advice)
      if id:
        self._registry.record_submission(batch.name, id)
      else:
        self._registry.close_batch(batch.name, "never sent")
        self._budget.drop(batch.dollars)

  def _awaited(self) -> list[batches.PendingBatch]:
    """The batches under way that have missing samples."""
    claimed = self._registry.claimed()
    names = {claimed[key] for key in self._missing if key in claimed}
    return [batch for batch in self._registry.pending() if batch.name in names]

  async def _submit(self) -> None:
    """Submits the missing samples that are in no pending batch."""
    if self._no_room and self._awaited():
      return
    claimed, rows = self._registry.claimed(), []
    self._take_stored([key for key in self._missing if key not in claimed])
    for job in self._jobs:
      unclaimed = {sample: key for sample, key in job.missing.items() if key not in claimed}
      most = self._config.features.max_samples
      for line in format.missing_lines(dataclasses.replace(job, missing=unclaimed), most):
        part = dataclasses.replace(job, missing=line.keys)
        rows.append(format.request_row(self._config, line, part, self._temperature))
    if rows:
      self._budget.hold(sum(row.dollars for row in rows), len(rows))
    for part in format.split_rows(rows, self._batch_size):
      if self._stop_reason is not None:
        return
      lines, dollars = [row.line for row in part], sum(row.dollars for row in part)
      retries = sum(self._attempts[line.name] > 0 for line in lines)
      name = self._registry.make(self._run_phase, lines, dollars)
      if name is None:  # another process was faster; its batch is awaited
        self._budget.drop(dollars, unsent=len(lines))
        continue
      self._retries += retries
      try:
        await self._create(name, part, retries)
      finally:
        self._registry.sent(name)

  def _take_stored(self, keys: Iterable[str]) -> None:
    """Uses the replies that another run's batch has stored in the meantime."""
    for key, outcome in self._store.lookup(keys, self._run_phase).items():
      if isinstance(outcome, types.Reply):
        missing = self._missing.pop(key).missing
        del missing[next(sample for sample in missing if missing[sample] == key)]

  async def _create(self, name: str, rows: Sequence[format.RequestRow], retries: int) -> None:
    """Creates a recorded batch at the server. Its requests count once they are uploaded."""
    try:
      file = await self._api.upload(name, b"".join(row.content for row in rows))
      self._registry.record_upload(name, file)
    except errors.UserError:
      self._registry.close_batch(name, "never sent")
      raise
    self._store.record_sent(self._run_phase, len(rows), retries)
    id = await self._api.create(name, file, lambda: self._registry.record_attempt(name))
    self._registry.record_submission(name, id)

  async def _poll(self, awaited: Iterable[batches.PendingBatch], last_collected: float) -> bool:
    """Polls each batch once and collects those that have ended. Returns whether any has ended."""
    collected, self._done = False, {}
    for batch in awaited:
      if not batch.id:  # of another run, which has not sent it yet
        self._check_sender_alive(batch, last_collected)
        continue
      state = await self._api.retrieve(batch.id, self._advice_if_gone(batch))
      if state.status in ENDED:
        if await self._collect(batch, state):
          collected = True
      else:
        done, total = calls.request_counts(state)
        self._done[batch.name] = min(done / total, 1.0) * batch.samples if total else 0.0
    return collected

  async def _collect(self, batch: batches.PendingBatch, state: Batch) -> bool:
    """Stores the results of a batch that has ended, and releases its other samples.

    Returns:
      False if its files are incomplete: the missing results are paid for, so they are not requested
      again.

    Raises:
      errors.UserError: Requesting the rest again would fail too. The results are stored.
    """
    lines = {line.name: line for line in self._registry.lines(batch.name)}
    reader = results.ResultReader(
      self._store,
      batch.run_phase,
      self._config,
      self._redact,
      attempts=lambda line: self._attempts[line.name],
      asked_for_json=self._asked_for_json,
    )
    for file in (state.output_file_id, state.error_file_id):
      if file:
        reader.read(await self._api.download(file, self._advice_if_gone(batch)), lines)
    if len(reader.completed) < calls.request_counts(state)[0]:
      self._check_results_appear(batch, state, reader)
      return False
    reader.retry_unread(lines.values())
    self._registry.close_batch(batch.name, state.status)
    if batch.run_phase.run == self._run_phase.run:
      self._budget.drop(batch.dollars, cost=reader.dollars)
    self._no_room = False
    if state.status == "failed":
      self._check_accepted(state, reader, next(iter(lines.values())))
      return True
    self._room_made = True
    replied = filter(reader.replied, lines.values())
    self._schema_works = self._schema_works or any(map(self._asked_for_json, replied))
    for line in lines.values():
      for sample, key in line.keys.items():
        if key in self._missing:
          self._settle(sample, key, line, reader, batch.run_phase)
    if any(isinstance(outcome, types.Reply) for outcome in reader.outcomes.values()):
      self.answered = True
    self._check_worth_retrying(state, reader)
    return True

  def _asked_for_json(self, line: batches.BatchLine) -> bool:
    return line.name in self._missing and self._missing[line.name].schema

  def _settle(
    self,
    sample: int,
    key: str,
    line: batches.BatchLine,
    reader: results.ResultReader,
    payer: cache.RunPhase,
  ) -> None:
    """Applies the result of one missing sample; `payer` is the phase the batch was made for."""
    job, outcome = self._missing[key], reader.outcomes.get(key)
    retry = reader.retries.get(line.name)
    if isinstance(outcome, types.Reply) or (outcome is not None and payer == self._run_phase):
      job.missing.pop(sample, None)
      if job.schema_rejected and not self._schema_works and isinstance(outcome, types.Reply):
        self._config.shaper.schema_rejected()
      if key in reader.truncated:
        limit = min(2 * reader.truncated[key], self._config.max_tokens_retry_limit)
        self._jobs.append(dataclasses.replace(job, missing={sample: key}, limit=limit))
        self._missing[key] = self._jobs[-1]
      else:
        del self._missing[key]
        if isinstance(outcome, types.Failure):
          self._failures += 1
    elif retry is not None and retry.schema_rejected:
      job.schema, job.schema_rejected = False, True  # if it works without, the schema was at fault
    elif retry is not None:
      self._attempts[key] += 1
      if self._attempts[key] >= self._config.max_attempts:
        failure = types.Failure(
          "gave_up",
          retry.reason,
          self._attempts[key],
          status=retry.status,
          request_id=retry.request_id,
        )
        self._store.store(job.request, {(sample, key): failure}, self._run_phase)
        job.missing.pop(sample, None)
        del self._missing[key]
        self._failures += 1

  def _check_sender_alive(self, batch: batches.PendingBatch, since: float) -> None:
    """Raises UserError if another run has not sent its batch for too long."""
    if time.monotonic() - since > self._config.max_wait:
      raise errors.teacher(
        f"run {batch.run_phase.run} has claimed requests for a batch, but has not sent it; run it"
        f" again or, if it no longer exists, type: {self._forget_command(batch)}"
      )

  def _check_results_appear(
    self, batch: batches.PendingBatch, state: Batch, reader: results.ResultReader
  ) -> None:
    """Raises UserError if the files of a batch that has ended stay incomplete for too long."""
    since = self._incomplete_since.setdefault(batch.name, time.monotonic())
    if time.monotonic() - since > self._config.max_wait:
      raise errors.teacher(
        f"{self._config.base_url} reports {calls.request_counts(state)[0]} completed requests in"
        f" batch {state.id}, but returns the results of {len(reader.lines_read)}; these are stored,"
        " and nothing is requested again: run the same command again to check once more, or, to"
        f" request (and pay for) the others again, type: {self._forget_command(batch)}"
      )

  def _check_accepted(
    self, state: Batch, reader: results.ResultReader, first: batches.BatchLine
  ) -> None:
    """Raises UserError for a batch that was not accepted, unless the next one may be.

    Args:
      state: The batch, as the server describes it.
      reader: Learns which feature of the requests the server does not take.
      first: A line of the batch; all are alike in their features.
    """
    code, message, line = calls.first_error(state)
    error = {"error": {"code": code, "message": message}}
    if self._refused_batches < features.MAX_REFUSALS and reader.learns(first, 400, error):
      self._refused_batches += 1
      return
    no_room = code in NO_ROOM
    if no_room and any(b.run_phase.run == self._run_phase.run for b in self._awaited()):
      self._no_room = True
      return
    if no_room and self._room_made:
      self._room_made = False
      return
    where = f" (line {line})" if line else ""
    reason = self._redact(verdicts.excerpt(message or "it does not say why"))
    if no_room:
      advice = "wait until other batches have ended, or set a lower --config.teacher.batch_size"
    else:
      advice = "check config.teacher.model, max_tokens and max_tokens_field"
    raise errors.teacher(
      f"{self._config.base_url} rejected batch {state.id}: {reason}{where}; nothing was billed;"
      f" {advice}"
    )

  def _check_worth_retrying(self, state: Batch, reader: results.ResultReader) -> None:
    """Raises UserError if the missing samples would fail again."""
    if reader.abort is not None:
      reason = self._redact(reader.abort.reason)
      raise errors.teacher(f"{self._config.base_url}: {reason}; {reader.abort.advice}")
    if not self.answered and (rejection := reader.rejection):
      raise errors.teacher(
        f"{self._config.base_url} rejected every request of batch {state.id}"
        f" ({rejection.message}); check config.teacher.model, teacher.max_tokens and"
        " teacher.max_tokens_field"
      )
    if state.status == "cancelled" and self._missing:
      replies = sum(isinstance(outcome, types.Reply) for outcome in reader.outcomes.values())
      raise errors.teacher(
        f"batch {state.id} was canceled at {self._config.base_url}; {replies} of its replies are"
        f" stored, {len(self._missing)} are missing: run the same command again to request them"
      )

  def _advice_if_gone(self, batch: batches.PendingBatch) -> str:
    """What the user can do if the server does not know a batch."""
    return (
      f"it was submitted for {batch.run_phase.phase} of round {batch.run_phase.round}; check the"
      " key and config.teacher.base_url. If the batch no longer exists, type:"
      f" {self._forget_command(batch)}"
    )

  def _forget_command(self, batch: batches.PendingBatch) -> str:
    return f"sqlite3 {self._store.path} \"delete from batches where name = '{batch.name}'\""

  def _report(self) -> None:
    if self._on_progress is not None:
      done = self._total - len(self._missing) + int(sum(self._done.values()))
      self._on_progress(
        types.Progress(
          done=min(done, self._total),
          total=self._total,
          failures=self._failures,
          retries=self._retries,
          dollars=self._store.totals(self._run_phase.run).dollars,
        )
      )
