"""The seam between recipes and whoever teaches: what is asked, what comes back, what it cost."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Protocol

KINDS = ("annotate", "correct")

# Why a reply is missing. The first four were answered (and may have been paid for); they stay with
# their round and phase. The others are asked again when the round and phase is asked again.
SETTLED = ("refusal", "filtered", "length", "empty")
UNSETTLED = ("bad_request", "gave_up", "unrecorded")

BROKEN_OFF = ("error", "abort")  # finish reasons of servers that failed amid a reply
QUIET = 30.0  # seconds without an answer that are worth a word

_CUT = "the reply was cut at {} tokens, the most it may have"
_CUT_AT = re.compile(_CUT.format("([0-9]{1,9})"))


def cut(limit: int) -> str:
  """The message of a reply that was cut at so many tokens."""
  return _CUT.format(limit)


def cut_at(failure) -> int | None:
  """The tokens at which a Failure was cut; None if it is another, or does not say."""
  found = _CUT_AT.fullmatch(failure.message) if failure.kind == "length" else None
  return int(found[1]) if found else None


def broken(text: str, finish: str) -> str:
  """Why this is no whole reply, and so none to be kept; "" if it is one."""
  if finish in ("length", "content_filter", *BROKEN_OFF):
    return f"it was ended by {finish}"
  return "" if text.strip() else "it has no text"


@dataclasses.dataclass(frozen=True)
class Request:
  """A question put to the teacher: `samples` replies, numbered from `first`.

  The sample's number is part of the cache key: the same messages with a higher `first` are fresh
  replies, with the same `first` the replies that were paid for already.
  """

  kind: str  # annotate | correct
  question: str
  messages: tuple[tuple[str, str], ...]  # (role, content)
  samples: int
  first: int = 0


@dataclasses.dataclass(frozen=True)
class Reply:
  """A whole, valid answer. Several samples of one call share its tokens, exactly."""

  text: str
  finish: str
  model: str  # as the server named it
  tokens_in: int
  tokens_out: int
  dollars: float  # what this round and phase paid for it; 0 if cached
  cached: bool  # paid for before this round and phase, or by another run
  tokens_cached: int = 0  # of tokens_in: those the server had seen before, which may cost less
  tokens_reasoning: int = 0  # of tokens_out: those that were thought and not said


@dataclasses.dataclass(frozen=True)
class Failure:
  """Why there is no reply; tokens and dollars if the server charged for it all the same."""

  kind: str  # one of SETTLED or UNSETTLED
  message: str
  attempts: int
  tokens_in: int = 0
  tokens_out: int = 0
  dollars: float = 0.0
  status: int = 0  # of HTTP; 0 if no answer came
  request_id: str = ""  # as the server named the last request
  tokens_cached: int = 0
  tokens_reasoning: int = 0


@dataclasses.dataclass(frozen=True)
class Totals:
  """What a round and phase, a round, or the whole run cost.

  calls       distinct replies this run paid for in that round and phase
  cache_hits  distinct replies asked for there that had been paid for before, or by another run
  failures    samples for which there is no reply
  tokens_in, tokens_out, dollars  of the calls and of the failures that were charged for, also if
              they were asked again since; tokens_cached are part of the first, tokens_reasoning of
              the second
  retries     HTTP requests that were sent again; the one number that an interruption can change
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
class Need:
  """What an ask would take; tokens and dollars at the most, were every reply as long as it may."""

  requests: int = 0  # HTTP, if none has to be sent again
  replies: int = 0  # samples that are missing
  stored: int = 0  # samples that are in the cache
  failed: int = 0  # samples that failed and would not be asked for again
  tokens_in: int = 0
  tokens_out: int = 0
  dollars: float = 0.0
  unpriced: bool = False  # would be paid for, but the prices are 0

  @staticmethod
  def sum(needs) -> "Need":
    fields = [dataclasses.astuple(need) for need in needs]
    *counts, unpriced = zip(*fields, strict=True) if fields else ((),) * 8
    return Need(*(sum(column) for column in counts), any(unpriced))


@dataclasses.dataclass(frozen=True)
class Progress:
  """How far one `ask` is; counted in samples."""

  done: int
  total: int
  failures: int
  retries: int  # of this ask
  dollars: float  # spent by the run folder so far
  in_flight: int = 0  # requests
  limit: int = 0  # how many may be in flight now
  requests_a_second: float = 0.0  # of late
  tokens_a_second: float = 0.0
  projected: float | None = None  # dollars of the run folder when this ask is done
  left: float | None = None  # seconds until then
  quiet: float = 0.0  # seconds since anything came back
  pause: float = 0.0  # seconds that all requests still wait because the server said so

  def facts(self) -> dict:
    """What a person wants to know beside done and total."""
    facts = {"failures": self.failures, "retries": self.retries, "dollars": self.dollars}
    if self.projected is not None and self.projected > self.dollars:
      facts["of about"] = self.projected
    if self.limit and self.done < self.total:
      facts["in flight"] = f"{self.in_flight}/{self.limit}"
      facts["requests/s"] = f"{self.requests_a_second:.3g}"
      facts["tokens/s"] = f"{self.tokens_a_second:.0f}"
      if self.pause >= 1:
        facts["told to wait"] = f"{self.pause:.0f} s"
      if self.quiet >= QUIET:
        facts["nothing came for"] = f"{self.quiet:.0f} s"
    return facts


class Ledger(Protocol):
  def of(self, round: int, phase: str | None = None) -> Totals:
    """Totals of a round, or of one phase of it."""

  def total(self) -> Totals:
    """Totals of the run."""


class Teacher(Protocol):
  """Whoever answers: a server, the built-in teacher, recorded files."""

  ledger: Ledger

  def ask(
    self,
    requests: Sequence[Request],
    *,
    round: int,
    phase: str,
    temperature: float,
    on_progress: Callable[[Progress], None] | None,
  ) -> list[list[Reply | Failure]]:
    """For each request, in order, its `samples` replies. Blocks until all are there.

    Raises errors.UserError if the run cannot go on (credentials, quota, budget, no server); replies
    that had come in by then are kept and are not paid for again.
    """

  def need(
    self, requests: Sequence[Request], *, round: int, phase: str, temperature: float
  ) -> Need:
    """What `ask` would take. Nothing is sent, and nothing is noted."""

  def close(self) -> None:
    """Lets go of files, sockets and threads."""
