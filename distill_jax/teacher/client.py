"""The paid teacher: any server that speaks OpenAI's chat completions, the built-in one included.

Nothing is paid for twice: what is in the cache is not asked, what comes back is on the disk before
it is used. The key is read from the environment and leaves this process in one HTTP header only.
"""

import asyncio
from collections.abc import Callable, Sequence

import openai

from distill_jax import errors
from distill_jax.teacher import access, asking, cache, ledger, sending

MAX_TOKENS_FIELDS = ("max_tokens", "max_completion_tokens")


class Client:
  """A Teacher behind HTTP. One code path for vendors, local servers and the built-in teacher.

  base_url      where /chat/completions stands; https, or plain http to this machine, or, with
                insecure_http, to any
  key_env       environment variable with the key; may be unset or "" for a server on this machine
  key_file      file with the key, instead; "" for none
  max_tokens    completion tokens of one reply; max_tokens_field is what the server calls it
  concurrency   requests in flight
  timeout       seconds for one attempt, from sending to the last byte
  attempts      HTTP requests for one call before it is given up
  patience      seconds one call may wait between its attempts, Retry-After included
  prices        .input and .output, dollars per million tokens
  max_dollars, max_requests   hard caps of the run, checked before each HTTP request
  cache_path    SQLite file; `run` names this run in it, so that one file can serve several
  identity      stands for the server in cache keys; "" for base_url itself
  send_seed     send the number of the first sample as `seed` (the built-in server draws by it)

  Raises errors.Refusal if the address, the key or the cache cannot be used.
  """

  def __init__(
    self, *, base_url: str, model: str, key_env: str, max_tokens: int, max_tokens_field: str,
    concurrency: int, timeout: float, attempts: int, patience: float, prices, max_dollars: float,
    max_requests: int, cache_path: str, run: str, identity: str, send_seed: bool,
    key_file: str = "", insecure_http: bool = False,
  ):  # fmt: skip
    access.check_address(base_url, insecure_http=insecure_http)
    self._local = access.is_local(base_url)
    if max_tokens_field not in MAX_TOKENS_FIELDS:
      raise errors.config(
        "teacher.max_tokens_field", max_tokens_field, " or ".join(MAX_TOKENS_FIELDS)
      )
    for name, value in (("concurrency", concurrency), ("attempts", attempts), ("timeout", timeout)):
      if value <= 0:
        raise errors.config(f"teacher.{name}", value, "above 0")
    self._key = access.key(base_url, key_env=key_env, key_file=key_file)
    self._terms = sending.Terms(
      base_url.rstrip("/"), model, max_tokens, max_tokens_field, concurrency, timeout, attempts,
      patience, prices, send_seed,
    )  # fmt: skip
    self._caps = {"max_dollars": max_dollars, "max_requests": max_requests}
    self._identity, self._run = identity or self._terms.base_url, run
    self._store = cache.Cache(cache_path)
    self._answered = False
    self.ledger = ledger.Ledger(self._store, run)

  def ask(
    self,
    requests: Sequence[asking.Request],
    *,
    round: int,
    stage: str,
    temperature: float,
    on_progress: Callable[[asking.Progress], None] | None,
  ) -> list[list[asking.Reply | asking.Failure]]:
    """See asking.Teacher."""
    place = cache.Place(self._run, round, stage)
    names = [self._names(request, temperature) for request in requests]
    self._store.ask([name for _, keys in names for name in keys.values()], place)
    jobs = self._jobs(requests, names, place)
    total = sum(request.samples for request in requests)
    if jobs:
      asyncio.run(self._send(jobs, place, temperature, total, on_progress))
    elif on_progress is not None:
      on_progress(asking.Progress(total, total, 0, 0, self.ledger.total().dollars))
    return [[self._outcome(name, place) for name in keys.values()] for _, keys in names]

  def close(self) -> None:
    """Closes the cache file."""
    self._store.close()

  def _names(self, request: asking.Request, temperature: float) -> tuple[str, dict[int, str]]:
    """(canonical JSON, {sample: cache key}) of a request."""
    sampling = {"temperature": float(temperature), "max_tokens": self._terms.max_tokens}
    text = cache.request_text(self._identity, self._terms.model, request.messages, sampling)
    samples = range(request.first, request.first + request.samples)
    return text, {sample: cache.key(text, sample) for sample in samples}

  def _jobs(self, requests, names, place) -> list[sending.Job]:
    """What is neither stored nor settled, one job for each distinct request."""
    jobs: dict[str, sending.Job] = {}
    for request, (text, keys) in zip(requests, names, strict=True):
      missing = {sample: name for sample, name in keys.items() if not self._settled(name, place)}
      if missing:
        job = jobs.setdefault(text, sending.Job(request.messages, text, {}))
        job.missing |= missing
    return list(jobs.values())

  def _settled(self, name: str, place) -> bool:
    if self._store.get(name, place) is not None:
      return True
    failure = self._store.failure(name, place)
    return failure is not None and failure.kind in asking.SETTLED

  def _outcome(self, name: str, place) -> asking.Reply | asking.Failure:
    return self._store.get(name, place) or self._store.failure(name, place)

  async def _send(self, jobs, place, temperature, total: int, on_progress) -> None:
    spent = self.ledger.total().dollars
    budget = ledger.Budget(spent=spent, requests=self.ledger.requests(), **self._caps)
    counts = {"done": total - sum(len(job.missing) for job in jobs), "failures": 0, "retries": 0}

    def on_done(done: int, retries: int, failures: int = 0) -> None:
      for name, more in (("done", done), ("retries", retries), ("failures", failures)):
        counts[name] += more
      if on_progress is not None:
        on_progress(asking.Progress(total=total, dollars=budget.spent, **counts))

    on_done(0, 0)
    options = (
      {"trust_env": False} if self._local else {}
    )  # a proxy cannot reach this machine's loopback
    async with openai.AsyncOpenAI(
      api_key=self._key or "none",
      base_url=self._terms.base_url,
      max_retries=0,
      timeout=self._terms.timeout,
      http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False, **options),
    ) as http:
      sender = sending.Sender(
        http, self._terms, self._store, place, budget, self._hide, self._answered, on_done
      )
      try:
        await sender.run(jobs, temperature)
      finally:
        self._answered = sender.answered

  def _hide(self, text: str) -> str:
    """Takes the key out of what a server said."""
    return text.replace(self._key, "[key]") if len(self._key) >= 8 else text
