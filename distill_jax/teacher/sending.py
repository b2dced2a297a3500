"""The loop that every request goes through: bounded concurrency, retries, shared pauses, budget.

A worker takes a job, sends what is still missing of it, reads the verdict, stores, and goes on.
When the run must stop, nothing new is sent, requests in flight are awaited and stored, then the
reason is raised.
"""

import asyncio
import collections
import dataclasses
import itertools
import random
import time

import httpx2
import openai

from distill_jax import errors
from distill_jax.teacher import asking, cache, ledger, verdicts

BACKOFF = 0.5  # seconds; attempt k waits between 0 and BACKOFF * 2**(k - 1)
BACKOFF_MAX = 30.0  # seconds
SPREAD = 0.1  # a shared pause ends for each worker up to this share later, at most a second
DEAD_AFTER = 8  # requests (or all workers) given up in a row: the server is gone
BYTES_A_TOKEN = 4  # what tokens are estimated at where the server does not count them
BYTES_A_TOKEN_AT_LEAST = 3  # for reservations, so that they err to the safe side


@dataclasses.dataclass
class Job:
  """Messages with the samples that are still missing: {sample: cache key}."""

  messages: tuple[tuple[str, str], ...]
  request: str  # canonical JSON
  missing: dict[int, str]

  def __post_init__(self):
    self.size = sum(len(content.encode("utf-8", "replace")) for _, content in self.messages)


@dataclasses.dataclass(frozen=True)
class Terms:
  """How requests are sent; see client.Client for the fields."""

  base_url: str
  model: str
  max_tokens: int
  max_tokens_field: str
  concurrency: int
  timeout: float
  attempts: int
  patience: float
  prices: ledger.Prices
  send_seed: bool


