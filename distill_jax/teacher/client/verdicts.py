"""Classifies HTTP responses: completed, retry, skip the request, or abort the run. Pure functions.

Bodies and headers are untrusted: every part is checked.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from distill_jax.teacher import finish as finishes
from distill_jax.teacher import reply
from distill_jax.teacher.client import error_bodies, refusals, streams, usage, waits

LOADING_WAIT = 2.0  # seconds until a server that loads its model is asked again
CUT_STATUSES = (408, 499, 502, 504, 520, 522, 523, 524)  # of a proxy that lost the server
PAGE_STATUSES = (400, 403, 406)  # with which firewalls and proxies send web pages
NOTHING_LOST = "Replies received so far are saved; re-run the same command to ask for the others"
REQUEST_ID_HEADERS = ("x-request-id", "request-id", "apim-request-id")


@dataclasses.dataclass(frozen=True)
class Choice:
  """One sample.

  Attributes:
    text: The reply as it came; see `reply.Raw`.
    finish: The server's finish reason.
    failure: "" for a complete reply, else one of `types.SETTLED`.
    message: Why it is a failure.
    thinking: The thinking that came apart from the text.
  """

  text: str
  finish: str
  failure: str
  message: str
  thinking: str = ""


@dataclasses.dataclass(frozen=True)
class Completed:
  """A response with choices; each may still be a failure.

  Attributes:
    choices: The samples.
    model: The model that replied.
    tokens_in: Prompt tokens; None if the server does not report them.
    tokens_out: Completion tokens, likewise.
    tokens_cached: The part of `tokens_in` that the server had cached.
    tokens_reasoning: The part of `tokens_out` spent on hidden reasoning.
    tokens_written: The part of `tokens_in` that the server wrote to its cache, at a surcharge.
    dollars: What the server says that the response costs; None if it does not say.
    id: The server's id of the response; "" if it has none.
    unended: Further samples, whose end is missing although others have theirs.
  """

  choices: tuple[Choice, ...]
  model: str
  tokens_in: int | None
  tokens_out: int | None
  tokens_cached: int = 0
  tokens_reasoning: int = 0
  tokens_written: int = 0
  dollars: float | None = None
  id: str = ""
  unended: int = 0

  @property
  def metered(self) -> bool:
    """Whether the server has reported what it bills."""
    if self.dollars is not None:
      return True
    if self.tokens_out is None:  # none, or not reported
      return self.tokens_in is not None and not any(choice.text for choice in self.choices)
    return self.tokens_in is not None


@dataclasses.dataclass(frozen=True)
class Retry:
  """The request is worth another attempt.

  Attributes:
    reason: What went wrong.
    wait: Seconds that the server asks to wait; None if it does not say.
    rate_limited: The server only objects to the rate; this does not count as a failed attempt.
    tokens: (prompt, completion) tokens that are billed nevertheless.
    dollars: What the server says that they cost; None if it does not say.
    may_bill: The server may bill the request, but has not reported for what.
    concurrency: How many requests the server handles at once; None if it does not say.
    loading: The server loads its model; this does not count as a failed attempt.
    mixed: The samples of the response cannot be told apart.
    invalid: The model's reply does not match the schema that was asked for.
  """

  reason: str
  wait: float | None = None
  rate_limited: bool = False
  tokens: tuple[int, int] = (0, 0)
  dollars: float | None = None
  may_bill: bool = False
  concurrency: int | None = None
  loading: bool = False
  mixed: bool = False
  invalid: bool = False


@dataclasses.dataclass(frozen=True)
class Skip:
  """This request will never succeed; others may.

  Attributes:
    kind: A `types.Failure.kind`.
    reason: What the server says.
    own_fault: It is about this request only, such as its length.
  """

  kind: str
  reason: str
  own_fault: bool = False

  @property
  def may_be_schema(self) -> bool:
    """Whether the server may have rejected the schema of the reply."""
    return self.kind == "bad_request" and not self.own_fault


@dataclasses.dataclass(frozen=True)
class Abort:
  """No request will succeed. `advice` says what the user can do."""

  reason: str
  advice: str


@dataclasses.dataclass(frozen=True)
class Unsupported:
  """The server does not take a feature of the request; it is worth sending without."""

  feature: str
  value: str
  reason: str


Verdict = Completed | Retry | Skip | Abort | Unsupported


def parse_body(raw: bytes, model: str, headers: Mapping[str, str] | None = None) -> Verdict:
  """Parses the body of a 200 response; anything malformed is worth a retry.

  If some choices are malformed or were aborted, the others count, and their samples are missing. An
  error in the body stands for the status that it names.

  Args:
    raw: The body.
    model: Model name to use if the body has none.
    headers: Response headers with lower-case names; they may ask for a wait.
  """
  try:
    body = json.loads(raw)
  except (ValueError, RecursionError):
    reason = f"the body is not JSON: {excerpt(raw.decode('utf-8', 'replace'))}"
    return Retry(reason, may_bill=True)
  if not isinstance(body, dict):
    return Retry(f"the body has no choices: {excerpt(json.dumps(body))}", may_bill=True)
  choices, used = body.get("choices"), usage.read(body)
  billed = {
    "tokens": (used.tokens_in or 0, used.tokens_out or 0),
    "dollars": used.dollars,
    "may_bill": not used.reported,
  }
  if (error := refusals.embedded(body)) is not None:
    verdict = classify_status(error.status, headers or {}, error.body, time.time())
    if isinstance(verdict, Retry) and not verdict.rate_limited:
      return dataclasses.replace(verdict, **billed)
    return verdict
  if not isinstance(choices, list) or not choices:
    return Retry(f"the body has no choices: {excerpt(json.dumps(body))}", **billed)
  if choices == streams.MIXED:
    return Retry("the samples of the stream cannot be told apart", **billed, mixed=True)
  parsed = [_parse_choice(choice) for choice in choices]
  valid = tuple(choice for choice in parsed if choice is not None)
  if not valid:
    return Retry(f"malformed chat message in a choice: {excerpt(json.dumps(choices))}", **billed)
  ended = tuple(choice for choice in valid if choice.finish) or valid
  served_model, response_id = body.get("model"), body.get("id")
  return Completed(
    choices=ended,
    unended=len(valid) - len(ended),
    model=served_model if isinstance(served_model, str) and served_model else model,
    tokens_in=used.tokens_in,
    tokens_out=used.tokens_out,
    tokens_cached=used.cached,
    tokens_reasoning=used.reasoning,
    tokens_written=used.written,
    dollars=used.dollars,
    id=excerpt(response_id)[:100] if isinstance(response_id, str) else "",
  )


def redact(completed: Completed, redactor: Callable[[str], str]) -> Completed:
  """Applies `redactor` to every text of a response: a server may echo the API key."""
  choices = tuple(
    Choice(
      redactor(c.text), redactor(c.finish), c.failure, redactor(c.message), redactor(c.thinking)
    )
    for c in completed.choices
  )
  return dataclasses.replace(completed, choices=choices, model=redactor(completed.model))


def classify_status(
  status: int, headers: Mapping[str, str], body: Any, now: float
) -> Retry | Skip | Abort:
  """Classifies an error status.

  Args:
    status: HTTP status, not 200.
    headers: Response headers with lower-case names.
    body: Parsed JSON, or text.
    now: Unix time in seconds.
  """
  reason = f"HTTP {status}: {excerpt(error_bodies.text_of(body))}"
  wait = waits.requested_wait(headers, now, body)
  if status in PAGE_STATUSES and (title := error_bodies.page_title(body)) is not None:
    sender = excerpt(headers.get("server", "")) or "a firewall or proxy"
    return Retry(f"HTTP {status}: a web page of {sender}, not of the API: {excerpt(title)}", wait)
  if refusals.is_invalid_reply(body):
    return Retry(reason, may_bill=True, invalid=True)
  if refusals.needs_money(status, body, waits=wait is not None):
    return Abort(reason, f"the account has no credit or quota left; top it up. {NOTHING_LOST}")
  if refusals.is_gone(status, body):
    return Abort(reason, f"name another model with config.teacher.model. {NOTHING_LOST}")
  if refusals.is_filtered(status, body):
    return Skip("filtered", reason)
  if refusals.is_wrong_key(status, body):
    return Abort(
      reason, "the key is missing or wrong; set the environment variable config.teacher.key_env"
    )
  if status == 403:
    return Abort(reason, "the key may not use this model or this address")
  if 300 <= status < 400:  # a redirect could send questions anywhere
    location = excerpt(headers.get("location") or "(no location given)")
    return Abort(reason, f"set config.teacher.base_url to the redirect's target: {location}")
  if status in (404, 405):
    return Abort(
      reason,
      "no such model or path; check config.teacher.model, and config.teacher.base_url (most end in"
      " /v1; without /chat/completions)",
    )
  if refusals.is_loading(status, body):
    return Retry(reason, LOADING_WAIT if wait is None else wait, loading=True)
  if status == 413 or (status == 429 and refusals.is_too_long(body)):
    return Skip("bad_request", reason, own_fault=True)
  if status in (408, 409, 425, 429, 499) or status >= 500:
    return Retry(
      reason,
      wait,
      rate_limited=status == 429,
      may_bill=status in CUT_STATUSES,
      concurrency=refusals.concurrency(body) if status in (429, 503) else None,
    )
  return Skip("bad_request", reason, own_fault=refusals.is_too_long(body))


def request_id(headers: Mapping[str, str]) -> str:
  """The server's id for a request, for a report to its operator; "" if there is none."""
  ids = (headers[name] for name in REQUEST_ID_HEADERS if headers.get(name))
  return next((excerpt(found)[:100] for found in ids), "")


