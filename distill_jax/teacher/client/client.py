"""The paid teacher: any server that speaks OpenAI's chat completions, the built-in one included.

Nothing is paid for twice: what is in the cache is not asked, what comes back is on the disk before
it is used. The key is read from the environment and leaves this process in one HTTP header only.
"""

import asyncio
import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Sequence

import openai

from distill_jax import errors
from distill_jax.teacher import types
from distill_jax.teacher.client import (
  credentials,
  dispatcher,
  interrupts,
  rate_limit,
  request_body,
  transport,
)
from distill_jax.teacher.client import progress as meter
from distill_jax.teacher.store import batches, cache, ledger, writer  # fmt: skip

MAX_TOKENS_FIELDS = ("max_tokens", "max_completion_tokens")


class Client:
  """A Teacher behind HTTP. One code path for vendors, local servers and the built-in teacher.

  base_url      where /chat/completions stands; https, or plain http to this machine, or, with
                insecure_http, to any
  key_env       environment variable with the key; may be unset or "" for a server on this machine
  key_file      file with the key, instead; "" for none
  max_tokens    completion tokens of one reply; max_tokens_field is what the server calls it
  max_tokens_retry_limit   a reply that is cut is asked for again with twice as many, up to this; 0: not
  max_concurrency  the most requests in flight; how many there are follows what the server bears
  requests_per_minute, tokens_per_minute   what the server is known to allow; 0: not known
  timeout       seconds for one attempt, from sending to the last byte
  attempts      HTTP requests for one call before it is given up
  max_wait  seconds one call may wait between its attempts, Retry-After included
  deadline      seconds that all asks of this client may take together; 0 for no end
  prices        .input and .output, dollars per million tokens
  max_dollars, max_requests   hard caps of the run, checked before each HTTP request
  cache_path    SQLite file; `run` names this run in it, so that one file can serve several
  identity      stands for the server in cache keys; "" for base_url itself
  send_seed     send the number of the first sample as `seed` (the built-in server draws by it)
  shape         further body fields and schemas of replies; None for neither

  Raises errors.UserError if the address, the key or the cache cannot be used.
  """

  def __init__(
    self, *, base_url: str, model: str, key_env: str, max_tokens: int, max_tokens_field: str,
    max_concurrency: int, timeout: float, max_attempts: int, max_wait: float, prices, max_dollars: float,
    max_requests: int, cache_path: str, run: str, identity: str, send_seed: bool,
    key_file: str = "", insecure_http: bool = False, shape: request_body.Shaping | None = None,
    max_tokens_retry_limit: int = 0,
    requests_per_minute: float = 0, tokens_per_minute: float = 0, deadline: float = 0.0,
  ):  # fmt: skip
    credentials.check_address(base_url, insecure_http=insecure_http)
    self._local = credentials.is_local(base_url)
    if max_tokens_field not in MAX_TOKENS_FIELDS:
      raise errors.config(
        "teacher.max_tokens_field", max_tokens_field, " or ".join(MAX_TOKENS_FIELDS)
      )
    for name, value in (
      ("max_concurrency", max_concurrency),
      ("max_attempts", max_attempts),
      ("timeout", timeout),
    ):
      if value <= 0:
        raise errors.config(f"teacher.{name}", value, "above 0")
    self._key = credentials.key(base_url, key_env=key_env, key_file=key_file)
    self._terms = dispatcher.Terms(
      base_url.rstrip("/"), model, max_tokens_field, 
      max(max_tokens, max_tokens_retry_limit), max_concurrency, timeout, max_attempts, max_wait,
      prices, send_seed, shape or request_body.NONE,
    )  # fmt: skip
    self._max_tokens = max_tokens
    self._deadline, self._left = deadline, deadline or math.inf
    self.pace = rate_limit.Pace(
      max_concurrency, time.monotonic(), requests_per_minute=requests_per_minute,
      tokens_per_minute=tokens_per_minute,
    )  # fmt: skip
    self._turn = threading.Lock()
    self._caps = {"max_dollars": max_dollars, "max_requests": max_requests}
    self._identity, self._run = identity or self._terms.base_url, run
    self._store = cache.ReplyCache(cache_path)
    self._answered = False
    self.ledger = ledger.RunLedger(self._store, run)

  def ask(
    self,
    requests: Sequence[types.Request],
    *,
    round: int,
    phase: str,
    temperature: float,
    on_progress: Callable[[types.Progress], None] | None,
  ) -> list[list[types.Reply | types.Failure]]:
    """See asking.Teacher. Of asks from several threads, one waits for the other's replies."""
    place = cache.RunPhase(self._run, round, phase)
    with self._turn:
      return self._ask(requests, place, temperature, on_progress)

  def need(
    self, requests: Sequence[types.Request], *, round: int, phase: str, temperature: float
  ) -> types.Need:
    """See asking.Teacher."""
    names = [self._names(request, temperature) for request in requests]
    jobs = self._jobs(requests, names, cache.RunPhase(self._run, round, phase))
    every = {name for _, keys in names for name in keys.values()}
    found = self._store.lookup(every, cache.RunPhase(self._run, round, phase)).values()
    stored = sum(isinstance(outcome, types.Reply) for outcome in found)
    return dispatcher.need(self._terms, jobs, len(every), stored, free=self._local)

  def close(self) -> None:
    """Closes the cache file."""
    self._store.close()

  def _ask(self, requests, place, temperature: float, on_progress):
    names = [self._names(request, temperature) for request in requests]
    self._store.record_asked([name for _, keys in names for name in keys.values()], place)
    jobs = self._jobs(requests, names, place)
    total = sum(request.samples for request in requests)
    if jobs:
      self._check_not_pending({name for job in jobs for name in job.missing.values()})
      asyncio.run(self._send(jobs, place, temperature, total, on_progress))
    elif on_progress is not None:
      on_progress(types.Progress(total, total, 0, 0, self.ledger.total().dollars))
    found = self._store.lookup([name for _, keys in names for name in keys.values()], place)
    if gone := [name for _, keys in names for name in keys.values() if name not in found]:
      raise errors.data(
        f"{len(gone)} replies were thrown away from teacher cache {self._store.path} by another"
        " command while this one asked for others; run the same command again"
      )
    return [[found[name] for name in keys.values()] for _, keys in names]

  def _check_not_pending(self, keys: set[str]) -> None:
    """Raises errors.UserError for what is under way in another way."""
    batches.check_not_pending(self._store.path, self._run, keys)

  def _names(self, request: types.Request, temperature: float) -> tuple[str, dict[int, str]]:
    """(canonical JSON, {sample: cache key}) of a request."""
    sampling = {"temperature": float(temperature), "max_tokens": self._max_tokens}
    sampling |= self._terms.shaping.key(request.kind)
    text = cache.request_text(self._identity, self._terms.model, request.messages, sampling)
    samples = range(request.first, request.first + request.samples)
    return text, {sample: cache.key(text, sample) for sample in samples}

  def _jobs(self, requests, names, place) -> list[dispatcher.Job]:
    """What is neither stored nor settled, one job for each distinct request and limit."""
    found = self._store.lookup([name for _, keys in names for name in keys.values()], place)
    jobs: dict[tuple[str, int], dispatcher.Job] = {}
    salt, failed = self._store.salt(), self._store.failure_counts(place)
    for request, (text, keys) in zip(requests, names, strict=True):
      for sample, name in keys.items():
        if limit := self._limit(found.get(name)):
          schema = self._terms.shaping.schema(request.kind)
          job = dispatcher.Job(request.messages, text, {}, limit, request.kind, schema, salt=salt)
          job = jobs.setdefault((text, limit), job)
          job.missing[sample] = name
          job.again += failed[name]
    return list(jobs.values())

  def _limit(self, outcome) -> int:
    """With how many tokens a sample has to be asked for; 0 if it need not be."""
    if outcome is None:
      return self._max_tokens
    if isinstance(outcome, types.Reply):
      return 0
    if outcome.kind not in types.SETTLED:
      return self._max_tokens
    cut, most = types.cut_at(outcome), self._terms.max_tokens_retry_limit
    return min(2 * cut, most) if cut and self._max_tokens <= cut < most else 0

  async def _send(self, jobs, place, temperature, total: int, on_progress) -> None:
    spent = self.ledger.total().dollars
    budget = ledger.Budget(spent=spent, requests=self.ledger.requests_sent(), **self._caps)
    there = total - sum(len(job.missing) for job in jobs)
    progress = meter.Meter(total, there, spent, on_progress)
    progress.watch(self.pace)
    store_writer = writer.StoreWriter(self._store, place)
    post = transport.Post(
      self._terms.base_url, self._key, timeout=self._terms.timeout, local=self._local,
      connections=self._terms.max_concurrency, hide=self._hide,
    )  # fmt: skip
    async with post:
      sender = dispatcher.Sender(
        post, self._terms, store_writer, self.pace, budget, progress, self._hide, self._answered
      )
      try:
        with self._deadline_of(sender), interrupts.heard(sender):
          async with progress.ticking():
            await sender.run(jobs, temperature)
      finally:
        self._answered = sender.answered
        await store_writer.close()

  @contextlib.contextmanager
  def _deadline_of(self, sender: dispatcher.Sender):
    """Stops the sender when the time for asking is over; what is used of it is gone."""
    reason = errors.budget(
      f"config.teacher.deadline={self._deadline:g} seconds of asking are over; nothing is lost, run"
      " the same command again, or raise it"
    )
    begun, timer = time.monotonic(), None
    if self._left < math.inf:
      timer = asyncio.get_running_loop().call_later(max(0.0, self._left), sender.stop, reason)
    try:
      yield
    finally:
      self._left -= time.monotonic() - begun
      if timer is not None:
        timer.cancel()

  def _connection(self) -> openai.AsyncOpenAI:
    """For what is not a chat completion: files and batches. Lives in one event loop."""
    made = openai.AsyncOpenAI(
      api_key=self._key or "none",
      base_url=self._terms.base_url,
      max_retries=0,
      timeout=self._terms.timeout,
      http_client=transport.connection(self._local),
    )
    made.organization = made.project = None  # what the environment has for another server is not
    made._custom_headers = {}  # for this one
    return made

  def _hide(self, text: str) -> str:
    """Takes the key out of what a server said, also as it stands in JSON."""
    if len(self._key) >= 8:
      for spelt in (self._key, json.dumps(self._key)[1:-1], self._key.replace("/", "\\/")):
        text = text.replace(spelt, "[key]")
    return text
