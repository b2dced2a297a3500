"""How long a server asks to wait, in headers and bodies, in every vendor's format.

retry-after, retry-after-ms                    seconds, a Go duration, an HTTP date
x-ms-retry-after-ms, llm_provider-retry-after  Azure; litellm
x-ratelimit-reset-*, x-ratelimit-remaining-*   OpenAI, Groq, Together, Mistral
anthropic-ratelimit-*-reset, ratelimit-reset   Anthropic; the IETF's draft
error.details[].retryDelay                     Gemini
error.metadata.headers                         OpenRouter
estimated_time                                 Hugging Face, while a model loads
"Please try again in 1.2s"                     OpenAI, Groq, Azure, Moonshot

Everything is untrusted: what cannot be read counts as not said.
"""

import datetime
import email.utils
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

MAX_TEXT = 4000  # characters of a message that are searched
MAX_DEPTH = 6  # of a body
_DELAY_FIELDS = (
  *("retrydelay", "retry_after", "retryafter", "retry_after_seconds", "retry-after"),
  "estimated_time",
)
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(?<![0-9.])([0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(ms|us|µs|ns|h|m|s)")
_IN_TEXT = re.compile(
  r"(?:again|retry|retrying|wait|resets?)(?: (?:in|after|for|at least|about)){0,2}:? "
  r"([0-9][0-9.hmsµu]{0,30})(?: (second|sec|minute|min|hour|ms|millisecond))?",
  re.IGNORECASE,
)
_WORDS = {"minute": 60.0, "min": 60.0, "hour": 3600.0, "ms": 1e-3, "millisecond": 1e-3}


def server_time(headers: Mapping[str, str], now: float) -> float:
  """The server's own time (its Date header), from which its dates count; `now` if it has none."""
  date = _http_date(headers.get("date", ""), 0.0)
  return now if date is None else date


def requested_wait(headers: Mapping[str, str], now: float, body: Any = None) -> float | None:
  """Seconds that an error response asks to wait, in any format; None if it does not say.

  retry-after-ms and retry-after take precedence; then what the body says; then the resets of the
  exhausted rate limits, or of all of them if the server does not say which are exhausted.

  Args:
    headers: Response headers with lower-case names.
    now: Unix time in seconds.
    body: Parsed JSON, or text.
  """
  now = server_time(headers, now)
  wait = retry_after(headers, now)
  if wait is None:
    wait = body_wait(body, now)
  if wait is not None:
    return wait
  resets = _rate_limit_resets(headers, now)
  exhausted = [seconds for seconds, left in resets if left is not None and left <= 0]
  unknown = [seconds for seconds, left in resets if left is None]
  return max(exhausted or unknown, default=None)


def exhausted_reset(headers: Mapping[str, str], now: float) -> float:
  """Seconds until a rate limit that an accepted request has exhausted resets; 0 if none is."""
  resets = _rate_limit_resets(headers, server_time(headers, now))
  return max((seconds for seconds, left in resets if left is not None and left <= 0), default=0.0)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
  """Seconds in retry-after-ms, or in retry-after; see `parse_wait`. Names may have a prefix."""
  try:
    milliseconds = float(_with_prefix(headers, "retry-after-ms"))
  except ValueError:
    milliseconds = math.nan
  if math.isfinite(milliseconds):
    return max(0.0, milliseconds / 1e3)
  return parse_wait(_with_prefix(headers, "retry-after"), now)


def _with_prefix(headers: Mapping[str, str], name: str) -> str:
  """The value of a header, or of one that a proxy or vendor has put a prefix to; "" if none."""
  if name in headers:
    return headers[name]
  return next((value for key, value in headers.items() if key.endswith(f"-{name}")), "")


def parse_wait(value: str, now: float) -> float | None:
  """Seconds from `now` (Unix time), in any format that servers use; None if unreadable.

  A number of seconds, a Go duration (6m0s, 1.5s, 20ms), an HTTP or ISO 8601 date, or a Unix time in
  seconds or milliseconds.
  """
  value = value.strip()[:64]
  for parse in (_number, _duration, _http_date, _iso_date):
    seconds = parse(value, now)
    if seconds is not None and math.isfinite(seconds):
      return max(0.0, seconds)
  return None


def body_wait(body: Any, now: float) -> float | None:
  """Seconds that the body of an error asks to wait; None if it does not say."""
  texts: list[str] = [body] if isinstance(body, str) else []
  for name, value in _fields(body, MAX_DEPTH):
    wait = None
    if name in _DELAY_FIELDS and isinstance(value, str | int | float):
      wait = parse_wait(str(value), now)
    elif name in ("retry_after_ms", "retry-after-ms"):
      wait = retry_after({"retry-after-ms": str(value)}, now)
    elif name == "headers" and isinstance(value, Mapping):
      wait = requested_wait({str(k).lower(): str(v) for k, v in value.items()}, now)
    elif isinstance(value, str):
      texts.append(value)
    if wait is not None:
      return wait
  return next((wait for text in texts if (wait := _text_wait(text, now)) is not None), None)


def _fields(value: Any, depth: int) -> Iterator[tuple[str, Any]]:
  """(lower-case name, value) of all fields in a body."""
  if depth and isinstance(value, Mapping):
    for name, inner in value.items():
      yield str(name).lower(), inner
      yield from _fields(inner, depth - 1)
  elif depth and isinstance(value, list):
    for inner in value[:100]:
      yield from _fields(inner, depth - 1)
  elif depth and isinstance(value, str) and value[:1] == "{":  # a proxy that quotes an error
    try:
      yield from _fields(json.loads(value), depth - 1)
    except (ValueError, RecursionError):
      return


def _text_wait(text: str, now: float) -> float | None:
  for number, unit in _IN_TEXT.findall(text[:MAX_TEXT]):
    wait = parse_wait(number.rstrip("."), now)
    if wait is not None:
      return wait * _WORDS.get(unit.lower(), 1.0)
  return None


def _rate_limit_resets(headers: Mapping[str, str], now: float) -> list[tuple[float, float | None]]:
  """(seconds until reset, remaining or None) of each rate limit in the headers."""
  resets = []
  for name, value in headers.items():
    if "ratelimit" not in name or "reset" not in name:
      continue
    reset = parse_wait(value, now)
    if reset is not None:
      try:
        remaining = float(headers.get(name.replace("reset", "remaining"), ""))
      except ValueError:
        remaining = None
      resets.append((reset, remaining))
  return resets


def _number(value: str, now: float) -> float | None:
  try:
    number = float(value)
  except ValueError:
    return None
  if number > 1e11:  # Unix time in milliseconds
    return number / 1e3 - now
  return number - now if number > 1e9 else number


def _duration(value: str, now: float) -> float | None:
  parts = _PART.findall(value)
  if not parts or "".join(number + unit for number, unit in parts) != value:
    return None
  return sum(float(number) * _UNITS[unit] for number, unit in parts)


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
