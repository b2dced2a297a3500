"""Teacher backed by any server that implements OpenAI's chat completions API.

This includes the built-in server. No reply is paid for twice: samples in the cache are not
requested, and every reply is on disk before it is used. The API key is read from the environment or
a file, and leaves the process only in one HTTP header.
"""

import asyncio
import contextlib
import math
import pathlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import openai

from distill_jax import errors, settings
from distill_jax.teacher import types
from distill_jax.teacher.client import (
  collector,
  credentials,
  dispatcher,
  features,
  headers,
  interrupts,
  patience,
  progress,
  rate_limit,
  request_body,
  request_jobs,
  sessions,
  streaks,
  transport,
)
from distill_jax.teacher.store import batches, cache, ledger, writer

MAX_TOKENS_FIELDS = features.TOKEN_FIELDS

CacheKeys = tuple[str, dict[int, str]]  # of one request: (canonical JSON, {sample: cache key})


class Client:
  """Teacher behind HTTP: one code path for vendors, local servers and the built-in teacher.

  Creating one opens the cache and reads the key, but sends nothing.

  Args:
    base_url: Parent of /chat/completions: https, or plain http to this machine.
    model: Model name to request.
    key_env: Environment variable with the key. It may be unset, or "", for a local server.
    max_tokens: Maximum completion tokens of one reply.
    max_tokens_field: The field that carries `max_tokens`, one of MAX_TOKENS_FIELDS.
    max_concurrency: Maximum requests in flight; the actual number adapts to the server.
    timeout: Seconds to wait for the first byte of a response. Each timeout doubles it, up to
      `max_wait`.
    max_attempts: HTTP requests for a job before it counts as failed.
    max_wait: Seconds that one job may wait between attempts, Retry-After included.
    prices: Dollars per million tokens.
    max_dollars: Cap on the run's cost, checked before each HTTP request.
    max_requests: Cap on the run's HTTP requests, checked before each of them.
    cache_path: SQLite file.
    run: Name of this run in the cache, so that several runs can share it.
    identity: Identifies the server in cache keys; "" for `base_url`.
    send_seed: Send the first sample's number as `seed` (the built-in server samples by it).
    key_file: File with the key, instead of `key_env`; "" for none.
    insecure_http: Allow plain http to other machines.
    shaper: Adds body fields and reply schemas; None for neither.
    max_tokens_retry_limit: Truncated replies are requested again with twice the tokens, up to
      this; 0 for never.
    requests_per_minute: The server's published limit; 0 if unknown.
    tokens_per_minute: The same for tokens.
    connect_timeout: Maximum seconds to connect; values above `timeout` have no effect.
    unsupported: Request features that the server does not support, from `features.UNSUPPORTED`.
    stream: Ask for streamed replies.
    total_timeout: Maximum seconds for a complete response; values below `timeout` have no effect.
    deadline: Maximum seconds of all calls of `ask` together; 0 for no limit.
    extra_headers: Sent with every request.

  Raises:
    UserError: The address, the key, a value or the cache file cannot be used.

  Attributes:
    limiter: Adapts concurrency and rate to the server.
    ledger: What this run has used and spent.
  """

  def __init__(
    self,
    *,
    base_url: str,
    model: str,
    key_env: str,
    max_tokens: int,
    max_tokens_field: str,
    max_concurrency: int,
    timeout: float,
    max_attempts: int,
    max_wait: float,
    prices: settings.Prices,
    max_dollars: float,
    max_requests: int,
    cache_path: str | pathlib.Path,
    run: str,
    identity: str,
    send_seed: bool,
    key_file: str = "",
    insecure_http: bool = False,
    shaper: request_body.RequestShaper | None = None,
    max_tokens_retry_limit: int = 0,
    requests_per_minute: float = 0,
    tokens_per_minute: float = 0,
    deadline: float = 0.0,
    extra_headers: headers.Headers = headers.NONE,
    connect_timeout: float = 10.0,
    total_timeout: float = 600.0,
    unsupported: Sequence[str] = (),
    stream: bool = False,
  ):
    credentials.check_address(base_url, insecure_http=insecure_http)
    self._local = credentials.is_local(base_url)
    _check_values(
      max_tokens_field,
      {"max_concurrency": max_concurrency, "max_attempts": max_attempts, "timeout": timeout},
    )
    self._key = credentials.key(base_url, key_env=key_env, key_file=key_file)
    self._identity, self._run = identity or base_url.rstrip("/"), run
    shaper = shaper or request_body.UNSHAPED
    self._store = cache.ReplyCache(cache_path)
    try:
      known = self._features(model, shaper, unsupported, max_tokens_field, stream)
    except errors.UserError:
      self._store.close()
      raise
    self._headers = extra_headers
    self._redact = credentials.redactor(self._key, *extra_headers.secrets)
    self._config = request_jobs.ClientConfig(
      base_url=base_url.rstrip("/"),
      model=model,
      max_tokens=max_tokens,
      max_tokens_retry_limit=max(max_tokens, max_tokens_retry_limit),
      max_concurrency=max_concurrency,
      timeout=timeout,
      connect_timeout=min(connect_timeout, timeout),
      max_attempts=max_attempts,
      max_wait=max_wait,
      prices=prices,
      send_seed=send_seed,
      shaper=shaper,
      features=known,
    )
    self._deadline, self._time_left = deadline, deadline or math.inf
    self.limiter = rate_limit.AdaptiveLimiter(
      max_concurrency,
      time.monotonic(),
      requests_per_minute=requests_per_minute,
      tokens_per_minute=tokens_per_minute,
    )
    longest = max(timeout, max_wait)
    self._waits = patience.Patience(timeout, longest=longest, total=max(timeout, total_timeout))
    self.limiter.cap(known.max_concurrency)
    self._ask_lock = threading.Lock()
    self._max_dollars, self._max_requests = max_dollars, max_requests
    self._answered = False
    self.ledger = ledger.RunLedger(self._store, run)

  def _features(
    self,
    model: str,
    shaper: request_body.RequestShaper,
    unsupported: Sequence[str],
    token_field: str,
    stream: bool,
  ) -> features.Features:
    """Returns the server's features, as configured or learned earlier, and applies them."""
    server = f"{self._identity} {model}"
    known = features.Features(
      unsupported=unsupported,
      token_field=token_field,
      stream=stream,
      learned=self._store.features(server),
      save=lambda name, value: self._store.learn(server, name, value),
      warn=shaper.warn,
    )
    shaper.plain = shaper.plain or not known.takes("response_format")
    return known

  def ask(
    self,
    requests: Sequence[types.Request],
    *,
    round: int,
    phase: str,
    temperature: float,
    on_progress: Callable[[types.Progress], None] | None,
  ) -> list[list[types.Outcome]]:
    """See `types.Teacher.ask`. Concurrent calls from several threads run one after another."""
    run_phase = cache.RunPhase(self._run, round, phase)
    with self._ask_lock:
      return self._ask(requests, run_phase, temperature, on_progress)

  def estimate(
    self, requests: Sequence[types.Request], *, round: int, phase: str, temperature: float
  ) -> types.Estimate:
    """See `types.Teacher.estimate`."""
    run_phase = cache.RunPhase(self._run, round, phase)
    request_keys = [self._cache_keys(request, temperature) for request in requests]
    known = self._store.lookup(_flat(request_keys), run_phase)
    jobs = self._jobs(requests, request_keys, known, run_phase)
    samples = len(set(_flat(request_keys)))
    stored = sum(isinstance(outcome, types.Reply) for outcome in known.values())
    return request_jobs.estimate(self._config, jobs, samples, stored, free=self._local)

  def close(self) -> None:
    """Closes the cache file."""
    self._store.close()

  def _ask(
    self,
    requests: Sequence[types.Request],
    run_phase: cache.RunPhase,
    temperature: float,
    on_progress: Callable[[types.Progress], None] | None,
  ) -> list[list[types.Outcome]]:
    request_keys = [self._cache_keys(request, temperature) for request in requests]
    keys = _flat(request_keys)
    self._store.record_asked(keys, run_phase)
    known = self._store.lookup(keys, run_phase)
    jobs = self._jobs(requests, request_keys, known, run_phase)
    total = sum(request.samples for request in requests)
    if jobs:
      again = {key for job in jobs for key in job.missing.values()}
      self._check_not_pending(again)
      stored = [outcome for key, outcome in known.items() if key not in again]
      streaks.Streaks(self._config.base_url, self._config.max_tokens).check_stored(stored)
      with collector.modules_frozen():
        asyncio.run(self._send(jobs, run_phase, temperature, total, on_progress))
      known = self._store.lookup(keys, run_phase)
    elif on_progress is not None:
      dollars = self.ledger.spent()
      on_progress(types.Progress(total, total, failures=0, retries=0, dollars=dollars))
    if lost := [key for key in keys if key not in known]:
      raise errors.data(
        f"{len(lost)} replies were removed from teacher cache {self._store.path} by another"
        " command during this one; run the same command again"
      )
    return [[known[key] for key in sample_keys.values()] for _, sample_keys in request_keys]

  def _check_not_pending(self, keys: set[str]) -> None:
    """Raises UserError if a batch that is under way covers any of these samples."""
    batches.check_not_pending(self._store.path, self._run, keys)

  def _cache_keys(self, request: types.Request, temperature: float) -> CacheKeys:
    """Returns the canonical JSON of a request and the cache key of each sample."""
    sampling = {"temperature": float(temperature), "max_tokens": self._config.max_tokens}
    sampling |= self._config.shaper.key(request.kind)
    text = cache.request_text(self._identity, self._config.model, request.messages, sampling)
    samples = range(request.first, request.first + request.samples)
    return text, {sample: cache.key(text, sample) for sample in samples}

  def _jobs(
    self,
    requests: Sequence[types.Request],
    request_keys: Sequence[CacheKeys],
    known: Mapping[str, types.Outcome],
    run_phase: cache.RunPhase,
  ) -> list[request_jobs.Job]:
    """Returns jobs for the samples without final outcome in `known`: one per request and limit."""
    replied = any(isinstance(outcome, types.Reply) for outcome in known.values())
    salt, failed = self._store.salt(), self._store.failure_counts(run_phase)
    jobs: dict[tuple[str, int], request_jobs.Job] = {}
    for request, (text, sample_keys) in zip(requests, request_keys, strict=True):
      for sample, key in sample_keys.items():
        limit = self._limit(known.get(key))
        if limit == 0:
          continue
        if (text, limit) not in jobs:
          jobs[text, limit] = request_jobs.Job(
            messages=request.messages,
            request=text,
            missing={},
            limit=limit,
            kind=request.kind,
            schema=self._config.shaper.schema(request.kind),
            salt=salt,
          )
        job, old = jobs[text, limit], known.get(key)
        rejected = isinstance(old, types.Failure) and old.kind == "bad_request"
        job.rejected_before |= replied and rejected
        job.missing[sample] = key
        job.failures += failed[key]
    return sorted(jobs.values(), key=lambda job: job.rejected_before)  # these come last

  def _limit(self, outcome: types.Outcome | None) -> int:
    """Returns the token limit for requesting a sample; 0 if it needs no request."""
    if outcome is None:
      return self._config.max_tokens
    if isinstance(outcome, types.Reply):
      return 0
    if outcome.kind not in types.SETTLED:
      return self._config.max_tokens
    truncated, retry_limit = types.truncated_at(outcome), self._config.max_tokens_retry_limit
    if truncated and self._config.max_tokens <= truncated < retry_limit:
      return min(2 * truncated, retry_limit)
    return 0

  async def _send(
    self,
    jobs: list[request_jobs.Job],
    run_phase: cache.RunPhase,
    temperature: float,
    total: int,
    on_progress: Callable[[types.Progress], None] | None,
  ) -> None:
    """Sends the jobs and stores the replies, within the run's caps."""
    caps = {"max_dollars": self._max_dollars, "max_requests": self._max_requests}
    with ledger.shared_budget(self._store, self._run, **caps) as budget:
      await self._dispatch(jobs, run_phase, temperature, total, on_progress, budget)

  async def _dispatch(
    self,
    jobs: list[request_jobs.Job],
    run_phase: cache.RunPhase,
    temperature: float,
    total: int,
    on_progress: Callable[[types.Progress], None] | None,
    budget: ledger.Budget,
  ) -> None:
    """Sends the jobs and stores the replies until every sample has an outcome."""
    done = total - sum(len(job.missing) for job in jobs)
    meter = progress.ProgressMeter(total, done, budget.spent, self.limiter, on_progress)
    store_writer = writer.StoreWriter(self._store, run_phase)
    http = transport.Transport(
      self._config.base_url,
      self._key,
      waits=self._waits,
      connect_timeout=self._config.connect_timeout,
      local=self._local,
      connections=self._config.max_concurrency,
      redact=self._redact,
      headers=self._headers.values,
    )
    async with http:
      sender = dispatcher.Dispatcher(
        http,
        self._config,
        store_writer,
        self.limiter,
        budget,
        meter,
        redact=self._redact,
        answered=self._answered,
      )
      try:
        with self._stop_at_deadline(sender), interrupts.stop_on_signals(sender):
          async with meter.ticking():
            await sender.run(jobs, temperature)
      finally:
        self._answered = sender.answered
        await store_writer.close()

  @contextlib.contextmanager
  def _stop_at_deadline(self, sender: interrupts.Stoppable) -> Iterator[None]:
    """Stops `sender` at the deadline. The time used is subtracted from that of later calls."""
    reason = errors.budget(
      f"config.teacher.deadline ({self._deadline:g} s) reached. Replies received so far are saved;"
      " re-run the same command to continue, or raise it"
    )
    started, timer = time.monotonic(), None
    if self._time_left < math.inf:
      loop = asyncio.get_running_loop()
      timer = loop.call_later(max(0.0, self._time_left), sender.stop, reason)
    try:
      yield
    finally:
      self._time_left -= time.monotonic() - started
      if timer is not None:
        timer.cancel()

  def _openai_client(self) -> openai.AsyncOpenAI:
    """Returns a client for files and batches, to be used in one event loop."""
    config = self._config
    return sessions.openai_client(
      config.base_url, self._key, config.timeout, self._local, self._headers.values
    )


def _flat(request_keys: Iterable[CacheKeys]) -> list[str]:
  """Returns the cache keys of all samples, in order."""
  return [key for _, sample_keys in request_keys for key in sample_keys.values()]


def _check_values(max_tokens_field: str, positive: Mapping[str, float]) -> None:
  """Raises UserError for an unknown field, or a value of `positive` that is not above 0."""
  if max_tokens_field not in MAX_TOKENS_FIELDS:
    allowed = " or ".join(MAX_TOKENS_FIELDS)
    raise errors.config("teacher.max_tokens_field", max_tokens_field, allowed)
  for name, value in positive.items():
    if value <= 0:
      raise errors.config(f"teacher.{name}", value, "above 0")