class Sender:
  """Sends the jobs of one ask; lives in one event loop."""

  def __init__(
    self, http, terms: Terms, store: cache.Cache, place, budget, hide, answered, on_done
  ):
    """`hide` takes the key out of a text, `answered` says whether the server ever gave a valid
    reply in this run, `on_done(failures, retries)` hears of samples that are finished."""
    self._http, self._terms, self._store, self._place = http, terms, store, place
    self._budget, self._hide, self._on_done = budget, hide, on_done
    self.answered = answered
    self._given_up = 0  # in a row
    self._rejected = 0  # bad requests before the first valid reply
    self._resume_at = 0.0  # monotonic seconds; nobody sends before
    self._stop: BaseException | None = None
    self._stopping = asyncio.Event()

  async def run(self, jobs: list[Job], temperature: float) -> None:
    """Returns when nothing is missing any more. Raises errors.Refusal if the run must stop."""
    queue = collections.deque(jobs)
    async with asyncio.TaskGroup() as workers:
      for _ in range(min(self._terms.concurrency, len(jobs))):
        workers.create_task(self._work(queue, temperature))
    if self._stop is not None:
      raise self._stop

  async def _work(self, queue, temperature: float) -> None:
    while queue and self._stop is None:
      try:
        await self._finish(queue.popleft(), temperature)
      except Exception as error:
        self._stop = self._stop or error
        self._stopping.set()

  async def _finish(self, job: Job, temperature: float) -> None:
    attempt, waited = 0, 0.0
    while job.missing:
      await self._pause()
      reserved = await self._reserve(job)
      if self._stop is not None:
        return
      attempt += 1
      verdict = await self._attempt(job, temperature, reserved, retry=attempt > 1)
      if isinstance(verdict, verdicts.Answered):
        self._keep(job, verdict.choices[: self._count(job)], verdict, attempt)
        attempt, waited = 0, 0.0
      elif isinstance(verdict, verdicts.Stop):
        raise errors.teacher(f"{self._terms.base_url}: {self._hide(verdict.why)}; {verdict.do}")
      elif isinstance(verdict, verdicts.Skip):
        self._skip(job, verdict, attempt)
      else:
        waited += await self._wait(job, verdict, attempt, waited)

  async def _reserve(self, job: Job) -> float:
    """Dollars set aside for the next request of this job; counts it as in flight."""
    if self._stop is not None:
      return 0.0
    tokens_in = job.size // BYTES_A_TOKEN_AT_LEAST + 16 * (len(job.messages) + 1)
    tokens_out = self._terms.max_tokens * len(job.missing)
    need = ledger.dollars(self._terms.prices, tokens_in, tokens_out)
    await self._budget.reserve(need)
    if self._stop is not None:
      self._budget.release(need, sent=False)
    return need

  async def _attempt(self, job: Job, temperature: float, reserved: float, retry: bool):
    """One HTTP request for all missing samples, and what its answer means."""
    terms, body = self._terms, self._body(job, temperature)
    self._store.sent(self._place, retry)
    self._on_done(0, int(retry))
    try:
      async with asyncio.timeout(terms.timeout):
        raw = await self._http.chat.completions.with_raw_response.create(**body)
      return verdicts.of_body(raw.http_response.content, terms.model)
    except (TimeoutError, openai.APITimeoutError):
      return verdicts.Again(f"no answer within {terms.timeout:g} s")
    except openai.APIStatusError as error:
      return verdicts.of_status(error.status_code, error.response.headers, error.body, time.time())
    except (openai.APIConnectionError, httpx2.HTTPError) as error:
      cause = error.__cause__ or error
      return verdicts.Again(f"{type(cause).__name__}: {verdicts.start(str(cause))}")
    except openai.OpenAIError as error:
      return verdicts.Again(f"{type(error).__name__}: {verdicts.start(str(error))}")
    finally:
      self._budget.release(reserved, sent=True)

  def _body(self, job: Job, temperature: float) -> dict:
    terms = self._terms
    body = {
      "model": terms.model,
      "messages": [{"role": role, "content": _sendable(text)} for role, text in job.messages],
      "temperature": temperature,
      terms.max_tokens_field: terms.max_tokens,
    }
    if (count := self._count(job)) > 1:
      body["n"] = count
    if terms.send_seed:
      body["seed"] = min(job.missing)
    return body

  def _count(self, job: Job) -> int:
    """How many samples the next request of a job asks for."""
    return _run_length(job.missing) if self._terms.send_seed else len(job.missing)

  def _keep(self, job: Job, choices, answer: verdicts.Answered, attempt: int) -> None:
    """Stores a call's choices as the first missing samples, the tokens shared out exactly."""
    taken = list(zip(sorted(job.missing), choices, strict=False))
    sizes = [len(choice.text.encode("utf-8", "surrogatepass")) for _, choice in taken]
    tokens_in, tokens_out = answer.tokens_in, answer.tokens_out
    if tokens_in is None:
      tokens_in = -(-job.size // BYTES_A_TOKEN)
    if tokens_out is None:
      tokens_out = sum(-(-size // BYTES_A_TOKEN) for size in sizes)
    shares = zip(shared(tokens_in, [1] * len(taken)), shared(tokens_out, sizes), strict=True)
    outcomes, failures = {}, 0
    for (sample, choice), (share_in, share_out) in zip(taken, shares, strict=True):
      cost = (share_in, share_out, ledger.dollars(self._terms.prices, share_in, share_out))
      if choice.failure:
        outcome = asking.Failure(choice.failure, self._hide(choice.message), attempt, *cost)
        failures += 1
      else:
        outcome = asking.Reply(choice.text, choice.finish, answer.model, *cost, cached=False)
        self.answered = True
      outcomes[sample, job.missing.pop(sample)] = outcome
    self._store.store(job.request, outcomes, self._place)
    self._given_up = 0
    self._budget.spend(sum(outcome.dollars for outcome in outcomes.values()))
    self._on_done(len(outcomes), 0, failures)

  def _skip(self, job: Job, verdict: verdicts.Skip, attempt: int) -> None:
    self._fail(job, asking.Failure(verdict.kind, self._hide(verdict.why), attempt))
    if verdict.kind == "bad_request" and not self.answered:
      self._rejected += 1
      if self._rejected >= DEAD_AFTER:
        raise errors.teacher(
          f"{self._terms.base_url} has rejected the first {self._rejected} requests"
          f" ({self._hide(verdict.why)}); check config.teacher.model, teacher.max_tokens and"
          " teacher.max_tokens_field"
        )

  async def _wait(self, job: Job, verdict: verdicts.Again, attempt: int, waited: float) -> float:
    """Waits before the next attempt, or gives the job up; returns the seconds that count."""
    terms, asked = self._terms, verdict.wait
    if asked is not None and waited + asked > terms.patience:
      raise errors.teacher(
        f"{terms.base_url} asks to wait {asked:g} s ({self._hide(verdict.why)}), more than is left"
        f" of config.teacher.patience={terms.patience:g}; nothing is lost, run the same command"
        " again later or raise it"
      )
    if attempt >= terms.attempts:
      self._give_up(job, verdict.why, attempt)
      return 0.0
    if asked is not None:
      self._resume_at = max(self._resume_at, time.monotonic() + asked)
      return asked
    seconds = random.uniform(0.0, min(BACKOFF_MAX, BACKOFF * 2 ** (attempt - 1)))
    if waited + seconds > terms.patience:
      self._give_up(job, verdict.why, attempt)
      return 0.0
    await self._rest(seconds)
    return seconds

  def _give_up(self, job: Job, why: str, attempt: int) -> None:
    base_url, why = self._terms.base_url, self._hide(why)
    if not self.answered:
      raise errors.teacher(
        f"no valid answer from {base_url} after {attempt} attempts ({why}); check that it is"
        " running, that config.teacher.base_url is right (most end in /v1) and that the network"
        " lets it through"
      )
    self._fail(job, asking.Failure("gave_up", why, attempt))
    self._given_up += 1
    if self._given_up >= max(DEAD_AFTER, self._terms.concurrency):
      raise errors.teacher(
        f"{base_url} has stopped answering ({why}; {self._given_up} requests in a row given up"
        f" after {attempt} attempts each); nothing is lost, run the same command again"
        " when it is back"
      )

  def _fail(self, job: Job, failure: asking.Failure) -> None:
    outcomes = {item: failure for item in job.missing.items()}
    self._store.store(job.request, outcomes, self._place)
    job.missing.clear()
    self._on_done(len(outcomes), 0, len(outcomes))

  async def _pause(self) -> None:
    """Until the time that the server named to any worker."""
    while self._stop is None and (left := self._resume_at - time.monotonic()) > 0:
      await self._rest(left + random.uniform(0.0, min(1.0, SPREAD * left)))

  async def _rest(self, seconds: float) -> None:
    """Sleeps, but not beyond the decision to stop."""
    try:
      async with asyncio.timeout(seconds):
        await self._stopping.wait()
    except TimeoutError:
      pass


def shared(total: int, weights: list[int]) -> list[int]:
  """`total` in whole parts about proportional to `weights`; the parts sum to `total`."""
  weights = weights if sum(weights) else [1] * len(weights)
  ends, run = [0], 0
  for weight in weights:
    run += weight
    ends.append(total * run // sum(weights))
  return [end - start for start, end in itertools.pairwise(ends)]


def _run_length(samples) -> int:
  """How many of the lowest sample numbers follow each other without a gap."""
  low = min(samples)
  return next(k for k in range(1, len(samples) + 1) if low + k not in samples)


def _sendable(text: str) -> str:
  """Lone surrogates cannot travel as UTF-8; they go as question marks."""
  return text.encode("utf-8", "replace").decode("utf-8")
