"""A request on its way to the server: its body, its idempotency key, and what it costs."""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from distill_jax import settings
from distill_jax.teacher import types
from distill_jax.teacher.client import features, request_body, verdicts
from distill_jax.teacher.store import ledger

BYTES_PER_TOKEN = 4  # estimates token counts that the server does not report
MIN_BYTES_PER_TOKEN = 3  # for reservations, which must not be too low
SCHEMA_ERRORS = 2  # of a server, after which a reply is requested without its schema
MESSAGE_OVERHEAD = 16  # tokens added to each message by a chat template, at most


class CostBound:
  """The highest cost of a request, learned from requests that cost more than their price.

  A price covers the tokens up to the limit, but no fees and no tokens beyond it.
  """

  def __init__(self) -> None:
    self._ratio, self._dollars = 1.0, 0.0

  def of(self, price: float) -> float:
    """The most that a request may cost, in dollars.

    Args:
      price: The most that it may cost by its tokens' prices.
    """
    return self._ratio * price if price else self._dollars

  def learn(self, price: float, dollars: float) -> None:
    """Raises the bound if a request has cost more than it.

    Args:
      price: As in `of`.
      dollars: What the request has cost.
    """
    if price:
      self._ratio = max(self._ratio, dollars / price)
    else:
      self._dollars = max(self._dollars, dollars)


@dataclasses.dataclass(frozen=True)
class ClientConfig:
  """How requests are sent; see `client.Client` for the fields."""

  base_url: str
  model: str
  max_tokens: int
  max_tokens_retry_limit: int
  max_concurrency: int
  timeout: float
  connect_timeout: float
  max_attempts: int
  max_wait: float
  prices: settings.Prices
  send_seed: bool
  shaper: request_body.RequestShaper
  features: features.Features
  bound: CostBound = dataclasses.field(default_factory=CostBound)


@dataclasses.dataclass
class Job:
  """A conversation with the samples that are still missing.

  Attributes:
    messages: (role, content) pairs.
    request: Canonical JSON of the request, as stored in the cache.
    missing: {sample number: cache key}.
    limit: Maximum completion tokens of one reply.
    kind: Kind of the `types.Request`.
    schema: Whether the reply is requested as JSON with a schema.
    schema_rejected: Whether the server has rejected the schema.
    salt: Random text of the cache file.
    failures: How often samples of this job were recorded as failed before this request.
    rejected_before: Whether a sample is recorded as rejected where others were answered.
    unreadable: Replies so far that could not be parsed.
    schema_errors: Failures of the server while the reply was requested with a schema.
    refusals: Features that the server has refused this job.
    count: Number of samples in the latest request; 0 before the first.
    prompt_bytes: Size of the messages in UTF-8.
  """

  messages: tuple[tuple[str, str], ...]
  request: str
  missing: dict[int, str]
  limit: int
  kind: str = ""
  schema: bool = False
  schema_rejected: bool = False
  salt: str = ""
  failures: int = 0
  rejected_before: bool = False
  unreadable: int = 0
  schema_errors: int = 0
  refusals: int = 0
  count: int = dataclasses.field(default=0, init=False)
  prompt_bytes: int = dataclasses.field(init=False)

  def __post_init__(self) -> None:
    sent = request_body.with_schema_note(self.messages, self.kind, self.schema)
    self.prompt_bytes = sum(len(content.encode("utf-8", "replace")) for _, content in sent)

  @property
  def max_prompt_tokens(self) -> int:
    """Upper bound on the prompt's tokens."""
    return self.prompt_bytes // MIN_BYTES_PER_TOKEN + MESSAGE_OVERHEAD * (len(self.messages) + 1)

  def doubt_schema(self) -> None:
    """Counts a failure that may be due to the schema; after too many, it is left out."""
    self.schema_errors += int(self.schema)
    if self.schema and self.schema_errors >= SCHEMA_ERRORS:
      self.schema, self.schema_rejected = False, True

  def idempotency_key(self, count: int) -> str:
    """Idempotency-Key header for the next request, covering `count` samples.

    Deterministic across restarts: if the process dies after the server replied but before the
    reply was stored, the retry carries the same key, so servers that honor it do not bill twice.
    """
    keys = [self.missing[sample] for sample in sorted(self.missing)[:count]]
    parts = (*keys, self.limit, self.schema, self.salt, self.failures, self.unreadable)
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()


def samples_per_request(config: ClientConfig, job: Job) -> int:
  """Number of samples in the job's next request.

  All missing samples or, if a seed is sent, the first run of consecutive sample numbers; no more
  than the server takes.
  """
  if job.count:
    return job.count
  count = len(job.missing)
  if config.send_seed:
    first = min(job.missing)
    count = next(n for n in range(1, count + 1) if first + n not in job.missing)
  return min(count, config.features.max_samples)


