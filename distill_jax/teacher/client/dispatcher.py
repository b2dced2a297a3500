"""The loop that every request goes through: pace, budget, retries, and what becomes of a reply.

A worker takes a job, waits for its turn, sends what is still missing of it, reads the verdict, has
it stored, and goes on. When the run must stop, nothing new is sent, requests in flight are awaited
and stored, then the reason is raised.
"""

import asyncio
import collections
import dataclasses
import hashlib
import itertools
import time

from distill_jax import errors, settings
from distill_jax.teacher import types
from distill_jax.teacher.client import rate_limit, request_body, transport, verdicts
from distill_jax.teacher.store import ledger, writer

DEAD_AFTER = 8  # requests (or all workers) given up in a row: the server is gone
BYTES_A_TOKEN = 4  # what tokens are estimated at where the server does not count them
BYTES_A_TOKEN_AT_LEAST = 3  # for reservations, so that they err to the safe side


@dataclasses.dataclass
class Job:
  """Messages with the samples that are still missing: {sample: cache key}."""

  messages: tuple[tuple[str, str], ...]
  request: str  # canonical JSON
  missing: dict[int, str]
  limit: int  # completion tokens of one reply
  kind: str = ""  # asking.Request.kind
  schema: bool = False  # is the reply asked for as JSON?
  refused: bool = False  # has the server said no to that?
  salt: str = ""  # of the cache file
  again: int = 0  # times that samples of it were recorded as failed, and are asked again
  unread: int = 0  # whole answers that could not be read

  def __post_init__(self):
    told = request_body.told(self.messages, self.kind, self.schema)
    self.size = sum(len(content.encode("utf-8", "replace")) for _, content in told)

  @property
  def prompt(self) -> int:
    """Tokens of the prompt, at the most."""
    return self.size // BYTES_A_TOKEN_AT_LEAST + 16 * (len(self.messages) + 1)

  def name(self, count: int) -> str:
    """The Idempotency-Key of the next request, for `count` samples: the same after a kill, so that
    a server that keeps to it charges no answer again that was lost on its way to the disk."""
    keys = [self.missing[sample] for sample in sorted(self.missing)[:count]]
    parts = (*keys, self.limit, self.schema, self.salt, self.again, self.unread)
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Terms:
  """How requests are sent; see client.Client for the fields."""

  base_url: str
  model: str
  max_tokens_field: str
  max_tokens_retry_limit: int
  max_concurrency: int
  timeout: float
  max_attempts: int
  max_wait: float
  prices: settings.Prices
  send_seed: bool
  shaping: request_body.Shaping


