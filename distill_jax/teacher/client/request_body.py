"""The optional parts of a request body.

Extra body fields (teacher.extra_body) and, for structured replies (teacher.structured), a JSON
schema, until the server rejects it.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from distill_jax import errors
from distill_jax.teacher.prompts import schema as prompts_schema

# Body fields that other settings or the client itself decide.
RESERVED = (
  *("model", "messages", "temperature", "max_tokens", "max_completion_tokens", "n", "seed"),
  *("stream", "response_format"),
)


def parse_extra_body(text: str, key: str = "teacher.extra_body") -> dict[str, Any]:
  """Parses extra body fields, a JSON object.

  Args:
    text: JSON; "" for no fields.
    key: Name of the config key, for messages.

  Raises:
    UserError: The text is not a JSON object, or sets a reserved field.
  """
  if not text.strip():
    return {}
  example = f"--config.{key}='{{\"top_k\": 20}}'"
  try:
    fields = json.loads(text)
    json.dumps(fields, allow_nan=False)  # json.loads accepts NaN, Infinity and 1e999
  except (ValueError, RecursionError):
    fields = None
  if not isinstance(fields, dict):
    raise errors.config(key, text, "empty or a JSON object with body fields", example)
  if reserved := [name for name in RESERVED if name in fields]:
    allowed = f"without {', '.join(reserved)}, which other settings or the client decide"
    raise errors.config(key, text, allowed, example)
  return fields


def with_schema_note(
  messages: Sequence[tuple[str, str]], kind: str, schema: bool
) -> Sequence[tuple[str, str]]:
  """The messages to send; with `schema`, they ask for JSON."""
  return prompts_schema.with_json_instruction(messages, kind) if schema else messages


class RequestShaper:
  """Adds extra fields and reply schemas to request bodies.

  Attributes:
    plain: Whether replies are requested as plain text: schemas are off, or the server rejects
      them.
    warn: Shows a warning; None to show none.
  """

  def __init__(self, *, extra: str, structured: bool, warn: Callable[[str], object] | None):
    """Creates a shaper.

    Args:
      extra: Extra body fields, as a JSON object; "" for none.
      structured: Request structured replies.
      warn: Called once, when the server rejects a schema.
    """
    self._extra, self._structured, self.warn = parse_extra_body(extra), structured, warn
    self.plain = not structured

  def key(self, kind: str) -> dict[str, Any]:
    """The part of a cache key that covers these settings; empty where they are not used."""
    fields: dict[str, Any] = {"extra": self._extra} if self._extra else {}
    if self._structured and kind in prompts_schema.SCHEMAS:
      fields["schema"] = f"{kind} {prompts_schema.VERSION}"
    return fields

  def schema(self, kind: str) -> bool:
    """Whether a request of this kind asks for JSON."""
    return not self.plain and kind in prompts_schema.SCHEMAS

  def body(self, kind: str, schema: bool) -> dict[str, Any]:
    """The body fields to add to a request."""
    fields = {"response_format": prompts_schema.response_format(kind)} if schema else {}
    return self._extra | fields

  def schema_rejected(self) -> None:
    """The server has rejected a schema, and replied without it: requests plain text from now on."""
    if not self.plain:
      self.plain = True
      if self.warn is not None:
        self.warn(
          "the teacher's server rejects response_format; structured replies are off for this run"
        )


UNSHAPED = RequestShaper(extra="", structured=False, warn=None)  # adds nothing
