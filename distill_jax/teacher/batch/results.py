"""Turns the results in a file into replies and failures, and stores them."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from distill_jax.teacher import types
from distill_jax.teacher.batch import format
from distill_jax.teacher.client import error_bodies, refusals, request_jobs, verdicts
from distill_jax.teacher.store import batches, cache

CALLS_PER_WRITE = 200


@dataclasses.dataclass(frozen=True)
class LineRetry:
  """Why a line has to be requested again.

  Attributes:
    reason: What went wrong.
    schema_rejected: It asked for JSON with a schema, which the server may have rejected.
    status: HTTP status; 0 if there was no response.
    request_id: The server's name of the request.
  """

  reason: str
  schema_rejected: bool = False
  status: int = 0
  request_id: str = ""


class ResultReader:
  """Reads result files into the cache, for one phase.

  Attributes:
    outcomes: {key: reply or failure} of everything read so far.
    retries: {line name: why it has to be requested again}. The unanswered samples of a line that
      was answered in part are in neither.
    truncated: {key: limit} of replies cut at `limit` that may be requested with a larger one.
    abort: The first verdict that stops the run, or None.
    lines_read: Names of the lines that have a result.
  """

  def __init__(
    self,
    store: cache.ReplyCache,
    run_phase: cache.RunPhase,
    config: request_jobs.ClientConfig,
    redact: Callable[[str], str],
    attempts: Callable[[batches.BatchLine], int],
    asked_for_json: Callable[[batches.BatchLine], bool] = lambda line: False,
  ):
    """Creates a reader.

    Args:
      store: Receives the outcomes.
      run_phase: The phase that pays.
      config: Prices, model and limits.
      redact: Removes the API key from a text.
      attempts: How often a line was requested before.
      asked_for_json: Whether a line asked for JSON with a schema.
    """
    self._store, self._run_phase, self._config = store, run_phase, config
    self._redact, self._attempts, self._asked_for_json = redact, attempts, asked_for_json
    self.outcomes: dict[str, cache.Outcome] = {}
    self.retries: dict[str, LineRetry] = {}
    self.truncated: dict[str, int] = {}
    self.abort: verdicts.Abort | None = None
    self.lines_read: set[str] = set()
    self.completed: set[str] = set()  # lines whose request the server has answered
    self._wasted = 0.0  # dollars for results that cannot be used
    self._token_field = config.features.token_field  # that the lines were sent with
    self._calls: list[cache.StoredCall] = []  # for the next write
    self._archived: Mapping[str, list[types.Failure]] = {}

  def read(self, content: bytes, lines: Mapping[str, batches.BatchLine]) -> None:
    """Stores the results of a file.

    The first result of a line counts; results of other lines are ignored. A failure that was read
    before, and reset to be requested again, is ignored too.

    Args:
      content: The file.
      lines: {custom_id: line}.
    """
    self._archived = self._store.failed_before(self._run_phase)
    for result in format.parse_results(content, self._config.model):
      line = lines.get(result.name)
      if line is None:
        continue
      self.lines_read.add(line.name)
      if 200 <= result.status < 300:
        self.completed.add(line.name)
      if line.name not in self.retries and not self._has_outcome(line):
        self._take(line, result)
    self._flush()

  def retry_unread(self, lines: Iterable[batches.BatchLine]) -> None:
    """Marks the lines without a result to be requested again."""
    for line in lines:
      if line.name not in self.retries and not self._has_outcome(line):
        self.retries[line.name] = LineRetry("no result came")

  def learns(self, line: batches.BatchLine, status: int, error: Any) -> bool:
    """Learns from a refusal which feature the server does not take.

    Args:
      line: The line that was refused.
      status: HTTP status.
      error: The error, as the server describes it.

    Returns:
      Whether the line is worth requesting again, without the feature.
    """
    refused = refusals.feature(status, error, self._sent(line))
    if refused is None or refused.name in ("response_format", "stream"):
      return False
    reason = f"HTTP {status}: {verdicts.excerpt(error_bodies.text_of(error))}"
    return self._config.features.learn(*refused, self._redact(reason))

  def _sent(self, line: batches.BatchLine) -> dict[str, Any]:
    """What the body of a line's request may have had, apart from the schema of the reply."""
    sampling = json.loads(line.request)["sampling"]
    fields = {
      **sampling.get("extra", {}),
      "messages": [{"role": role, "content": text} for role, text in _messages(line.request)],
      "temperature": sampling["temperature"],
      self._token_field: line.limit,
      "n": len(line.keys),
    }
    return fields | ({"seed": min(line.keys)} if self._config.send_seed else {})

  def replied(self, line: batches.BatchLine) -> bool:
    """Whether a sample of a line has a reply."""
    return any(isinstance(self.outcomes.get(key), types.Reply) for key in line.keys.values())

  @property
  def dollars(self) -> float:
    """What the outcomes have cost."""
    return math.fsum([self._wasted, *(outcome.dollars for outcome in self.outcomes.values())])

  @property
  def rejection(self) -> types.Failure | None:
    """The first failure, if the server rejected every sample as a bad request; else None."""
    bad = [
      outcome
      for outcome in self.outcomes.values()
      if isinstance(outcome, types.Failure) and outcome.kind == "bad_request"
    ]
    return bad[0] if bad and len(bad) == len(self.outcomes) and not self.retries else None

  def _has_outcome(self, line: batches.BatchLine) -> bool:
    return any(key in self.outcomes for key in line.keys.values())

  def _take(self, line: batches.BatchLine, result: format.LineResult) -> None:
    verdict = result.verdict
    if isinstance(verdict, verdicts.Completed):
      outcomes = self._outcomes(line, result, verdict)
    elif result.error is not None and self.learns(line, result.status, result.error):
      reason = self._redact(verdicts.excerpt(error_bodies.text_of(result.error)))
      self.retries[line.name] = LineRetry(reason, False, result.status, result.request_id)
      return
    elif isinstance(verdict, verdicts.Skip):
      reason = self._redact(verdict.reason)
      if verdict.may_be_schema and self._asked_for_json(line):
        self.retries[line.name] = LineRetry(reason, schema_rejected=True)
        return
      failure = self._failure(verdict.kind, reason, line, result)
      outcomes = {item: failure for item in line.keys.items()}
    else:
      self.retries[line.name] = LineRetry(
        self._redact(verdict.reason), status=result.status, request_id=result.request_id
      )
      if isinstance(verdict, verdicts.Abort):
        self.abort = self.abort or verdict
      elif isinstance(verdict, verdicts.Retry):
        self._charge(line, result, verdict)
      return
    fresh = {(s, key): o for (s, key), o in outcomes.items() if not self._is_archived(key, o)}
    if len(fresh) < len(outcomes):
      self.retries[line.name] = LineRetry("it failed as before")
    self._calls.append((line.request, fresh, self._run_phase))
    self.outcomes |= {key: outcome for (_, key), outcome in fresh.items()}
    if len(self._calls) >= CALLS_PER_WRITE:
      self._flush()

  def _charge(
    self, line: batches.BatchLine, result: format.LineResult, verdict: verdicts.Retry
  ) -> None:
    """Stores the cost of an unusable result as a failure; a later reply replaces the failure."""
    dollars = request_jobs.wasted(self._config, verdict)
    if not any(verdict.tokens) and not dollars:
      return
    tokens_in, tokens_out = verdict.tokens
    cost = {"tokens_in": tokens_in, "tokens_out": tokens_out, "dollars": dollars}
    failure = self._failure("gave_up", self._redact(verdict.reason), line, result, **cost)
    sample = min(line.keys)
    if not self._is_archived(line.keys[sample], failure):
      self._calls.append((line.request, {(sample, line.keys[sample]): failure}, self._run_phase))
      self._wasted += dollars

  def _is_archived(self, key: str, outcome: cache.Outcome) -> bool:
    """Whether this very failure was read before. Only its request id can tell."""
    if not isinstance(outcome, types.Failure) or not outcome.request_id:
      return False
    seen = [dataclasses.replace(failure, attempts=0) for failure in self._archived.get(key, ())]
    return dataclasses.replace(outcome, attempts=0) in seen

  def _outcomes(
    self, line: batches.BatchLine, result: format.LineResult, verdict: verdicts.Completed
  ) -> dict[tuple[int, str], cache.Outcome]:
    """{(sample, key): reply or failure} of a response."""
    completed = verdicts.redact(verdict, self._redact)
    taken = list(zip(sorted(line.keys), completed.choices, strict=False))
    job = request_jobs.Job(_messages(line.request), line.request, {}, line.limit)
    costs = request_jobs.sample_costs(self._config, job, completed, taken)
    outcomes: dict[tuple[int, str], cache.Outcome] = {}
    for (sample, choice), cost in zip(taken, costs, strict=True):
      key = line.keys[sample]
      if not choice.failure:
        outcome = request_jobs.paid_reply(completed, choice, cost)
      elif choice.failure == "length":
        message = types.truncated_message(line.limit)
        outcome = self._failure("length", message, line, result, **cost)
        if line.limit < self._config.max_tokens_retry_limit:
          self.truncated[key] = line.limit
      else:
        message = self._redact(choice.message)
        outcome = self._failure(choice.failure, message, line, result, **cost)
      outcomes[sample, key] = outcome
    return outcomes

  def _failure(
    self, kind: str, message: str, line: batches.BatchLine, result: format.LineResult, **cost: Any
  ) -> types.Failure:
    return types.Failure(
      kind,
      message,
      attempts=1 + self._attempts(line),
      status=result.status,
      request_id=result.request_id,
      **cost,
    )

  def _flush(self) -> None:
    """Stores what was read.

    A failure that is stored already, from this very result, is not stored (and charged) again: a
    process was killed after storing it.
    """
    keys = [key for _, outcomes, _ in self._calls for _, key in outcomes]
    stored = self._store.lookup(keys, self._run_phase)
    fresh: list[cache.StoredCall] = []
    for request, outcomes, run_phase in self._calls:
      new = {
        (sample, key): outcome
        for (sample, key), outcome in outcomes.items()
        if not _same_failure(stored.get(key), outcome)
      }
      if new:
        fresh.append((request, new, run_phase))
    if fresh:
      self._store.store_many(fresh)
    self._calls = []


def _messages(request: str) -> tuple[tuple[str, str], ...]:
  """The messages in a request's canonical JSON."""
  return tuple((role, text) for role, text in json.loads(request)["messages"])


def _same_failure(stored: cache.Outcome | None, outcome: cache.Outcome) -> bool:
  return (
    isinstance(stored, types.Failure)
    and isinstance(outcome, types.Failure)
    and bool(outcome.request_id)
    and stored.request_id == outcome.request_id
  )