class Sender:
  """Sends the jobs of one ask; lives in one event loop."""

  def __init__(
    self, post: transport.Post, terms: Terms, store_writer: writer.StoreWriter,
    pace: rate_limit.Pace, budget, meter, hide, answered: bool,
  ):  # fmt: skip
    """`hide` takes the key out of a text, `answered` says whether the server ever gave a valid
    reply in this run."""
    self._post, self._terms, self._writer, self._budget = post, terms, store_writer, budget
    self._meter, self._hide, self.answered = meter, hide, answered
    self._pace, self._gate = pace, rate_limit.Gate(pace)
    self._given_up = 0  # in a row
    self._rejected = 0  # bad requests before the first valid reply
    self._stop: BaseException | None = None
    self._stopping = asyncio.Event()

  @property
  def in_flight(self) -> int:
    """Requests whose answer has not come."""
    return self._budget.in_flight

  async def run(self, jobs: list[Job], temperature: float) -> None:
    """Returns when nothing is missing any more. Raises what `stop` was given, or errors.UserError."""
    queue = collections.deque(jobs)
    async with asyncio.TaskGroup() as workers:
      for _ in range(min(self._terms.max_concurrency, len(jobs))):
        workers.create_task(self._work(queue, temperature))
    if self._stop is not None:
      raise self._stop

  def stop(self, reason: BaseException) -> None:
    """Nothing is sent from now on; `run` raises the first reason when all in flight is in."""
    self._stop = self._stop or reason
    self._stopping.set()
    self._gate.close()

  async def _work(self, queue, temperature: float) -> None:
    while queue and self._stop is None:
      try:
        await self._finish(queue.popleft(), queue, temperature)
      except Exception as error:
        self.stop(error)

  async def _finish(self, job: Job, queue, temperature: float) -> None:
    attempt, tries, waited = 0, 0, 0.0  # sent; sent and not refused for the rate; seconds
    while job.missing and self._stop is None:
      tokens_in, tokens_out = self._most(job)
      if not await self._gate.turn(tokens_in + tokens_out, first=attempt > 0):
        return
      heard, left_at = await self._attempt(job, temperature, attempt, tokens_in, tokens_out)
      verdict, attempt = heard.verdict, attempt + 1
      if isinstance(verdict, verdicts.Answered):
        if job.refused:
          self._terms.shaping.refused()
        await self._keep(job, queue, heard, attempt)
        attempt, tries, waited = 0, 0, 0.0
      elif isinstance(verdict, verdicts.Stop):
        raise errors.teacher(
          f"{self._terms.base_url}: {self._hide(verdict.why)}{_named(heard)}; {verdict.do}"
        )
      elif isinstance(verdict, verdicts.Skip) and verdict.kind == "bad_request" and job.schema:
        job.schema, job.refused = False, True  # perhaps that was what it did not like
      elif isinstance(verdict, verdicts.Skip):
        await self._skip(job, heard, attempt)
      else:
        tries += not verdict.limited
        job.unread += heard.status == 200
        await self._charge(job, heard, attempt)
        waited += await self._wait(job, heard, attempt, tries, waited, left_at)

  def _most(self, job: Job) -> tuple[int, int]:
    """Prompt and completion tokens that the next request of a job may cost."""
    return job.prompt, job.limit * self._count(job)

  async def _attempt(self, job: Job, temperature: float, before: int, tokens_in, tokens_out):
    """(posting.Heard, when it left): one request for all missing samples, its turn being there.

    Dollars are set aside before, tokens and dollars settled after.
    """
    need, unused = ledger.dollars(self._terms.prices, tokens_in, tokens_out), 0
    try:
      await self._budget.reserve(need)
      if self._stop is not None:  # since, while it waited for its turn
        self._budget.release(need, sent=False)
        raise self._stop
    except BaseException:
      self._gate.back(tokens_in + tokens_out)
      raise
    try:
      self._writer.count_request(before > 0)
      self._meter.sent(before > 0)
      left_at = time.monotonic()
      body = self._body(job, temperature)
      heard = await self._post.send(body, self._terms.model, job.name(self._count(job)))
      unused = _unused(heard.verdict, tokens_in, tokens_out)
      self._learn(heard, left_at)
      return heard, left_at
    finally:
      self._budget.release(need, sent=True)
      self._gate.back(unused)

  def _learn(self, heard: transport.Heard, left_at: float) -> None:
    """What an answer says about the pace."""
    now, verdict = time.monotonic(), heard.verdict
    if isinstance(verdict, verdicts.Again):
      if not verdict.limited:
        self._pace.strained()
        self._pace.pause(verdict.wait or 0.0, now)
    elif isinstance(verdict, verdicts.Answered):
      self._pace.accepted(left_at, now)
      if 0 < heard.reset <= self._terms.max_wait:
        self._pace.pause(heard.reset, now)

  def _body(self, job: Job, temperature: float) -> dict:
    terms = self._terms
    job.schema = job.schema and not terms.shaping.plain
    messages = request_body.told(job.messages, job.kind, job.schema)
    body = terms.shaping.body(job.kind, job.schema) | {
      "model": terms.model,
      "messages": [{"role": role, "content": _sendable(text)} for role, text in messages],
      "temperature": temperature,
      terms.max_tokens_field: job.limit,
    }
    if (count := self._count(job)) > 1:
      body["n"] = count
    if terms.send_seed:
      body["seed"] = min(job.missing)
    return body

  def _count(self, job: Job) -> int:
    """How many samples the next request of a job asks for."""
    return _run_length(job.missing) if self._terms.send_seed else len(job.missing)

  async def _keep(self, job: Job, queue, heard: transport.Heard, attempt: int) -> None:
    """Stores a call's choices as the first missing samples, the tokens shared out exactly."""
    answer = verdicts.hidden(heard.verdict, self._hide)
    taken = list(zip(sorted(job.missing), answer.choices[: self._count(job)], strict=False))
    outcomes, longer, tokens = {}, {}, 0
    for (sample, choice), cost in zip(taken, self._costs(job, answer, taken), strict=True):
      name = job.missing.pop(sample)
      if not choice.failure:
        outcome = types.Reply(choice.text, choice.finish, answer.model, cached=False, **cost)
        self.answered = True
      elif choice.failure == "length":
        outcome = _failure("length", types.cut(job.limit), attempt, heard, **cost)
        if job.limit < self._terms.max_tokens_retry_limit:
          longer[sample] = name
      else:
        outcome = _failure(choice.failure, self._hide(choice.message), attempt, heard, **cost)
      outcomes[sample, name] = outcome
      tokens += outcome.tokens_in + outcome.tokens_out
    self._given_up = 0
    dollars = sum(outcome.dollars for outcome in outcomes.values())
    self._budget.spend(dollars)
    self._meter.spend(dollars)
    await self._writer.write(job.request, outcomes)
    if longer:
      limit = min(2 * job.limit, self._terms.max_tokens_retry_limit)
      queue.appendleft(dataclasses.replace(job, missing=longer, limit=limit))
    missed = sum(isinstance(outcome, types.Failure) for outcome in outcomes.values())
    self._meter.done(len(outcomes) - len(longer), missed - len(longer), tokens)

  def _costs(self, job: Job, answer: verdicts.Answered, taken) -> list[dict]:
    """Tokens and dollars of each sample."""
    sizes = [len(choice.text.encode("utf-8", "surrogatepass")) for _, choice in taken]
    tokens_in, tokens_out = answer.tokens_in, answer.tokens_out
    if tokens_in is None:
      tokens_in = -(-job.size // BYTES_A_TOKEN)
    if tokens_out is None:
      tokens_out = sum(-(-size // BYTES_A_TOKEN) for size in sizes)
    each, thought = [1] * len(taken), answer.tokens_reasoning
    parts = zip(
      shared(tokens_in - answer.tokens_cached, each), shared(answer.tokens_cached, each),
      shared(tokens_out - thought, sizes), shared(thought, sizes), strict=True,
    )  # fmt: skip
    return [
      {
        "tokens_in": fresh + cached,
        "tokens_out": said + silent,
        "dollars": ledger.dollars(self._terms.prices, fresh + cached, said + silent, cached),
        "tokens_cached": cached,
        "tokens_reasoning": silent,
      }
      for fresh, cached, said, silent in parts
    ]

  async def _charge(self, job: Job, heard: transport.Heard, attempt: int) -> None:
    """Keeps what an answer that cannot be read has cost: it is a failure until a reply comes."""
    if not any(tokens := heard.verdict.tokens):
      return
    cost = ledger.dollars(self._terms.prices, *tokens)
    self._budget.spend(cost)
    self._meter.spend(cost)
    charged = dict(zip(("tokens_in", "tokens_out", "dollars"), (*tokens, cost), strict=True))
    failed = _failure("gave_up", self._hide(heard.verdict.why), attempt, heard, **charged)
    await self._writer.write(job.request, {min(job.missing.items()): failed})

  async def _skip(self, job: Job, heard: transport.Heard, attempt: int) -> None:
    kind, why = heard.verdict.kind, self._hide(heard.verdict.why)
    await self._fail(job, _failure(kind, why, attempt, heard))
    if kind == "bad_request" and not self.answered:
      self._rejected += 1
      if self._rejected >= DEAD_AFTER:
        raise errors.teacher(
          f"{self._terms.base_url} has rejected the first {self._rejected} requests"
          f" ({why}{_named(heard)}); check config.teacher.model, teacher.max_tokens and"
          " teacher.max_tokens_field"
        )

  async def _wait(self, job, heard, attempt: int, tries: int, waited: float, left_at) -> float:
    """Waits before the next attempt, or gives the job up; returns the seconds that count."""
    terms, verdict = self._terms, heard.verdict
    asked = verdict.wait
    if asked is not None and waited + asked > terms.max_wait:
      raise errors.teacher(
        f"{terms.base_url} asks to wait {asked:g} s ({self._hide(verdict.why)}{_named(heard)}),"
        f" more than is left of config.teacher.max_wait={terms.max_wait:g}; nothing is lost, run"
        " the same command again later or raise it"
      )
    if tries >= terms.max_attempts:
      await self._give_up(job, heard, attempt)
      return 0.0
    if verdict.limited:  # everyone waits, this worker at the gate
      seconds = self._pace.refused(left_at, asked, time.monotonic())
    else:
      seconds = rate_limit.backoff(tries) if asked is None else asked
    if waited + seconds > terms.max_wait and verdict.limited:
      raise errors.teacher(
        f"{terms.base_url} refuses for its rate ({self._hide(verdict.why)}{_named(heard)}) for"
        f" longer than config.teacher.max_wait={terms.max_wait:g} s; nothing is lost, run the same"
        " command again later or raise it"
      )
    if waited + seconds > terms.max_wait:
      await self._give_up(job, heard, attempt)
      return 0.0
    if asked is None and not verdict.limited:
      await self._rest(seconds)
    return seconds

  async def _give_up(self, job: Job, heard: transport.Heard, attempt: int) -> None:
    base_url, why = self._terms.base_url, self._hide(heard.verdict.why)
    if not self.answered:
      raise errors.teacher(
        f"no valid answer from {base_url} after {attempt} attempts ({why}); check that it is"
        " running, that config.teacher.base_url is right (most end in /v1) and that the network"
        " lets it through"
      )
    await self._fail(job, _failure("gave_up", why, attempt, heard))
    self._given_up += 1
    if self._given_up >= max(DEAD_AFTER, self._terms.max_concurrency):
      raise errors.teacher(
        f"{base_url} has stopped answering ({why}; {self._given_up} requests in a row given up"
        f" after {attempt} attempts each); nothing is lost, run the same command again"
        " when it is back"
      )

  async def _fail(self, job: Job, failure: types.Failure) -> None:
    outcomes = {item: failure for item in job.missing.items()}
    job.missing.clear()
    await self._writer.write(job.request, outcomes)
    self._meter.done(len(outcomes), len(outcomes), 0)

  async def _rest(self, seconds: float) -> None:
    """Sleeps, but not beyond the decision to stop."""
    try:
      async with asyncio.timeout(seconds):
        await self._stopping.wait()
    except TimeoutError:
      pass


def _failure(kind: str, why: str, attempt: int, heard: transport.Heard, **cost) -> types.Failure:
  return types.Failure(kind, why, attempt, status=heard.status, request_id=heard.request_id, **cost)


def _named(heard: transport.Heard) -> str:
  """What to tell whoever runs the server."""
  return f" (request {heard.request_id})" if heard.request_id else ""


def _unused(verdict, tokens_in: int, tokens_out: int) -> int:
  """How many of the tokens that were reserved a minute's allowance gets back."""
  if isinstance(verdict, verdicts.Answered):
    real_in = tokens_in if verdict.tokens_in is None else verdict.tokens_in
    real_out = tokens_out if verdict.tokens_out is None else verdict.tokens_out
    return tokens_in + tokens_out - real_in - real_out
  refused = isinstance(verdict, verdicts.Skip) or getattr(verdict, "limited", False)
  return tokens_in + tokens_out if refused else 0


def shared(total: int, weights: list[int]) -> list[int]:
  """`total` in whole parts about proportional to `weights`; the parts sum to `total`."""
  weights = weights if sum(weights) else [1] * len(weights)
  ends, run = [0], 0
  for weight in weights:
    run += weight
    ends.append(total * run // sum(weights))
  return [end - start for start, end in itertools.pairwise(ends)]


def need(terms: Terms, jobs: list[Job], wanted: int, stored: int, *, free: bool) -> types.Need:
  """What these jobs would take, of `wanted` samples; `free`: the server is this machine."""
  requests = tokens_in = tokens_out = replies = 0
  for job in jobs:
    left = sorted(job.missing)
    runs = 1 + sum(b - a > 1 for a, b in itertools.pairwise(left)) if terms.send_seed else 1
    requests, replies = requests + runs, replies + len(left)
    tokens_in += runs * job.prompt
    tokens_out += job.limit * len(left)
  unpriced = not free and bool(jobs) and not terms.prices.input + terms.prices.output
  dollars = ledger.dollars(terms.prices, tokens_in, tokens_out)
  failed = wanted - replies - stored
  return types.Need(requests, replies, stored, failed, tokens_in, tokens_out, dollars, unpriced)


def _run_length(samples) -> int:
  """How many of the lowest sample numbers follow each other without a gap."""
  low = min(samples)
  return next(k for k in range(1, len(samples) + 1) if low + k not in samples)


def _sendable(text: str) -> str:
  """Lone surrogates cannot travel as UTF-8; they go as question marks."""
  return text.encode("utf-8", "replace").decode("utf-8")