def split(config: ClientConfig, job: Job) -> list[Job]:
  """Takes the samples beyond the next request from a job, if the server takes no more at once.

  Returns:
    Jobs for them, so that they need not wait for each other.
  """
  most, samples = config.features.max_samples, sorted(job.missing)
  parts = [samples[start : start + most] for start in range(most, len(samples), most)]
  jobs = [
    dataclasses.replace(job, missing={sample: job.missing[sample] for sample in part})
    for part in parts
  ]
  for sample in samples[most:]:
    del job.missing[sample]
  return jobs


def max_usage(config: ClientConfig, job: Job) -> tuple[int, int]:
  """Upper bounds on the (prompt, completion) tokens of the job's next request."""
  return job.max_prompt_tokens, job.limit * samples_per_request(config, job)


def max_dollars(config: ClientConfig, job: Job) -> float:
  """Upper bound on the cost of the job's next request."""
  return config.bound.of(ledger.dollars(config.prices, *max_usage(config, job)))


class Cost(NamedTuple):
  """What a request has cost.

  Attributes:
    measured: Dollars, by the server's usage or, where it reports none, by the length of the texts.
    estimate: Dollars that it may have cost beyond that, up to its reservation.
    reason: Why there is an estimate; "" if there is none.
  """

  measured: float
  estimate: float
  reason: str


def cost(config: ClientConfig, job: Job, verdict: verdicts.Verdict, reserved: float) -> Cost:
  """What the response to the job's request has cost, before its samples are taken.

  Args:
    config: Holds the prices.
    job: The job that was sent.
    verdict: The response.
    reserved: The highest possible cost of the request, in dollars.
  """
  if isinstance(verdict, verdicts.Completed):
    taken = list(enumerate(verdict.choices[: samples_per_request(config, job)]))
    measured = sum(sample["dollars"] for sample in sample_costs(config, job, verdict, taken))
    most_in, most_out = max_usage(config, job)
    most = ledger.dollars(
      config.prices,
      most_in if verdict.tokens_in is None else verdict.tokens_in,
      verdict.tokens_out or (0 if verdict.metered else most_out),
      verdict.tokens_cached,
      verdict.tokens_written,
    )
    if not verdict.metered and most > measured:
      return Cost(measured, most - measured, "the server reported no usage")
    return Cost(measured, 0.0, "")
  if isinstance(verdict, verdicts.Retry):
    if verdict.may_bill:
      return Cost(0.0, reserved, verdict.reason)
    return Cost(wasted(config, verdict), 0.0, "")
  return Cost(0.0, 0.0, "")


def learn_cost(config: ClientConfig, job: Job, dollars: float) -> None:
  """Raises the bound for later requests if the job's latest request has cost more.

  Args:
    config: Holds the prices and the bound.
    job: The job that was sent.
    dollars: What the request has cost.
  """
  config.bound.learn(ledger.dollars(config.prices, *max_usage(config, job)), dollars)


def wasted(config: ClientConfig, verdict: verdicts.Retry) -> float:
  """Dollars that the server bills for an unusable response."""
  if verdict.dollars is not None:
    return verdict.dollars
  return ledger.dollars(config.prices, *verdict.tokens)


def body(config: ClientConfig, job: Job, temperature: float) -> dict[str, Any]:
  """The chat completions request body for the job's missing samples.

  Clears `job.schema` if the server is known to reject schemas.
  """
  job.schema = job.schema and not config.shaper.plain
  takes = config.features.takes
  messages = request_body.with_schema_note(job.messages, job.kind, job.schema)
  fields = config.shaper.body(job.kind, job.schema) | {
    "model": config.model,
    "messages": [
      {"role": role, "content": _encodable(text)}
      for role, text in config.features.messages(messages)
    ],
    "temperature": temperature,
    config.features.token_field: job.limit,
  }
  if (count := samples_per_request(config, job)) > 1:
    fields["n"] = count
  if config.send_seed:
    fields["seed"] = min(job.missing)
  if config.features.stream:
    fields |= {"stream": True, "stream_options": {"include_usage": True}}
  refused = [name for name in ("temperature", "seed", "top_p", "stream_options") if not takes(name)]
  return {name: value for name, value in fields.items() if name not in refused}


