"""What an HTTP answer means: an answer, try again, go on without it, or stop the run. Pure."""

import dataclasses
import datetime
import email.utils
import json
import math
import re

from distill_jax.teacher import types

MOST_TOKENS = 10**9  # of one call; a server that says more is not believed
QUOTA = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
REQUEST_ID = ("x-request-id", "request-id", "apim-request-id")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(?<![0-9.])([0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(ms|us|µs|ns|h|m|s)")


@dataclasses.dataclass(frozen=True)
class Choice:
  """One sample. `failure` is "" for a whole answer, else one of asking.SETTLED."""

  text: str
  finish: str
  failure: str
  message: str


@dataclasses.dataclass(frozen=True)
class Answered:
  choices: tuple[Choice, ...]
  model: str
  tokens_in: int | None  # None if the server does not say
  tokens_out: int | None
  tokens_cached: int = 0  # of tokens_in
  tokens_reasoning: int = 0  # of tokens_out
  name: str = ""  # the server's own, for want of a request id


@dataclasses.dataclass(frozen=True)
class Again:
  """Worth another attempt, after `wait` seconds if the server asked for that.

  `limited`: nothing is wrong but the pace; it says nothing about the request. `tokens`: of prompt
  and completion, that are charged for an answer all the same.
  """

  why: str
  wait: float | None = None
  limited: bool = False
  tokens: tuple[int, int] = (0, 0)


@dataclasses.dataclass(frozen=True)
class Skip:
  """This request will never succeed; others may."""

  kind: str  # one of asking.SETTLED or bad_request
  why: str


@dataclasses.dataclass(frozen=True)
class Stop:
  """No request will succeed."""

  why: str
  do: str


def of_body(raw: bytes, model: str) -> Answered | Again:
  """Reads the body of a 200: every part is checked, what is no whole answer is tried again."""
  try:
    body = json.loads(raw)
  except (ValueError, RecursionError):
    return Again(f"the body is not JSON: {start(raw.decode('utf-8', 'replace'))}")
  if not isinstance(body, dict):
    return Again(f"the body has no choices: {start(json.dumps(body))}")
  choices, usage = body.get("choices"), body.get("usage")
  usage = usage if isinstance(usage, dict) else {}
  tokens_in, tokens_out = (
    _count(usage.get(name)) or None for name in ("prompt_tokens", "completion_tokens")
  )  # none at all were not counted
  if not isinstance(choices, list) or not choices:
    why = f"the body has no choices: {start(json.dumps(body))}"
    return Again(why, tokens=(tokens_in or 0, tokens_out or 0))
  read = [_choice(choice) for choice in choices]
  if None in read:
    why = f"a choice is no whole chat message: {start(json.dumps(choices))}"
    return Again(why, tokens=(tokens_in or 0, tokens_out or 0))
  named, name = body.get("model"), body.get("id")
  return Answered(
    choices=tuple(read),
    model=named if isinstance(named, str) and named else model,
    tokens_in=tokens_in,
    tokens_out=tokens_out,
    tokens_cached=_detail(usage, "prompt_tokens_details", "cached_tokens", tokens_in),
    tokens_reasoning=_detail(usage, "completion_tokens_details", "reasoning_tokens", tokens_out),
    name=start(name)[:100] if isinstance(name, str) else "",
  )


def hidden(answer: Answered, hide) -> Answered:
  """The answer with `hide` applied to every text in it: a server may send a key back."""
  choices = tuple(
    Choice(hide(c.text), hide(c.finish), c.failure, hide(c.message)) for c in answer.choices
  )
  return dataclasses.replace(answer, choices=choices, model=hide(answer.model))


def of_status(status: int, headers, body, now: float) -> Again | Skip | Stop:
  """Reads an error status. `body` is what came with it (dict, list, text); `now` Unix seconds."""
  error = body.get("error", body) if isinstance(body, dict) else body
  fields = error if isinstance(error, dict) else {}
  said = fields.get("message")
  said = said if isinstance(said, str) else json.dumps(error) if error is not None else ""
  why = f"HTTP {status}: {start(said)}"
  codes = (fields.get("code"), fields.get("type"))
  if status == 402 or any(code in QUOTA for code in codes):
    return Stop(why, "the account has no credit or quota left; top it up")
  if status == 401:
    return Stop(
      why, "the key is missing or wrong; set the environment variable config.teacher.key_env"
    )
  if status == 403:
    return Stop(why, "the key may not use this model or this address")
  if 300 <= status < 400:  # who redirects could have questions sent anywhere
    return Stop(
      why,
      "set config.teacher.base_url to where it points:"
      f" {start(headers.get('location') or 'it does not say')}",
    )
  if status in (404, 405):
    return Stop(
      why, "no such model or path; check config.teacher.model and config.teacher.base_url"
    )
  if status in (408, 409, 425, 429) or status >= 500:
    return Again(why, asked_wait(headers, now), limited=status == 429)
  filtered = any(code in ("content_filter", "content_policy_violation") for code in codes)
  return Skip("filtered" if filtered else "bad_request", why)


def asked_wait(headers, now: float) -> float | None:
  """Seconds that a server which refuses asks to wait, in whatever spelling; None if it does not.

  retry-after-ms and retry-after come first; then the resets of those limits that are used up, or of
  all of them if the server does not say which.
  """
  if (said := retry_after(headers, now)) is not None:
    return said
  resets = _resets(headers, now)
  spent = [seconds for seconds, left in resets if left is not None and left <= 0]
  return max(spent or [seconds for seconds, left in resets if left is None], default=None)


def exhausted(headers, now: float) -> float:
  """Seconds until a limit is there again that an accepted request has used up; 0 if none is."""
  return max(
    (s for s, left in _resets(headers, now) if left is not None and left <= 0), default=0.0
  )


def retry_after(headers, now: float) -> float | None:
  """retry-after-ms, or retry-after: seconds, a date, a time as in 1m30s."""
  try:
    milliseconds = float(headers.get("retry-after-ms", ""))
  except ValueError:
    milliseconds = math.nan
  if math.isfinite(milliseconds):
    return max(0.0, milliseconds / 1e3)
  return seconds(headers.get("retry-after", ""), now)


def seconds(value: str, now: float) -> float | None:
  """Seconds from `now` (Unix) in any spelling that servers use; None if it is none.

  A number of seconds, a Go duration (6m0s, 1.5s, 20ms), a date of HTTP or ISO 8601, or the Unix
  time, in seconds or milliseconds.
  """
  value = value.strip()[:64]
  for read in (_number, _duration, _http_date, _iso_date):
    found = read(value, now)
    if found is not None and math.isfinite(found):
      return max(0.0, found)
  return None


def request_id(headers) -> str:
  """What the server calls this request, for a complaint to whoever runs it."""
  return next((start(headers[name])[:100] for name in REQUEST_ID if headers.get(name)), "")


def _resets(headers, now: float) -> list[tuple[float, float | None]]:
  """(seconds until it is whole again, how much is left or None) of each limit that is told."""
  found = []
  for what in ("-requests", "-tokens", ""):
    reset = seconds(headers.get(f"x-ratelimit-reset{what}", ""), now)
    if reset is not None:
      try:
        left = float(headers.get(f"x-ratelimit-remaining{what}", ""))
      except ValueError:
        left = None
      found.append((reset, left))
  return found


def _number(value: str, now: float) -> float | None:
  try:
    number = float(value)
  except ValueError:
    return None
  if number > 1e11:
    return number / 1e3 - now
  return number - now if number > 1e9 else number


def _duration(value: str, now: float) -> float | None:
  parts = _PART.findall(value)
  whole = parts and "".join(number + unit for number, unit in parts) == value
  return sum(float(number) * _UNITS[unit] for number, unit in parts) if whole else None


def _http_date(value: str, now: float) -> float | None:
  try:
    return email.utils.parsedate_to_datetime(value).timestamp() - now
  except (ValueError, TypeError, OverflowError, IndexError):
    return None


def _iso_date(value: str, now: float) -> float | None:
  try:
    date = datetime.datetime.fromisoformat(value)
  except ValueError:
    return None
  return (date if date.tzinfo else date.replace(tzinfo=datetime.UTC)).timestamp() - now


def _choice(choice) -> Choice | None:
  message = choice.get("message") if isinstance(choice, dict) else None
  if not isinstance(message, dict):
    return None
  text, refusal = message.get("content"), message.get("refusal")
  finish = choice.get("finish_reason")
  if not isinstance(text, str | None) or not isinstance(refusal, str | None):
    return None
  finish = finish if isinstance(finish, str) else "stop"
  if finish in types.BROKEN_OFF:
    return None
  text = text or ""
  failure, why = "", ""
  if finish == "content_filter":
    failure, why = "filtered", "the server's content filter ended the reply"
  elif refusal:
    failure, why = "refusal", start(refusal)
  elif finish == "length":
    failure, why = "length", "the reply was cut at teacher.max_tokens"
  elif not text.strip():
    failure, why = "empty", f"the reply has no text (finish reason {start(finish)})"
  return Choice(text, finish, failure, why)


def _count(value) -> int | None:
  """A number of tokens; None for what cannot be one."""
  return value if type(value) is int and 0 <= value <= MOST_TOKENS else None


def _detail(usage: dict, group: str, name: str, most: int | None) -> int:
  """A part of the tokens that the server says apart; never more than the whole."""
  group = usage.get(group)
  count = _count(group.get(name)) if isinstance(group, dict) else None
  return min(count or 0, most or 0)


def start(text: str) -> str:
  """The beginning of a server's words, on one line and printable."""
  line = " ".join(text[:600].split())
  return "".join(c if c.isprintable() else "?" for c in line)[:300]
