"""What the results of a file mean for the samples that were asked in it, and where it is kept."""

import dataclasses
import json

from distill_jax.teacher import types
from distill_jax.teacher.batch import format
from distill_jax.teacher.client import request_jobs, verdicts

TOGETHER = 200  # calls stored at a time


@dataclasses.dataclass(frozen=True)
class Unanswered:
  """A line that is worth asking again."""

  why: str
  plain: bool = False  # it asked for JSON, and may have been refused for that
  status: int = 0
  request_id: str = ""


class Results:
  """Reads result files into the cache, for one place.

  outcomes  {key: Reply or Failure} of all that has been read
  again     {line: Unanswered}; of a line that was answered in part, the rest is in neither
  longer    {key: limit} of replies that were cut at `limit` and may be asked for with a larger one
  stop      a verdicts.Abort that some line got, or None
  heard     the lines that the files say something of
  """

  def __init__(self, store, place, config, redact, tried, schema=lambda line: False):
    """`tried(line)`: how often a line was asked before; `schema(line)`: was JSON asked for, which
    a server may refuse; `redact` takes the key out of a text."""
    self._store, self._place, self._config, self._redact = store, place, config, redact
    self._tried, self._schema = tried, schema
    self.outcomes: dict[str, types.Reply | types.Failure] = {}
    self.again: dict[str, Unanswered] = {}
    self.longer: dict[str, int] = {}
    self.stop: verdicts.Abort | None = None
    self.heard: set[str] = set()
    self._calls: list = []

  def read(self, content: bytes, lines: dict) -> None:
    """Stores what a file says about these lines, {custom_id: batch_book.Line}; the first word on a
    line counts, and nothing else that stands in the file. A failure that was read before, and set
    aside to be asked again, is not heard again."""
    self._before = self._store.failed_before(self._place)
    for result in format.results(content, self._config.model):
      line = lines.get(result.name)
      if line is not None:
        self.heard.add(line.name)
      if line is not None and line.name not in self.again and not self._known(line):
        self._take(line, result)
    self._flush()

  def unheard(self, lines) -> None:
    """Notes those lines that no file has said anything of."""
    for line in lines:
      if line.name not in self.again and not self._known(line):
        self.again[line.name] = Unanswered("no result came")

  @property
  def rejected(self) -> types.Failure | None:
    """The first of the failures, if each sample was a bad request."""
    bad = [o for o in self.outcomes.values() if getattr(o, "kind", "") == "bad_request"]
    return bad[0] if bad and len(bad) == len(self.outcomes) and not self.again else None

  def _known(self, line) -> bool:
    return any(key in self.outcomes for key in line.keys.values())

  def _take(self, line, result) -> None:
    verdict = result.verdict
    if isinstance(verdict, verdicts.Completed):
      outcomes = self._read(line, result)
    elif getattr(verdict, "kind", "") == "bad_request" and self._schema(line):
      self.again[line.name] = Unanswered(self._redact(verdict.reason), plain=True)
      return
    elif isinstance(verdict, verdicts.Skip):
      failed = self._failure(verdict.kind, self._redact(verdict.reason), line, result)
      outcomes = {item: failed for item in line.keys.items()}
    else:
      why = self._redact(verdict.reason)
      self.again[line.name] = Unanswered(why, status=result.status, request_id=result.request_id)
      if isinstance(verdict, verdicts.Abort):
        self.stop = self.stop or verdict
      return
    fresh = {(s, key): o for (s, key), o in outcomes.items() if not self._set_aside(key, o)}
    if len(fresh) < len(outcomes):
      self.again[line.name] = Unanswered("it failed as before")
    self._calls.append((line.request, fresh, self._place))
    self.outcomes |= {key: outcome for (_, key), outcome in fresh.items()}
    if len(self._calls) >= TOGETHER:
      self._flush()

  def _set_aside(self, key: str, outcome) -> bool:
    if not getattr(outcome, "request_id", ""):  # which of them it is, only that can tell
      return False
    seen = [dataclasses.replace(failure, attempts=0) for failure in self._before.get(key, ())]
    return dataclasses.replace(outcome, attempts=0) in seen

  def _read(self, line, result) -> dict:
    """{(sample, key): Reply or Failure} of an answer."""
    answer, outcomes = verdicts.redact(result.verdict, self._redact), {}
    taken = list(zip(sorted(line.keys), answer.choices, strict=False))
    job = request_jobs.Job(messages(line.request), line.request, {}, line.limit)
    costs = request_jobs.sample_costs(self._config, job, answer, taken)
    for (sample, choice), cost in zip(taken, costs, strict=True):
      key = line.keys[sample]
      if not choice.failure:
        outcome = types.Reply(choice.text, choice.finish, answer.model, cached=False, **cost)
      elif choice.failure == "length":
        outcome = self._failure("length", types.truncated_message(line.limit), line, result, **cost)
        if line.limit < self._config.max_tokens_retry_limit:
          self.longer[key] = line.limit
      else:
        outcome = self._failure(choice.failure, self._redact(choice.message), line, result, **cost)
      outcomes[sample, key] = outcome
    return outcomes

  def _failure(self, kind: str, why: str, line, result, **cost) -> types.Failure:
    attempts = 1 + self._tried(line)
    return types.Failure(
      kind, why, attempts, status=result.status, request_id=result.request_id, **cost
    )

  def _flush(self) -> None:
    """Stores what was read. A failure that stands there from this very result, since a process was
    killed over it, is not stored (and charged) again."""
    keys = [key for _, outcomes, _ in self._calls for _, key in outcomes]
    there, fresh = self._store.lookup(keys, self._place), []
    for request, outcomes, place in self._calls:
      new = {(s, key): o for (s, key), o in outcomes.items() if not _same(there.get(key), o)}
      if new:
        fresh.append((request, new, place))
    if fresh:
      self._store.store_many(fresh)
    self._calls = []


def messages(request: str) -> tuple[tuple[str, str], ...]:
  """The messages in a request's canonical JSON."""
  return tuple((role, text) for role, text in json.loads(request)["messages"])


def _same(stored, outcome) -> bool:
  both = isinstance(stored, types.Failure) and isinstance(outcome, types.Failure)
  return both and bool(outcome.request_id) and stored.request_id == outcome.request_id
