"""Additional request headers: organization, project, gateways.

A value that is a secret comes from the environment: "$NAME" stands for the variable NAME.
"""

import json
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from distill_jax import errors

# Headers that the client itself decides.
RESERVED = (
  *("content-type", "content-length", "content-encoding", "transfer-encoding", "connection"),
  *("host", "idempotency-key", "accept-encoding"),
)
_EXAMPLE = '--config.teacher.extra_headers=\'{"OpenAI-Organization": "org-1"}\''
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")  # RFC 9110, 5.6.2
_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]{0,99})")
_SECRET = re.compile(r"auth|key|token|secret|password|cookie|credential", re.IGNORECASE)


class Headers(NamedTuple):
  """Request headers, and those of their values that must be shown nowhere."""

  values: Mapping[str, str]
  secrets: tuple[str, ...]

  def __repr__(self) -> str:
    return f"Headers({', '.join(self.values)})"  # a traceback may show it


NONE = Headers({}, ())


def parse(text: str) -> dict[str, str]:
  """Parses config.teacher.extra_headers; "$NAME" is left as it is.

  Args:
    text: A JSON object of strings; "" for no headers.

  Raises:
    UserError: It is something else, a name is reserved or malformed, or a value may be a secret.
      No value is shown.
  """
  if not text.strip():
    return {}
  try:
    fields = json.loads(text)
  except (ValueError, RecursionError):
    fields = None
  strings = isinstance(fields, dict) and all(isinstance(v, str) for v in fields.values())
  if not isinstance(fields, dict) or not strings:
    raise _error("empty, or a JSON object with a text for each header")
  for name, value in fields.items():
    if not _NAME.fullmatch(name) or name.lower() in RESERVED:
      raise _error(f"without {name[:40]!r}, which is no name of a header, or the client's own")
    if _SECRET.search(name) and not _VARIABLE.fullmatch(value):
      raise _error(f'"$VARIABLE" for {name}: secrets come from the environment')
    if not value.isascii() or not value.isprintable():
      raise _error(f"printable ASCII for {name}")
  return fields


def resolve(text: str) -> Headers:
  """The headers to send, with the values of the environment.

  Args:
    text: See `parse`.

  Raises:
    UserError: See `parse`; or a variable is not set, or has characters that no header can have.
  """
  values: dict[str, str] = {}
  secrets: list[str] = []
  for name, value in parse(text).items():
    if variable := _VARIABLE.fullmatch(value):
      value = os.environ.get(variable[1], "").strip()
      if not value or not value.isascii() or not value.isprintable():
        problem = "has characters that no header can have" if value else "is not set"
        raise errors.UserError(
          f"header {name} of config.teacher.extra_headers: the environment variable {variable[1]}"
          f" {problem}; export {variable[1]}=...",
          errors.CONFIG,
        )
      secrets.append(value)
    values[name] = value
  return Headers(values, tuple(secrets))


def _error(allowed: str) -> errors.UserError:
  return errors.config("teacher.extra_headers", "(hidden)", allowed, _EXAMPLE)
