"""Reads why a server refuses a request: no money left, no such model, or a field it does not take.

Servers have few codes and many texts for this. Texts are untrusted: they are searched for words,
and only for features that the request has used.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from distill_jax.teacher.client import error_bodies

MAX_TEXT = 4000  # characters of a message that are searched
STATUSES = (400, 404, 405, 415, 422, 500, 501)  # with which servers refuse a feature

QUOTA_CODES = (
  *("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "arrearage"),
  *("insufficient_balance", "insufficient_credits", "insufficient_user_quota", "payment_required"),
  *("account_deactivated", "credit_limit_exceeded", "billing_error", "spend_limit_exceeded"),
  "budget_exceeded",
)
_NO_MONEY = (
  *("credit balance", "insufficient balance", "insufficient credit", "insufficient fund"),
  *("insufficient quota", "out of credit", "not enough credit", "no credit", "add credit"),
  *("more credits", "exceeded your current quota", "payment required", "payment method"),
  *("billing", "arrear", "overdue", "spend limit", "spending limit", "usage limits"),
  *("account is not active", "account has been suspended", "account has been deactivated"),
  *("account balance", "top up", "recharge", "free quota", "free tier of the model has been"),
  *("budget has been exceeded", "exceeded budget", "budget exceeded", "crossed budget"),
  *("\u4f59\u989d\u4e0d\u8db3", "\u6b20\u8d39"),  # "balance is not enough", "in arrears"
)
_GONE = (
  *("deprecated", "decommissioned", "no longer available", "no longer supported", "retired"),
  *("shut down", "end of life", "does not exist", "not found", "has been removed", "not exist"),
  *("invalid model name", "invalid model id", "unknown model", "no such model"),
  *("not a valid model id", "not a valid model name"),
)
_KEY_CODES = (
  *("invalid_api_key", "api_key_invalid", "authentication_error", "unauthenticated"),
  *("unauthorized", "no_db_connection"),  # litellm without a database: not its master key
)
_WRONG_KEY = (
  *("api key not valid", "invalid api key", "incorrect api key", "api key not found"),
  *("api key expired", "missing api key", "no api key", "api key is missing", "api key is invalid"),
  *("invalid api-key", "invalid authentication", "authentication fails", "invalid access token"),
)
_FILTER_CODES = (
  *("content_filter", "content_policy_violation", "data_inspection_failed"),
  *("datainspectionfailed", "prompt_blocked", "content_filtered"),
)
_FILTERED = (
  *("content management policy", "content policy", "content filter", "content_filter"),
  *("safety system", "requires moderation", "input was flagged", "inappropriate content"),
  *("content exists risk", "violates usage guidelines", "safety_check", "sensitive content"),
)
_LOADING = (
  *("loading model", "model is loading", "currently loading", "still loading", "being loaded"),
  *("warming up", "starting up", "not ready yet"),
)
_INVALID_REPLY = ("json_validate_failed", "tool_use_failed")
_TOO_LONG = (
  *("context length", "context_length", "context window", "maximum context", "too many tokens"),
  *("prompt is too long", "input is too long", "reduce the length", "exceeds the available"),
  *("request too large", "input or output tokens must be reduced", "request is too large"),
)
_MOST = re.compile(
  r"(?:at most|less than or equal to|up to|maximum of|<=|between 1 and) ([0-9]{1,4})"
)
_CONCURRENCY = re.compile(
  r"concurren[a-z]{0,8}[^0-9.,;!?-]{0,30}([0-9]{1,4})\b"
  r"(?!\.[0-9]| ?(?:m?s|sec[a-z]*|min[a-z]*|hours?|h|[rt]p[md])\b| ?(?:per|/) ?(?:s|m|h|d))"
)


def _searched(body: Any) -> str:
  """The part of an error's text that is searched, in lower case."""
  return error_bodies.text_of(body).lower()[:MAX_TEXT]


