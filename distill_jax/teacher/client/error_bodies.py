"""Reads the bodies of errors: where the error is in it, and what it says.

error                 OpenAI and most others: an object with a message, or a text
[{"error": ...}]      Gemini
error.metadata.raw    OpenRouter: the error of the vendor behind it, often as JSON in a text

Bodies are untrusted: every part is checked.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_PAGE = re.compile(r"\A\s*+(?:<!--[^<>]{0,999}-->\s*+)?<(?:!doctype html|html)\b", re.IGNORECASE)
_CODES = ("code", "type", "status", "error_code")
_TITLE = re.compile(r"<title\b[^<>]{0,99}>([^<>]{1,200})", re.IGNORECASE)


def error_of(body: Any) -> Any:
  """The part of an error body that describes the error."""
  if isinstance(body, list) and body and isinstance(body[0], Mapping):  # Gemini
    body = body[0]
  if not isinstance(body, Mapping):
    return body
  return body.get("error") or body


def quoted(body: Any) -> Any:
  """The error of the vendor behind a router, as the router quotes it; None if it quotes none."""
  error = error_of(body)
  metadata = error.get("metadata") if isinstance(error, Mapping) else None
  raw = metadata.get("raw") if isinstance(metadata, Mapping) else None
  if not isinstance(raw, str):
    return error_of(raw)
  try:
    return error_of(json.loads(raw))
  except (ValueError, RecursionError):
    return raw


def text_of(body: Any) -> str:
  """The messages of an error and of the one that it quotes, for people and for searching."""
  return ": ".join(text for text in (own_text_of(body), _message(quoted(body))) if text)


def page_title(body: Any) -> str | None:
  """The title of a web page, which firewalls send instead of an error; None if it is not one."""
  if not isinstance(body, str) or not _PAGE.match(body):
    return None
  title = _TITLE.search(body)
  return title[1].strip() if title else ""


def own_text_of(body: Any) -> str:
  """The message of an error, without that of the one that it quotes."""
  return _message(error_of(body))


def codes_of(body: Any) -> tuple[str, ...]:
  """The codes of an error and of the one that it quotes, in lower case."""
  return tuple(code.lower() for code in values_of(body, _CODES))


def own_codes_of(body: Any) -> tuple[str, ...]:
  """The codes of an error, without those of the one that it quotes."""
  return tuple(code.lower() for code in _values(error_of(body), _CODES))


def values_of(body: Any, names: Iterable[str]) -> Iterator[str]:
  """The texts in some fields of an error and of the one that it quotes."""
  for error in (error_of(body), quoted(body)):
    yield from _values(error, names)


def _values(error: Any, names: Iterable[str]) -> Iterator[str]:
  fields = error if isinstance(error, Mapping) else {}
  for name in names:
    value = fields.get(name)
    if isinstance(value, str):
      yield value


def _message(error: Any) -> str:
  message = error.get("message") if isinstance(error, Mapping) else None
  if isinstance(message, str):
    return message
  return error if isinstance(error, str) else json.dumps(error) if error is not None else ""
