"""The loop that sends requests: rate limit, budget, retries, and storing of replies.

A worker takes a job, waits at the gate (rate_limit.Gate), sends a request for the job's missing
samples, classifies the response, stores the outcome and repeats. When the run must stop, no further
request is sent, the replies in flight are awaited and stored, and then the reason is raised.
"""

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import secrets
import time
from collections.abc import Callable, Sequence

from distill_jax import errors
from distill_jax.teacher import types
from distill_jax.teacher.client import (
  features,
  pacing,
  progress,
  rate_limit,
  request_jobs,
  streaks,
  transport,
  verdicts,
)
from distill_jax.teacher.store import cache, ledger, writer

DEAD_AFTER = 8  # consecutive jobs that fail, one per worker at least: the server is down
NOTHING_LOST = "Replies received so far are saved; re-run the same command"


class Dispatcher:
  """Sends the jobs of one `ask`, within one event loop.

  Attributes:
    answered: Whether the server has given a valid reply in this run.
  """

  def __init__(
    self,
    http: transport.Transport,
    config: request_jobs.ClientConfig,
    store_writer: writer.StoreWriter,
    limiter: rate_limit.AdaptiveLimiter,
    budget: ledger.Budget,
    meter: progress.ProgressMeter,
    *,
    redact: Callable[[str], str],
    answered: bool,
  ):
    """Creates a dispatcher.

    Args:
      http: Sends one request.
      config: How requests are sent.
      store_writer: Writes outcomes to the cache.
      limiter: Decides when requests may be sent.
      budget: The run's caps.
      meter: Reports progress.
      redact: Removes the API key from a text.
      answered: Initial value of the attribute.
    """
    self.answered = answered
    self._http, self._config, self._writer, self._budget = http, config, store_writer, budget
    self._meter, self._redact = meter, redact
    self._limiter, self._gate = limiter, rate_limit.Gate(limiter)
    self._streaks = streaks.Streaks(config.base_url, config.max_tokens)
    self._workers = 0
    self._schema_works = False  # whether a request with a schema was answered
    self._given_up = 0  # consecutive jobs
    self._rejected = 0  # bad requests before the first valid reply
    unique = secrets.token_hex(8)
    self._request_ids = (f"{unique}-{n}" for n in itertools.count())
    self._stop_reason: BaseException | None = None
    self._stopping = asyncio.Event()

  @property
  def in_flight(self) -> int:
    """Requests that have no response yet; the budget may also have those of other teachers."""
    return self._limiter.in_flight

  async def run(self, jobs: Sequence[request_jobs.Job], temperature: float) -> None:
    """Sends requests until no samples are missing.

    Raises:
      UserError: The run cannot continue.
      BaseException: The reason given to `stop`.
    """
    queue = collections.deque(jobs)
    async with asyncio.TaskGroup() as workers:
      self._hire = lambda: workers.create_task(self._work(queue, temperature))
      for _ in range(min(self._config.max_concurrency, len(jobs))):
        self._hire()
    if self._stop_reason is not None:
      raise self._stop_reason

  def stop(self, reason: BaseException) -> None:
    """Stops sending; `run` raises the first reason once no request is in flight."""
    self._stop_reason = self._stop_reason or reason
    self._stopping.set()
    self._gate.close()
    self._budget.wake()

  async def _work(self, queue: collections.deque[request_jobs.Job], temperature: float) -> None:
    self._workers += 1
    try:
      while queue and self._stop_reason is None:
        await self._finish(queue.popleft(), queue, temperature)
    except Exception as error:
      self.stop(error)
    finally:
      self._workers -= 1

  async def _finish(
    self, job: request_jobs.Job, queue: collections.deque[request_jobs.Job], temperature: float
  ) -> None:
    """Sends requests until none of the job's samples are missing, or the run stops."""
    sent = 0  # requests since the last completed one
    tries = 0  # failed attempts among them, not counting 429s
    waited = 0.0  # seconds
    while job.missing and self._stop_reason is None:
      self._split(job, queue)
      tokens_in, tokens_out = request_jobs.max_usage(self._config, job)
      if not await self._gate.acquire(tokens_in + tokens_out, first=sent > 0):
        return
      response, sent_at = await self._send(job, temperature, sent > 0, tokens_in, tokens_out)
      verdict, sent = response.verdict, sent + 1
      if isinstance(verdict, verdicts.Completed):
        if job.schema_rejected and not self._schema_works:
          self._reject_schemas(response)
        self._schema_works = self._schema_works or job.schema
        if verdict.unended:
          self._config.features.learn("n", "1", "samples of one request have no end")
        await self._store_choices(job, queue, response, verdict, sent)
        sent, tries, waited = 0, 0, 0.0
      elif isinstance(verdict, verdicts.Unsupported):
        await self._do_without(job, response, verdict, sent)
      elif job.schema and response.status == 404:
        job.schema, job.schema_rejected = False, True
      elif isinstance(verdict, verdicts.Abort):
        raise errors.teacher(
          f"{self._config.base_url}: {self._redact(verdict.reason)}{response.note};"
          f" {verdict.advice}"
        )
      elif isinstance(verdict, verdicts.Skip) and verdict.may_be_schema and job.schema:
        job.schema, job.schema_rejected = False, True  # the schema may be the cause: try without
      elif isinstance(verdict, verdicts.Skip):
        await self._skip(job, response, verdict, sent)
      else:
        if not (verdict.rate_limited or verdict.loading):
          tries += 1
        if response.status == 200 or verdict.invalid:
          job.unreadable += 1
        if verdict.invalid or (response.status in (500, 501) and not self._schema_works):
          job.doubt_schema()
        await self._charge(job, response, verdict, sent)
        waited += await self._back_off(job, response, verdict, sent, tries, waited, sent_at)

  def _split(self, job: request_jobs.Job, queue: collections.deque[request_jobs.Job]) -> None:
    """Decides on the samples of a job's next request; the others may become further jobs."""
    job.count = 0
    if len(job.missing) > self._config.features.max_samples:
      more = request_jobs.split(self._config, job)
      queue.extendleft(reversed(more))
      for _ in range(min(len(more), self._config.max_concurrency - self._workers)):
        self._hire()
    job.count = request_jobs.samples_per_request(self._config, job)

  async def _do_without(
    self,
    job: request_jobs.Job,
    response: transport.Response,
    verdict: verdicts.Unsupported,
    attempt: int,
  ) -> None:
    """Learns that the server does not take a feature; the job is sent again without it."""
    job.refusals += 1
    reason = self._redact(verdict.reason)
    if verdict.feature == "response_format":
      job.schema = False
      self._reject_schemas(response)
    elif job.refusals > features.MAX_REFUSALS or not self._config.features.learn(
      verdict.feature, verdict.value, reason
    ):
      await self._skip(job, response, verdicts.Skip("bad_request", verdict.reason), attempt)

  def _reject_schemas(self, response: transport.Response) -> None:
    self._config.shaper.schema_rejected()
    self._config.features.learn("response_format", "no", f"HTTP {response.status}")

  async def _send(
    self, job: request_jobs.Job, temperature: float, retry: bool, tokens_in: int, tokens_out: int
  ) -> tuple[transport.Response, float]:
    """Sends one request for all missing samples, once the gate has admitted it.

    Reserves its highest possible cost first, and returns unused tokens and dollars afterward.

    Returns:
      (the response, when the request was sent).
    """
    reserved, unused = request_jobs.max_dollars(self._config, job), 0
    try:
      await self._budget.reserve(reserved, lambda: self._stop_reason)
      request = await self._count(
        cache.Reservation(next(self._request_ids), tokens_in, tokens_out, reserved), retry
      )
    except BaseException:
      self._gate.release(tokens_in + tokens_out)
      raise
    cost = request_jobs.Cost(0.0, reserved, "interrupted")
    try:
      self._meter.sent(retry)
      sent_at = time.monotonic()
      body = request_jobs.body(self._config, job, temperature)
      key = job.idempotency_key(request_jobs.samples_per_request(self._config, job))
      response = await self._http.send(body, self._config.model, key)
      cost = request_jobs.cost(self._config, job, response.verdict, reserved)
      request_jobs.learn_cost(self._config, job, cost.measured)
      unused = request_jobs.unused_tokens(response.verdict, tokens_in, tokens_out)
      pacing.on_response(self._limiter, self._config, response, sent_at)
      return response, sent_at
    finally:
      self._budget.release(reserved, sent=True, cost=cost.measured, estimate=cost.estimate)
      self._meter.spend(cost.measured + cost.estimate)
      self._gate.release(unused)
      reason = self._redact(cost.reason)  # last: it raises once the cache cannot be written
      self._writer.settle(request.id, (cost.estimate, reason) if reason else None)

  async def _count(self, request: cache.Reservation, retry: bool) -> cache.Reservation:
    """Records a request before it is sent."""
    try:
      await self._writer.reserve(request, retry)
    except BaseException:
      self._budget.release(request.dollars, sent=False)
      raise
    return request

  async def _store_choices(
    self,
    job: request_jobs.Job,
    queue: collections.deque[request_jobs.Job],
    response: transport.Response,
    verdict: verdicts.Completed,
    attempt: int,
  ) -> None:
    """Stores a response's choices as the first missing samples.

    Truncated replies are queued again with a larger limit, where one is allowed.
    """
    completed = verdicts.redact(verdict, self._redact)
    count = request_jobs.samples_per_request(self._config, job)
    taken = list(zip(sorted(job.missing), completed.choices[:count], strict=False))
    costs = request_jobs.sample_costs(self._config, job, completed, taken)
    outcomes: dict[tuple[int, str], types.Outcome] = {}
    truncated, tokens = {}, 0
    for (sample, choice), cost in zip(taken, costs, strict=True):
      key = job.missing.pop(sample)
      if not choice.failure:
        outcome = request_jobs.paid_reply(completed, choice, cost)
        self.answered = True
      elif choice.failure == "length":
        message = types.truncated_message(job.limit)
        outcome = response.failure("length", message, attempt, **cost)
        if job.limit < self._config.max_tokens_retry_limit:
          truncated[sample] = key
      else:
        message = self._redact(choice.message)
        outcome = response.failure(choice.failure, message, attempt, **cost)
      outcomes[sample, key] = outcome
      tokens += outcome.tokens_in + outcome.tokens_out
    self._given_up = 0
    await self._writer.write(job.request, outcomes)
    if truncated:
      limit = min(2 * job.limit, self._config.max_tokens_retry_limit)
      queue.appendleft(dataclasses.replace(job, missing=truncated, limit=limit))
    problem = self._streaks.on_response(
      outcome for (sample, _), outcome in outcomes.items() if sample not in truncated
    )
    if problem is not None:
      raise problem
    failures = sum(isinstance(outcome, types.Failure) for outcome in outcomes.values())
    self._meter.done(len(outcomes) - len(truncated), failures - len(truncated), tokens)

  async def _charge(
    self, job: request_jobs.Job, response: transport.Response, verdict: verdicts.Retry, attempt: int
  ) -> None:
    """Stores the cost of an unusable response as a failure; a later reply replaces the failure."""
    dollars = request_jobs.wasted(self._config, verdict)
    if not any(verdict.tokens) and not dollars:
      return
    tokens_in, tokens_out = verdict.tokens
    failure = response.failure(
      "gave_up",
      self._redact(verdict.reason),
      attempt,
      tokens_in=tokens_in,
      tokens_out=tokens_out,
      dollars=dollars,
    )
    await self._writer.write(job.request, {min(job.missing.items()): failure})

  async def _skip(
    self, job: request_jobs.Job, response: transport.Response, verdict: verdicts.Skip, attempt: int
  ) -> None:
    """Records a rejected request; raises UserError if the server rejects everything."""
    reason = self._redact(verdict.reason)
    await self._fail(job, response.failure(verdict.kind, reason, attempt))
    if job.rejected_before:
      return
    if verdict.kind == "bad_request" and self.answered and not verdict.own_fault:
      problem = self._streaks.on_rejection(reason, response.note)
      if problem is not None:
        raise problem
    if verdict.kind == "bad_request" and not self.answered:
      self._rejected += 1
      if self._rejected >= DEAD_AFTER:
        raise errors.teacher(
          f"{self._config.base_url} has rejected the first {self._rejected} requests"
          f" ({reason}{response.note}); check config.teacher.model, teacher.max_tokens"
          " and teacher.max_tokens_field"
        )

  async def _back_off(
    self,
    job: request_jobs.Job,
    response: transport.Response,
    verdict: verdicts.Retry,
    attempt: int,
    tries: int,
    waited: float,
    sent_at: float,
  ) -> float:
    """Waits before the next attempt, or gives up the job.

    Returns:
      The seconds that count toward `max_wait`.
    """
    config, requested = self._config, verdict.wait
    note = f"({self._redact(verdict.reason)}{response.note})"
    if requested is not None and waited + requested > config.max_wait:
      raise errors.teacher(
        f"{config.base_url} asks to wait {requested:g} s {note}, more than what is left of"
        f" config.teacher.max_wait={config.max_wait:g} s. {NOTHING_LOST} later, or raise max_wait"
      )
    if tries >= config.max_attempts:
      await self._give_up(job, response, verdict, attempt)
      return 0.0
    if verdict.rate_limited:  # all requests wait, at the gate
      seconds = self._limiter.on_rate_limited(sent_at, requested, time.monotonic())
    else:
      seconds = max(rate_limit.backoff(tries), requested or 0.0)
    if waited + seconds > config.max_wait and verdict.rate_limited:
      raise errors.teacher(
        f"{config.base_url} is rate limiting {note} for longer than"
        f" config.teacher.max_wait={config.max_wait:g} s. {NOTHING_LOST} later, or raise max_wait"
      )
    if waited + seconds > config.max_wait:
      await self._give_up(job, response, verdict, attempt)
      return 0.0
    if seconds > (requested or 0.0) and not verdict.rate_limited:
      await self._sleep(seconds)
    return seconds

  async def _give_up(
    self, job: request_jobs.Job, response: transport.Response, verdict: verdicts.Retry, attempt: int
  ) -> None:
    """Records the job's samples as failed; raises UserError if the server seems to be down."""
    base_url, reason = self._config.base_url, self._redact(verdict.reason)
    if not self.answered:
      raise errors.teacher(
        f"no valid response from {base_url} after {attempt} attempts ({reason}); check that it is"
        " running, that config.teacher.base_url is right (most end in /v1) and that no firewall and"
        " no proxy of the environment (HTTPS_PROXY, NO_PROXY) is in the way"
      )
    await self._fail(job, response.failure("gave_up", reason, attempt))
    self._given_up += 1
    if self._given_up >= max(DEAD_AFTER, self._config.max_concurrency):
      raise errors.teacher(
        f"{base_url} has stopped responding ({reason}; gave up {self._given_up} requests in a row"
        f" after {attempt} attempts each). {NOTHING_LOST} when it is back"
      )

  async def _fail(self, job: request_jobs.Job, failure: types.Failure) -> None:
    """Records one failure for all missing samples of a job."""
    outcomes: dict[tuple[int, str], types.Outcome] = dict.fromkeys(job.missing.items(), failure)
    job.missing.clear()
    await self._writer.write(job.request, outcomes)
    self._meter.done(len(outcomes), len(outcomes), 0)

  async def _sleep(self, seconds: float) -> None:
    """Sleeps; returns early if the run stops."""
    with contextlib.suppress(TimeoutError):
      async with asyncio.timeout(seconds):
        await self._stopping.wait()
