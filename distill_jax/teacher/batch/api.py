"""The paid teacher at half the price, by tomorrow: the Batch API behind the same asking.Teacher.

Every batch is written into the cache file before it is sent (batch_book), and its id before it is
waited for. A process that was killed finds its batches there or, where it died between asking for
one and hearing its id, in the server's list; it collects them, and submits nothing twice.
"""

import asyncio
import collections
import contextlib
import dataclasses
import time

from distill_jax import errors
from distill_jax.teacher import types
from distill_jax.teacher.batch import calls, format, results
from distill_jax.teacher.client import client, interrupts, request_jobs, verdicts
from distill_jax.teacher.store import batches

OVER = ("completed", "failed", "expired", "cancelled")
FULL = ("token_limit_exceeded", "rate_limit_exceeded")  # no room for one more batch at present


class BatchTeacher(client.Client):
  """A Teacher that asks through files. Its terms are client.Client's, and

  poll      seconds between two looks at a batch
  discount  share of the prices that a batch is cheaper
  most      requests in one file
  """

  def __init__(self, *, poll: float, discount: float, batch_size: int, prices, **terms):
    super().__init__(prices=format.discounted(prices, discount), **terms)
    self.poll, self.batch_size = poll, batch_size
    self.registry = batches.BatchRegistry(self._store.path, self._identity)

  def close(self) -> None:
    """Closes the cache file."""
    self.registry.close()
    super().close()

  def _check_not_pending(self, keys) -> None:
    """What is under way is its own."""

  def _ask(self, requests, place, temperature: float, on_progress):
    found = super()._ask(requests, place, temperature, on_progress)
    for batch in self.registry.pending():  # left by a process that died when it had stored everything
      keys = [key for line in self.registry.lines(batch.name) for key in line.keys.values()]
      if batch.id and batch.run_phase == place and len(self._store.lookup(keys, place)) == len(keys):
        self.registry.close_batch(batch.name, "collected")
    return found

  async def _send(self, jobs, place, temperature, total: int, on_progress) -> None:
    async with self._openai_client() as http:
      asked = _BatchAsk(self, http, jobs, place, temperature, total, on_progress)
      try:
        with self._stop_at_deadline(asked), interrupts.stop_on_signals(asked):
          await asked.run()
      finally:
        self._answered = asked.answered