def needs_money(status: int, body: Any, waits: bool) -> bool:
  """Whether a refusal is about credit, quota or billing: of the user, not of a router.

  Args:
    status: HTTP status.
    body: The error.
    waits: The server asks to wait: its quota is per minute, unless it says per day.
  """
  text = error_bodies.own_text_of(body).lower()[:MAX_TEXT]
  if status == 402 or any(code in QUOTA_CODES for code in error_bodies.own_codes_of(body)):
    return True
  if status == 429 and waits:
    return "perday" in json.dumps(body)[: 4 * MAX_TEXT].lower()  # in Gemini's names of quotas
  return status in (400, 403, 412, 422, 429) and any(words in text for words in _NO_MONEY)


def is_gone(status: int, body: Any) -> bool:
  """Whether a refusal is about a model that the server does not serve, or no longer."""
  text = _searched(body)
  if status == 410 or any(
    code in ("model_not_found", "model_decommissioned", "model_deprecated")
    for code in error_bodies.codes_of(body)
  ):
    return True
  return status == 400 and "model" in text and any(words in text for words in _GONE)


def is_wrong_key(status: int, body: Any) -> bool:
  """Whether a refusal is about the user's key: 401, or another status of a server that says so."""
  if status == 401:
    return True
  codes, text = error_bodies.own_codes_of(body), error_bodies.own_text_of(body).lower()[:MAX_TEXT]
  named = any(code in _KEY_CODES for code in codes) or any(words in text for words in _WRONG_KEY)
  return status in (400, 403, 422) and named


def is_filtered(status: int, body: Any) -> bool:
  """Whether a refusal is about what this request contains."""
  codes, text = error_bodies.codes_of(body), _searched(body)
  if status == 403 and "account" in text:  # closed for earlier questions
    return False
  named = any(code in _FILTER_CODES for code in codes) or any(words in text for words in _FILTERED)
  return status in (400, 403, 422, 451) and named


def is_loading(status: int, body: Any) -> bool:
  """Whether a server cannot answer yet, because it loads its model."""
  text = _searched(body)
  return status == 503 and any(words in text for words in _LOADING)


def is_invalid_reply(body: Any) -> bool:
  """Whether the model has written one reply that does not match its schema (Groq)."""
  return any(code in _INVALID_REPLY for code in error_bodies.codes_of(body))


def is_too_long(body: Any) -> bool:
  """Whether a refusal is about the length of this request only."""
  codes, text = error_bodies.codes_of(body), _searched(body)
  return "context_length_exceeded" in codes or any(words in text for words in _TOO_LONG)


_SNAKE = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])")  # between the words of a code


class Embedded(NamedTuple):
  """An error in the body of a 200 response."""

  status: int
  body: Any


_MINIMAX_FILTER = (1026, 1027)  # sensitive input, sensitive output
_MINIMAX = {1002: 429, 1004: 401, 1008: 402, 1026: 400, 1027: 400, 1039: 429, 2013: 400, 2049: 401}
# Beginnings of the words in codes and types.
_CODE_WORDS = (
  (("quota", "billing", "insufficient", "payment", "balance", "budget"), 402),
  (("rate", "ratelimit", "too_many", "toomany", "throttl", "exhausted"), 429),
  (("overload", "unavailable", "capacity"), 503),
  (("auth", "api_key", "apikey"), 401),
  (("permission", "forbidden"), 403),
  (("not_found",), 404),
  (("invalid", "bad_request", "badrequest", "validation"), 400),
  (("timeout", "timed_out"), 504),
)


