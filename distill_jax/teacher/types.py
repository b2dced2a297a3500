"""The interface between phases and teachers: requests, replies, costs, progress."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from distill_jax import errors
from distill_jax.teacher import finish as finishes

# Kinds of failures in which the teacher did respond, and may have billed. They are final for their
# round and phase. All others (bad_request, gave_up, unrecorded) are requested again when the phase
# runs again.
SETTLED = ("refusal", "filtered", "length", "empty", "cut")

IDLE_NOTICE = 30.0  # seconds without a response after which progress says so

# Stored in caches and parsed by `truncated_at`, so the wording is fixed.
_TRUNCATED = "the reply was cut at {} tokens, the most it may have"
_TRUNCATED_AT = re.compile(_TRUNCATED.format("([0-9]{1,9})"))


class ElsewhereError(errors.UserError):
  """The replies come from another machine; the same command continues once they are here."""

  def __init__(self, message: str):
    super().__init__(message, errors.PREEMPTED)


@dataclasses.dataclass(frozen=True)
class Request:
  """A request for `samples` replies, numbered from `first`.

  The sample number is part of the cache key: the same messages with a higher `first` give fresh
  replies, with the same `first` the stored ones.

  Attributes:
    kind: What is requested: "annotate", "correct", "stage" or "decompose".
    question: The question as the student sees it.
    messages: (role, content) pairs.
    samples: Number of replies.
    first: Number of the first sample.
  """

  kind: str
  question: str
  messages: tuple[tuple[str, str], ...]
  samples: int
  first: int = 0


@dataclasses.dataclass(frozen=True)
class Reply:
  """A complete, valid reply. Samples of one response share its tokens, and the shares add up.

  Attributes:
    text: The reply.
    finish: The server's finish reason.
    model: The model that replied, as the server names it.
    tokens_in: Prompt tokens.
    tokens_out: Completion tokens.
    dollars: What this round and phase paid for it; 0 if cached.
    cached: It was paid for by an earlier phase or another run.
    tokens_cached: The part of `tokens_in` that the server had cached, which may cost less.
    tokens_reasoning: The part of `tokens_out` spent on hidden reasoning.
    thinking: The thinking that came with it, without marks. A reply that is about to be stored has
      the text as it came, with any thinking that is marked in it.
  """

  text: str
  finish: str
  model: str
  tokens_in: int
  tokens_out: int
  dollars: float
  cached: bool
  tokens_cached: int = 0
  tokens_reasoning: int = 0
  thinking: str = ""


@dataclasses.dataclass(frozen=True)
class Failure:
  """Why there is no reply. Tokens and dollars are set if the server billed it nevertheless.

  Attributes:
    kind: One of SETTLED, or "bad_request", "gave_up" or "unrecorded".
    message: Details for the user.
    attempts: HTTP requests sent.
    status: HTTP status of the last one; 0 if there was no response.
    request_id: The server's name for the last one.
  """

  kind: str
  message: str
  attempts: int
  tokens_in: int = 0
  tokens_out: int = 0
  dollars: float = 0.0
  status: int = 0
  request_id: str = ""
  tokens_cached: int = 0
  tokens_reasoning: int = 0


Outcome = Reply | Failure


def truncated_message(limit: int) -> str:
  """The message of a Failure whose reply was truncated at `limit` tokens."""
  return _TRUNCATED.format(limit)


def truncated_at(failure: Failure) -> int | None:
  """The tokens at which a reply was truncated; None for other failures."""
  match = _TRUNCATED_AT.fullmatch(failure.message) if failure.kind == "length" else None
  return int(match[1]) if match else None


def incomplete_reason(text: str, finish: str) -> str:
  """Why a reply is incomplete and must not be stored; "" if it is complete."""
  if finishes.kind(finish) != "whole":
    return f"it was ended by {finish}"
  return "" if text.strip() else "it has no text"


@dataclasses.dataclass(frozen=True)
class Totals:
  """Usage and cost of a phase, a round or a whole run.

  Tokens and dollars include failures that were billed, also those requested again since.

  Attributes:
    calls: Distinct replies that this run paid for there.
    cache_hits: Distinct replies requested there that an earlier phase or another run paid for.
    retries: HTTP requests sent again; the only number that an interruption can change.
    failures: Samples without a reply.
    tokens_in: Prompt tokens.
    tokens_out: Completion tokens.
    dollars: Cost.
    tokens_cached: Part of `tokens_in`.
    tokens_reasoning: Part of `tokens_out`.
  """

  calls: int = 0
  cache_hits: int = 0
  retries: int = 0
  failures: int = 0
  tokens_in: int = 0
  tokens_out: int = 0
  dollars: float = 0.0
  tokens_cached: int = 0
  tokens_reasoning: int = 0


@dataclasses.dataclass(frozen=True)
class Unanswered:
  """Requests whose usage the server has not reported, at the most that they may cost.

  They timed out, were cut off or were in flight when the process was killed; or the reply came
  without usage. Unlike `Totals`, this depends on interruptions.

  Attributes:
    requests: How many.
    dollars: Their highest possible cost, beyond what `Totals` contains.
  """

  requests: int = 0
  dollars: float = 0.0


@dataclasses.dataclass(frozen=True)
class Estimate:
  """What an `ask` would take. Tokens and dollars are upper bounds: every reply at its longest.

  Attributes:
    requests: HTTP requests, without retries.
    replies: Samples that are missing.
    stored: Samples that are in the cache.
    failed: Samples that failed and would not be requested again.
    tokens_in: Prompt tokens.
    tokens_out: Completion tokens.
    dollars: Cost.
    unpriced: Something would be billed, but the prices are 0.
  """

  requests: int = 0
  replies: int = 0
  stored: int = 0
  failed: int = 0
  tokens_in: int = 0
  tokens_out: int = 0
  dollars: float = 0.0
  unpriced: bool = False

  @staticmethod
  def sum(estimates: Iterable["Estimate"]) -> "Estimate":
    """Adds up estimates."""
    parts = list(estimates)
    return Estimate(
      requests=sum(part.requests for part in parts),
      replies=sum(part.replies for part in parts),
      stored=sum(part.stored for part in parts),
      failed=sum(part.failed for part in parts),
      tokens_in=sum(part.tokens_in for part in parts),
      tokens_out=sum(part.tokens_out for part in parts),
      dollars=sum(part.dollars for part in parts),
      unpriced=any(part.unpriced for part in parts),
    )


@dataclasses.dataclass(frozen=True)
class Progress:
  """Progress of one `ask`, counted in samples.

  Attributes:
    done: Finished samples.
    total: All samples.
    failures: Samples without a reply.
    retries: HTTP requests sent again by this `ask`.
    dollars: Spent by the run so far, including the estimates of `Unanswered`.
    in_flight: Requests without a response.
    limit: How many may be in flight now; 0 if that does not apply.
    requests_per_second: Recent average.
    tokens_per_second: Recent average.
    projected_dollars: Spent by the run when this `ask` is done; None if unknown.
    seconds_left: Time until then; None if unknown.
    idle: Seconds since the last response.
    pause: Seconds that all requests still wait because the server asked for it.
  """

  done: int
  total: int
  failures: int
  retries: int
  dollars: float
  in_flight: int = 0
  limit: int = 0
  requests_per_second: float = 0.0
  tokens_per_second: float = 0.0
  projected_dollars: float | None = None
  seconds_left: float | None = None
  idle: float = 0.0
  pause: float = 0.0

  def facts(self) -> dict[str, int | float | str]:
    """What a progress bar shows besides `done` and `total`, by label."""
    facts: dict[str, int | float | str] = {
      "failures": self.failures,
      "retries": self.retries,
      "dollars": self.dollars,
    }
    if self.projected_dollars is not None and self.projected_dollars > self.dollars:
      facts["projected"] = self.projected_dollars
    if self.limit and self.done < self.total:
      facts["in flight"] = f"{self.in_flight}/{self.limit}"
      facts["requests/s"] = f"{self.requests_per_second:.3g}"
      facts["tokens/s"] = f"{self.tokens_per_second:.0f}"
      if self.pause >= 1:
        facts["rate limited for"] = f"{self.pause:.0f} s"
      if self.idle >= IDLE_NOTICE:
        facts["no response for"] = f"{self.idle:.0f} s"
    return facts


class Ledger(Protocol):
  """Usage and cost of one run."""

  def of(self, round: int, phase: str | None = None) -> Totals:
    """Totals of a round, or of one of its phases."""
    ...

  def total(self) -> Totals:
    """Totals of the run."""
    ...

  def unanswered(self, round: int | None = None, phase: str | None = None) -> Unanswered:
    """The estimated cost of requests without a reported usage: of the run, a round or a phase."""
    ...

  def requests_sent(self) -> int:
    """HTTP requests that the run has sent."""
    ...


class Teacher(Protocol):
  """Anything that replies to requests: a server, the built-in teacher, files or a student."""

  @property
  def ledger(self) -> Ledger:
    """What this run has used and spent."""
    ...

  def ask(
    self,
    requests: Sequence[Request],
    *,
    round: int,
    phase: str,
    temperature: float,
    on_progress: Callable[[Progress], None] | None,
  ) -> list[list[Outcome]]:
    """Gets the replies to some requests; blocks until all are there.

    Args:
      requests: What to ask.
      round: Number of the round.
      phase: Name of the phase's directory.
      temperature: Sampling temperature.
      on_progress: Receives progress reports; None for no reports.

    Returns:
      For each request, in order, its `samples` outcomes.

    Raises:
      UserError: The run cannot continue (credentials, quota, budget, no server). Replies received
        by then are stored, and are not paid for again.
    """
    ...

  def estimate(
    self, requests: Sequence[Request], *, round: int, phase: str, temperature: float
  ) -> Estimate:
    """What `ask` would take. Sends nothing and records nothing."""
    ...

  def close(self) -> None:
    """Releases files, sockets and threads."""
    ...