class _BatchAsk:
  """One `ask`: what is missing is submitted, waited for and stored, until nothing is missing."""

  def __init__(self, owner: BatchTeacher, http, jobs, place, temperature, total: int, on_progress):
    self._owner, self._place = owner, place
    self._config, self._store, self._registry = owner._config, owner._store, owner.registry
    self._temperature, self._total, self._on_progress = temperature, total, on_progress
    self._calls = calls.BatchApi(http, self._config, owner._redact, self._rest)
    self._jobs = list(jobs)
    self._wanted = {key: job for job in jobs for key in job.missing.values()}
    self._attempts: collections.Counter = collections.Counter()  # by key
    self._counts: dict[str, float] = {}  # batch -> samples that are done at the server
    self._short: dict[str, float] = {}  # batch -> when its results were first found not whole
    self._failures = self._retries = 0
    self._stop: BaseException | None = None
    self._stopping = asyncio.Event()
    self._full = False  # the server has no room until a batch is over
    self._freed = False  # one has been over since the server had no room
    self.answered = owner._answered

  @property
  def in_flight(self) -> int:
    """Samples that a batch has in it."""
    return sum(batch.samples for batch in self._under_way())

  def stop(self, reason: BaseException) -> None:
    """Nothing is sent or waited for from now on; `run` raises the first reason."""
    self._stop = self._stop or reason
    self._stopping.set()

  async def run(self) -> None:
    """Returns when every sample has an outcome. Raises what `stop` was given, or errors.UserError."""
    await self._recover()
    since = time.monotonic()
    while True:
      self._tell()
      if self._stop is not None:
        raise self._stop
      await self._submit()
      under_way = self._under_way()
      if not under_way:
        return
      if await self._look(under_way, since):
        since = time.monotonic()
      else:
        self._tell()
        await self._rest(self._owner.poll)

  async def _rest(self, seconds: float) -> None:
    """Sleeps; raises the reason to stop as soon as there is one."""
    with contextlib.suppress(TimeoutError):
      await asyncio.wait_for(self._stopping.wait(), seconds)
    if self._stop is not None:
      raise self._stop

  async def _recover(self) -> None:
    """Settles what a process that was killed has left: batches whose id nobody knows yet."""
    for batch in self._registry.pending():
      if batch.id or batch.run_phase.run != self._place.run:
        continue
      id = ""
      if batch.tried:
        id = await self._calls.find(batch.name, batch.file, batch.tried, self._forget(batch))
      if id:
        self._registry.record_submission(batch.name, id)
      else:
        self._registry.close_batch(batch.name, "never sent")

  def _under_way(self) -> list[batches.PendingBatch]:
    """The batches that have something that is wanted."""
    claimed = self._registry.claimed()
    names = {claimed[key] for key in self._wanted if key in claimed}
    return [batch for batch in self._registry.pending() if batch.name in names]

  async def _submit(self) -> None:
    """Sends off whatever is missing and not under way."""
    if self._full and self._under_way():
      return
    claimed, rows = self._registry.claimed(), []
    self._heed([key for key in self._wanted if key not in claimed])
    for job in self._jobs:
      left = {sample: key for sample, key in job.missing.items() if key not in claimed}
      for line in format.lines_of(dataclasses.replace(job, missing=left)):
        part = dataclasses.replace(job, missing=line.keys)
        body = request_jobs.body(self._config, part, self._temperature)
        rows.append((line, format.written(line.name, body), request_jobs.max_dollars(self._config, part)))
    if rows:
      self._afford(rows)
    for part in format.parts(rows, self._owner.batch_size):
      if self._stop is not None:
        return
      lines = [line for line, *_ in part]
      again = sum(self._attempts[line.name] > 0 for line in lines)
      name = self._registry.make(self._place, lines, sum(need for *_, need in part))
      if name is None:  # another process is faster; its batch is waited for
        continue
      self._store.record_sent(self._place, len(lines), again)
      self._retries += again
      await self._order(name, b"".join(raw for _, raw, _ in part))

  def _heed(self, keys) -> None:
    """Takes for answered what another run's batch has brought meanwhile."""
    for key, outcome in self._store.lookup(keys, self._place).items():
      if isinstance(outcome, types.Reply):
        missing = self._wanted.pop(key).missing
        del missing[next(sample for sample in missing if missing[sample] == key)]

  async def _order(self, name: str, content: bytes) -> None:
    """Brings a batch that is in the book to the server."""
    try:
      file = await self._calls.upload(name, content)
      self._registry.record_upload(name, file)
    except errors.UserError:
      self._registry.close_batch(name, "never sent")
      raise
    id = await self._calls.create(name, file, lambda: self._registry.record_attempt(name))
    self._registry.record_submission(name, id)

  def _afford(self, rows) -> None:
    """Raises errors.UserError if a cap might not hold; nothing is sent then."""
    ours = self._place.run
    held = sum(batch.dollars for batch in self._registry.pending() if batch.run_phase.run == ours)
    format.check_caps(
      self._store, ours, rows, held=held,
      max_dollars=self._owner._max_dollars, max_requests=self._owner._max_requests,
    )  # fmt: skip

  async def _look(self, under_way, since: float) -> bool:
    """Looks at each batch once and collects those that are over; were there any?"""
    found, self._counts = False, {}
    for batch in under_way:
      if not batch.id:  # of another run, that has not sent it yet
        self._check_patience(batch, since)
        continue
      state = await self._calls.look(batch.id, self._forget(batch))
      if state.status in OVER:
        found |= await self._collect(batch, state)
      else:
        done, total = calls.counted(state)
        self._counts[batch.name] = min(done / total, 1.0) * batch.samples if total else 0.0
    return found

  def _check_patience(self, batch, since: float) -> None:
    if time.monotonic() - since > self._config.max_wait:
      raise errors.teacher(
        f"the run {batch.run_phase.run} has set requests aside for a batch and not sent it; run it"
        f" again, or, if it is gone, type: {self._forgetting(batch)}"
      )

  def _forget(self, batch) -> str:
    return (
      f"it was submitted for {batch.run_phase.phase} of round {batch.run_phase.round}; check the key and"
      f" config.teacher.base_url. If it is gone for good, type: {self._forgetting(batch)}"
    )

  def _forgetting(self, batch) -> str:
    return f"sqlite3 {self._store.path} \"delete from batches where name = '{batch.name}'\""

  async def _collect(self, batch, state) -> bool:
    """Stores what came of a batch that is over, and frees the rest; False if its files are not
    whole yet, so that what is missing there is paid for and not to be asked again.

    Raises errors.UserError, after that, where it makes no sense to ask for the rest.
    """
    lines = {line.name: line for line in self._registry.lines(batch.name)}
    found = results.Results(
      self._store,
      batch.run_phase,
      self._config,
      self._owner._redact,
      lambda line: self._attempts[line.name],
      self._asks_for_json,
    )
    for file in (state.output_file_id, state.error_file_id):
      if file:
        found.read(await self._calls.download(file, self._forget(batch)), lines)
    if len(found.heard) < calls.counted(state)[0]:
      self._check_whole(batch, state, found)
      return False
    found.unheard(lines.values())
    self._registry.close_batch(batch.name, state.status)
    self._full = False
    if state.status == "failed":
      self._say_failed(state)
      return True
    self._freed = True
    for line in lines.values():
      for sample, key in line.keys.items():
        if key in self._wanted:
          self._settle(sample, key, line, found, batch.run_phase)
    self.answered |= any(isinstance(o, types.Reply) for o in found.outcomes.values())
    self._check(batch, state, found)
    return True

  def _check_whole(self, batch, state, found) -> None:
    """Raises errors.UserError if the files of a batch that is over have not been whole for long."""
    begun = self._short.setdefault(batch.name, time.monotonic())
    if time.monotonic() - begun > self._config.max_wait:
      raise errors.teacher(
        f"{self._config.base_url} says that {calls.counted(state)[0]} requests of batch"
        f" {state.id} are completed, but gives the results of {len(found.heard)}; what came is"
        " stored, and nothing is asked again: run the same command again to look once more, or, to"
        f" ask (and pay) again for the others, type: {self._forgetting(batch)}"
      )

  def _asks_for_json(self, line) -> bool:
    return line.name in self._wanted and self._wanted[line.name].schema

  def _settle(self, sample: int, key: str, line, found, place) -> None:
    """Takes what was heard of a sample into account."""
    job, outcome = self._wanted[key], found.outcomes.get(key)
    if isinstance(outcome, types.Reply) or (outcome is not None and place == self._place):
      job.missing.pop(sample, None)
      if job.schema_rejected and isinstance(outcome, types.Reply):
        self._config.shaper.schema_rejected()
      if key in found.longer:
        limit = min(2 * found.longer[key], self._config.max_tokens_retry_limit)
        self._jobs.append(dataclasses.replace(job, missing={sample: key}, limit=limit))
        self._wanted[key] = self._jobs[-1]
      else:
        del self._wanted[key]
        self._failures += isinstance(outcome, types.Failure)
    elif line.name in found.again and found.again[line.name].plain:
      job.schema, job.schema_rejected = False, True  # perhaps that was what the server did not like
    elif line.name in found.again:
      self._attempts[key] += 1
      why = found.again[line.name]
      if self._attempts[key] >= self._config.max_attempts:
        failed = types.Failure(
          "gave_up", why.why, self._attempts[key], status=why.status, request_id=why.request_id
        )
        self._store.store(job.request, {(sample, key): failed}, self._place)
        job.missing.pop(sample, None)
        del self._wanted[key]
        self._failures += 1

  def _say_failed(self, state) -> None:
    """Raises errors.UserError for a batch that was not accepted, unless it waits for another."""
    code, said, line = calls.problem(state)
    full = code in FULL
    if full and any(batch.run_phase.run == self._place.run for batch in self._under_way()):
      self._full = True
      return
    if full and self._freed:
      self._freed = False
      return
    where = f" (line {line})" if line else ""
    why = self._owner._redact(verdicts.excerpt(said or "it does not say why"))
    do = (
      "wait until others are through, or ask for less at a time with --config.teacher.batch_size"
      if full
      else "check config.teacher.model, max_tokens and max_tokens_field"
    )
    raise errors.teacher(
      f"{self._config.base_url} has not accepted batch {state.id}: {why}{where}; nothing was paid;"
      f" {do}"
    )

  def _check(self, batch, state, found) -> None:
    """Raises errors.UserError if what is missing would not come a second time either."""
    if found.stop is not None:
      raise errors.teacher(
        f"{self._config.base_url}: {self._owner._redact(found.stop.reason)}; {found.stop.advice}"
      )
    if not self.answered and (bad := found.rejected):
      raise errors.teacher(
        f"{self._config.base_url} has rejected every request of batch {state.id} ({bad.message});"
        " check config.teacher.model, teacher.max_tokens and teacher.max_tokens_field"
      )
    if state.status == "cancelled" and self._wanted:
      replies = sum(isinstance(o, types.Reply) for o in found.outcomes.values())
      raise errors.teacher(
        f"batch {state.id} was cancelled at {self._config.base_url}; {replies} replies of it are"
        f" stored, {len(self._wanted)} are missing: run the same command again to ask for them"
      )

  def _tell(self) -> None:
    if self._on_progress is not None:
      at_the_server = int(sum(self._counts.values()))
      self._on_progress(
        types.Progress(
          done=min(self._total - len(self._wanted) + at_the_server, self._total),
          total=self._total, failures=self._failures, retries=self._retries,
          dollars=self._store.totals(self._place.run).dollars,
        )
      )  # fmt: skip
