"""What an HTTP answer means: an answer, try again, go on without it, or stop the run. Pure."""

import dataclasses
import email.utils
import json
import math

MOST_TOKENS = 10**9  # of one call; a server that says more is not believed
QUOTA = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")


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


@dataclasses.dataclass(frozen=True)
class Again:
  """Worth another attempt, after `wait` seconds if the server asked for that."""

  why: str
  wait: float | None = None


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
  choices = body.get("choices") if isinstance(body, dict) else None
  if not isinstance(choices, list) or not choices:
    return Again(f"the body has no choices: {start(json.dumps(body))}")
  read = [_choice(choice) for choice in choices]
  if None in read:
    return Again(f"a choice is not a chat message: {start(json.dumps(choices))}")
  usage = body.get("usage") if isinstance(body.get("usage"), dict) else {}
  named = body.get("model")
  return Answered(
    choices=tuple(read),
    model=named if isinstance(named, str) and named else model,
    tokens_in=_count(usage.get("prompt_tokens")),
    tokens_out=_count(usage.get("completion_tokens")),
  )


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
  if status in (404, 405):
    return Stop(
      why, "no such model or path; check config.teacher.model and config.teacher.base_url"
    )
  if status in (408, 409, 425, 429) or status >= 500:
    return Again(why, retry_after(headers, now))
  filtered = any(code in ("content_filter", "content_policy_violation") for code in codes)
  return Skip("filtered" if filtered else "bad_request", why)


def retry_after(headers, now: float) -> float | None:
  """Seconds the server asks to wait: retry-after-ms, retry-after in seconds, or a date."""
  for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
    value = headers.get(name)
    if value is None:
      continue
    try:
      seconds = float(value) * unit
    except ValueError:
      seconds = _until(value, now)
    if seconds is not None and math.isfinite(seconds):
      return max(0.0, seconds)
  return None


def _until(date: str, now: float) -> float | None:
  try:
    return email.utils.parsedate_to_datetime(date).timestamp() - now
  except (ValueError, TypeError, OverflowError):
    return None


def _choice(choice) -> Choice | None:
  message = choice.get("message") if isinstance(choice, dict) else None
  if not isinstance(message, dict):
    return None
  text, refusal = message.get("content"), message.get("refusal")
  finish = choice.get("finish_reason")
  if not isinstance(text, str | None) or not isinstance(refusal, str | None):
    return None
  finish = finish if isinstance(finish, str) else "stop"
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


def start(text: str) -> str:
  """The beginning of a server's words, on one line and printable."""
  line = " ".join(text[:600].split())
  return "".join(c if c.isprintable() else "?" for c in line)[:300]
