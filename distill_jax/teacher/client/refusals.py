"""Reads why a server refuses a request: no money left, no such model, or a field it does not take.

Servers have few codes and many texts for this. Texts are untrusted: they are searched for words,
and only for features that the request has used.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

MAX_TEXT = 4000  # characters of a message that are searched

QUOTA_CODES = (
  *("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "arrearage"),
  *("insufficient_balance", "insufficient_credits", "insufficient_user_quota", "payment_required"),
  *("account_deactivated", "credit_limit_exceeded", "billing_error", "spend_limit_exceeded"),
)
_NO_MONEY = (
  *("credit balance", "insufficient balance", "insufficient credit", "insufficient fund"),
  *("insufficient quota", "out of credit", "not enough credit", "no credit", "add credit"),
  *("more credits", "exceeded your current quota", "payment required", "payment method"),
  *("billing", "arrear", "overdue", "spend limit", "spending limit", "usage limits"),
  *("account is not active", "account has been suspended", "account has been deactivated"),
  *("account balance", "top up", "recharge", "free quota", "free tier of the model has been"),
  *("\u4f59\u989d\u4e0d\u8db3", "\u6b20\u8d39"),  # "balance is not enough", "in arrears"
)
_PER_DAY = ("perday", "per day", "tokens per day", "requests per day", "daily")
_GONE = (
  *("deprecated", "decommissioned", "no longer available", "no longer supported", "retired"),
  *("shut down", "end of life", "does not exist", "not found", "has been removed", "not exist"),
)
_TOO_LONG = (
  *("context length", "context_length", "context window", "maximum context", "too many tokens"),
  *("prompt is too long", "input is too long", "reduce the length", "exceeds the available"),
)


def text_of(body: Any) -> str:
  """The message of an error body, for people and for searching."""
  error = error_of(body)
  message = error.get("message") if isinstance(error, Mapping) else None
  if isinstance(message, str):
    return message
  return error if isinstance(error, str) else json.dumps(error) if error is not None else ""


def error_of(body: Any) -> Any:
  """The part of an error body that describes the error."""
  if isinstance(body, list) and body and isinstance(body[0], Mapping):  # Gemini
    body = body[0]
  if not isinstance(body, Mapping):
    return body
  return body.get("error") or body


def codes_of(body: Any) -> tuple[str, ...]:
  """The codes of an error body, in lower case."""
  error = error_of(body)
  fields = error if isinstance(error, Mapping) else {}
  found = (fields.get(name) for name in ("code", "type", "status", "error_code"))
  return tuple(value.lower() for value in found if isinstance(value, str))


def needs_money(status: int, body: Any, waits: bool) -> bool:
  """Whether a refusal is about credit, quota or billing.

  Args:
    status: HTTP status.
    body: The error.
    waits: The server asks to wait: its quota is per minute, unless it says per day.
  """
  text = text_of(body).lower()[:MAX_TEXT]
  if status == 402 or any(code in QUOTA_CODES for code in codes_of(body)):
    return True
  if status == 429 and waits:
    return any(word in _details(body) for word in _PER_DAY[:1])
  return status in (400, 403, 429) and any(words in text for words in _NO_MONEY)


def is_gone(status: int, body: Any) -> bool:
  """Whether a refusal is about a model that the server does not serve, or no longer."""
  text = text_of(body).lower()[:MAX_TEXT]
  if status == 410 or any(
    code in ("model_not_found", "model_decommissioned", "model_deprecated")
    for code in codes_of(body)
  ):
    return True
  return status == 400 and "model" in text and any(words in text for words in _GONE)


def is_too_long(body: Any) -> bool:
  """Whether a refusal is about the length of this request only."""
  text = text_of(body).lower()[:MAX_TEXT]
  return "context_length_exceeded" in codes_of(body) or any(words in text for words in _TOO_LONG)


def _details(body: Any) -> str:
  return json.dumps(body)[: 4 * MAX_TEXT].lower()


class Embedded(NamedTuple):
  """An error in the body of a 200 response."""

  status: int
  body: Any


_MINIMAX = {1002: 429, 1004: 401, 1008: 402, 1039: 429, 2013: 400, 2049: 401}
_CODE_WORDS = (
  (("quota", "billing", "insufficient", "payment", "balance"), 402),
  (("rate", "too_many", "throttl", "exhausted"), 429),
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
    inner = first.get("error")
    return Embedded(_status(inner), {"error": inner}) if isinstance(inner, Mapping) else None
  if choices:
    return None
  error = body.get("error")
  if error:
    return Embedded(_status(error), body)
  base = body.get("base_resp")
  if isinstance(base, Mapping) and base.get("status_code"):
    message = {"error": {"message": base.get("status_msg"), "code": str(base["status_code"])}}
    return Embedded(_MINIMAX.get(base["status_code"], 500), message)
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
  words = " ".join(value.lower() for value in values if isinstance(value, str))
  return next((s for names, s in _CODE_WORDS if any(name in words for name in names)), 500)