def sample_costs(
  config: ClientConfig,
  job: Job,
  completed: verdicts.Completed,
  taken: Sequence[tuple[int, verdicts.Choice]],
) -> list[dict[str, Any]]:
  """Tokens and dollars of each sample of a response; they sum exactly to those of the response.

  Prompt tokens are split evenly, completion tokens by the length of the texts. Tokens that the
  server does not report are estimated from the texts. A cost that it states replaces the one by
  tokens, in the same proportions.

  Args:
    config: Holds the prices.
    job: The job that was sent.
    completed: The server's response.
    taken: The (sample number, choice) pairs that are kept.
  """
  sizes = [
    len((choice.text + choice.thinking).encode("utf-8", "surrogatepass")) for _, choice in taken
  ]
  tokens_in, tokens_out = completed.tokens_in, completed.tokens_out
  if tokens_in is None:
    tokens_in = math.ceil(job.prompt_bytes / BYTES_PER_TOKEN)
  if tokens_out is None:
    tokens_out = sum(math.ceil(size / BYTES_PER_TOKEN) for size in sizes)
  equal, reasoning = [1] * len(taken), completed.tokens_reasoning
  written = split_total(completed.tokens_written, equal)
  parts = zip(
    split_total(tokens_in - completed.tokens_cached, equal),
    split_total(completed.tokens_cached, equal),
    split_total(tokens_out - reasoning, sizes),
    split_total(reasoning, sizes),
    written,
    strict=True,
  )
  costs = [
    {
      "tokens_in": fresh + cached,
      "tokens_out": visible + hidden,
      "dollars": ledger.dollars(config.prices, fresh + cached, visible + hidden, cached, stored),
      "tokens_cached": cached,
      "tokens_reasoning": hidden,
    }
    for fresh, cached, visible, hidden, stored in parts
  ]
  if completed.dollars is not None:
    priced = sum(cost["dollars"] for cost in costs)
    for cost in costs:
      share = cost["dollars"] / priced if priced else 1 / len(costs)
      cost["dollars"] = completed.dollars * share
  return costs


def paid_reply(
  completed: verdicts.Completed, choice: verdicts.Choice, cost: Mapping[str, Any]
) -> types.Reply:
  """Returns the reply of a choice that is complete, with its cost from `sample_costs`."""
  return types.Reply(
    choice.text, choice.finish, completed.model, cached=False, thinking=choice.thinking, **cost
  )


def unused_tokens(verdict: verdicts.Verdict, tokens_in: int, tokens_out: int) -> int:
  """The number of reserved tokens that were not used, and return to the per-minute allowance."""
  if isinstance(verdict, verdicts.Completed):
    used_in = tokens_in if verdict.tokens_in is None else verdict.tokens_in
    used_out = tokens_out if verdict.tokens_out is None else verdict.tokens_out
    return tokens_in + tokens_out - used_in - used_out
  rejected = isinstance(verdict, verdicts.Skip | verdicts.Unsupported) or (
    isinstance(verdict, verdicts.Retry) and verdict.rate_limited
  )
  return tokens_in + tokens_out if rejected else 0


def split_total(total: int, weights: list[int]) -> list[int]:
  """Splits `total` into integers roughly proportional to `weights`; they sum to `total`."""
  if len(weights) == 1:
    return [total]
  weights = weights if sum(weights) else [1] * len(weights)
  ends = [total * running // sum(weights) for running in itertools.accumulate(weights)]
  return [end - start for start, end in itertools.pairwise([0, *ends])]


def estimate(
  config: ClientConfig, jobs: Sequence[Job], samples: int, stored: int, *, free: bool
) -> types.Estimate:
  """What sending these jobs would take.

  Args:
    config: How requests are sent.
    jobs: Jobs with missing samples.
    samples: Distinct samples requested, including those that are stored or failed.
    stored: How many of them are in the cache.
    free: The server is on this machine, so prices of 0 are no surprise.
  """
  requests = tokens_in = tokens_out = replies = 0
  for job in jobs:
    missing = sorted(job.missing)
    runs = [len(missing)]
    if config.send_seed:
      gaps = [n for n, (a, b) in enumerate(itertools.pairwise(missing), 1) if b - a > 1]
      runs = [end - start for start, end in itertools.pairwise([0, *gaps, len(missing)])]
    most = min(config.features.max_samples, len(missing))
    job_requests = sum(math.ceil(run / most) for run in runs)
    requests, replies = requests + job_requests, replies + len(missing)
    tokens_in += job_requests * job.max_prompt_tokens
    tokens_out += job.limit * len(missing)
  return types.Estimate(
    requests=requests,
    replies=replies,
    stored=stored,
    failed=samples - replies - stored,
    tokens_in=tokens_in,
    tokens_out=tokens_out,
    dollars=ledger.dollars(config.prices, tokens_in, tokens_out),
    unpriced=not free and bool(jobs) and not config.prices.input + config.prices.output,
  )


def _encodable(text: str) -> str:
  """Replaces lone surrogates, which UTF-8 cannot encode, by question marks."""
  return text.encode("utf-8", "replace").decode("utf-8")