def _parse_choice(choice: Any) -> Choice | None:
  """One choice; None if it is malformed, or was cut off by a failure of the server."""
  if not isinstance(choice, dict):
    return None
  message, finish = choice.get("message"), choice.get("finish_reason")
  if message is None and finishes.kind(str(finish)) in ("length", "filtered", "refusal"):
    message = {}  # the finish reason says it all
  raw = reply.read_message(message) if isinstance(message, dict) else None
  if raw is None:
    return None
  finish = finish if isinstance(finish, str) else "stop" if "finish_reason" not in choice else ""
  kind, failure, reason = finishes.kind(finish), "", ""
  if kind == "aborted":
    return None
  if kind == "filtered":
    failure, reason = "filtered", "the server's content filter ended the reply"
  elif raw.refusal or kind == "refusal":
    failure, reason = "refusal", excerpt(raw.refusal or raw.text)
  elif kind == "length":
    failure, reason = "length", "the reply was truncated at teacher.max_tokens"
  elif not reply.separate(raw.text).text.strip():
    only = "only thinking and no answer" if raw.text.strip() else "no text"
    failure, reason = "empty", f"the reply has {only} (finish reason {excerpt(finish)})"
  elif kind == "cut":
    failure = "cut"
    reason = f"the finish reason {excerpt(finish) or 'null'} is not known to be an end"
  return Choice(raw.text, finish, failure, reason, raw.thinking)


def excerpt(text: str) -> str:
  """The beginning of a server's text, on one printable line."""
  line = " ".join(text[:600].split())
  return "".join(c if c.isprintable() else "?" for c in line)[:300]