def embedded(body: Mapping[str, Any]) -> Embedded | None:
  """The error that a 200 response contains instead of a reply; None if it contains none."""
  choices = body.get("choices")
  first = choices[0] if isinstance(choices, list) and choices else None
  if isinstance(first, Mapping):
    inner = first.get("error") or body.get("error")
    described = isinstance(inner, Mapping | str) and inner
    return Embedded(_status(inner), {"error": inner}) if described else None
  if choices:
    return None
  error = body.get("error")
  if error:
    return Embedded(_status(error), body)
  base = body.get("base_resp")
  if isinstance(base, Mapping) and base.get("status_code"):
    number = base["status_code"]
    code = "content_filter" if number in _MINIMAX_FILTER else str(number)
    message = {"error": {"message": base.get("status_msg"), "code": code}}
    return Embedded(_MINIMAX.get(number, 500), message)
  named = ("message", "msg", "error_msg", "detail")
  if any(isinstance(body.get(name), str) for name in named):
    message = next(body[name] for name in named if isinstance(body.get(name), str))
    return Embedded(_status(body), {"error": {**body, "message": message}})
  return None


def _status(error: Any) -> int:
  """The HTTP status that an error stands for; 500 if it does not say."""
  fields = error if isinstance(error, Mapping) else {"code": error}
  values = [fields.get(name) for name in ("code", "status", "status_code", "http_code", "type")]
  for value in values:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) == 3:
      value = int(value)
    if type(value) is int and 400 <= value <= 599:
      return value
  codes = [value for value in values if isinstance(value, str) and value.count(" ") <= 1]
  words = "".join(f"_{_SNAKE.sub('_', value).lower()}" for value in codes)
  found = (s for names, s in _CODE_WORDS if any(f"_{name}" in words for name in names))
  if (status := next(found, None)) is not None:
    return status
  text = error_bodies.own_text_of({"error": error}).lower()[:MAX_TEXT]
  # A sentence: only whole phrases count.
  if any(said in text for said in _NO_MONEY):
    return 402
  return 429 if "rate limit" in text or "too many requests" in text else 500


class Refused(NamedTuple):
  """A feature that a server does not take, and what to use instead; see `features.Features`."""

  name: str
  value: str = "no"


_REFUSING = (
  *("unsupport", "not support", "n't support", "only support", "unknown", "unrecognized"),
  *("not permitted", "not allowed", "not available", "unavailable", "unexpected", "invalid"),
  *("must be", "must have", "at most", "exactly", "less than or equal", "cannot", "can't", "only"),
  *("not enabled", "disabled", "deprecated", "not implemented", "extra inputs", "no endpoints"),
  *("does not accept", "doesn't accept", "should be", "greater than", "failed to parse", "instead"),
  *("forbidden", "must alternate", "not compatible", "incompatible", "required", "please enable"),
)
# A value is refused, not the field.
_OUT_OF_RANGE = (
  *("between", "less than", "greater than", "smaller than", "larger than", "more than"),
  *("<", ">", "too large", "too high", "range", "cannot exceed", "can't exceed", "must not exceed"),
  *("exceeds", "at most", "above max", "above the max", "maximum value", "maximum allowed"),
)
# What is said of a field that a server does not know or take.
_UNKNOWN_FIELD = (
  *("unsupport", "not support", "n't support", "unknown", "unrecognized", "not permitted"),
  *("extra inputs", "unexpected", "not allowed", "deprecated", "does not accept", "instead"),
  *("doesn't accept", "not compatible", "incompatible", "not available"),
)
_SEVERAL = (
  *(
    "completion choice",
    "multiple candidates",
    "one candidate",
    "candidate_count",
    "candidatecount",
  ),
  *("multiple completions", "number of choices", "number of completions", "multiple choices"),
  *("number of generations", "number of slots", "single completion", "one completion", "n_cmpl"),
  *("one choice", "n_choices", "best_of", "num_return_sequences"),
)
_SYSTEM = (
  *("system role", "system message", "system prompt", "system instruction", "system_instruction"),
  *("developer instruction", "role 'system'", 'role "system"', "role: system", "'system'"),
  *('"system"', "`system`", "must alternate", "[0].role", "system is not"),
  *("only user and assistant roles", "messages.0.role", "'user' or 'assistant'"),
)
_JSON = (
  *("response_format", "response format", "json_schema", "json schema", "json_object", "json mode"),
  *("structured output", "guided", "grammar"),
)
_STREAM_ONLY = (
  *("only support stream", "stream mode", "stream=true", "stream = true", "stream must be"),
  *(
    "'stream' must",
    "streaming is required",
    "requires streaming",
    "non-streaming",
    "stream to true",
  ),
  *("enable the stream", "only supports stream", "must be streamed", "set stream"),
)


def feature(status: int, body: Any, sent: Mapping[str, Any]) -> Refused | None:
  """The feature of a request that a server refuses; None if the refusal is about something else.

  Args:
    status: HTTP status.
    body: The error.
    sent: The body of the request.
  """
  if status not in STATUSES or is_too_long(body) or is_invalid_reply(body):
    return None
  text = _searched(body)
  for parameter in error_bodies.values_of(body, ("param",)):
    text = f"{text} '{parameter.lower()[:100]}'"
  refuses = any(words in text for words in _REFUSING) or any(
    code in ("unsupported_parameter", "unsupported_value") for code in error_bodies.codes_of(body)
  )
  if not refuses:
    return None
  return next((refused for refused in _candidates(text, sent) if refused is not None), None)


def _token_field(text: str, sent: Mapping[str, Any]) -> Refused | None:
  """Another name for the limit of tokens, if the text refuses the one that was sent."""
  old, new = "max_tokens", "max_completion_tokens"
  names_old, names_new = _mentions(text.replace(new, ""), old), new in text
  if any(words in text for words in _OUT_OF_RANGE):
    return None
  if not (names_old and names_new) and not any(words in text for words in _UNKNOWN_FIELD):
    return None
  if old in sent and (names_new or names_old):
    return Refused("max_tokens_field", new)
  if new in sent and names_new:
    return Refused("max_tokens_field", old)
  return None


def _candidates(text: str, sent: Mapping[str, Any]) -> Iterator[Refused | None]:
  """What the text may refuse, the most specific first."""
  in_range = not any(words in text for words in _OUT_OF_RANGE)
  if "stream_options" in sent and "stream_options" in text:
    yield Refused("stream_options")
  if not sent.get("stream") and any(words in text for words in _STREAM_ONLY):
    yield Refused("stream", "yes")
  yield _token_field(text, sent)
  if "response_format" in sent and any(words in text for words in _JSON):
    yield Refused("response_format")
  if sent.get("n", 1) > 1 and (_mentions(text, "n") or any(words in text for words in _SEVERAL)):
    yield Refused("n", _most_samples(text, sent["n"]))
  if "seed" in sent and (_mentions(text, "seed") or "random_seed" in text):
    yield Refused("seed")
  if "top_p" in sent and in_range and _mentions(text, "top_p"):
    yield Refused("top_p")
  if "temperature" in sent and in_range and _mentions(text, "temperature"):
    yield Refused("temperature")
  roles = [message.get("role") for message in sent.get("messages", ())]
  if "system" in roles and any(words in text for words in _SYSTEM):
    yield Refused("system")


def _most_samples(text: str, sent: int) -> str:
  """The number of samples that a text allows; "1" if it does not say."""
  found = _MOST.search(text)
  most = int(found[1]) if found else 1
  return str(most if 1 <= most < sent else 1)


def _mentions(text: str, name: str) -> bool:
  """Whether a text names a field: as a word of its own."""
  start = text.find(name)
  while start >= 0:
    end = start + len(name)
    before, after = text[start - 1 : start], text[end : end + 1]
    inside = (
      before.isalnum() or before in ("_", "\\", "-") or after.isalnum() or after in ("_", "-")
    )
    if not inside:
      return True
    start = text.find(name, end)
  return False


def concurrency(body: Any) -> int | None:
  """How many requests a server handles at once, if a rejection says so."""
  found = _CONCURRENCY.search(_searched(body))
  return int(found[1]) or None if found else None
