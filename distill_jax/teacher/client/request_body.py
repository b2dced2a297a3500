"""What one teacher's requests hold beside the conversation: further body fields (teacher.extra_body),
and the JSON schema of structured replies (teacher.structured), until the server refuses it."""

import json

from distill_jax import errors
from distill_jax.teacher.prompts import schema as prompts_schema

# Body fields that settings of their own decide, or the client itself.
OURS = (
  *("model", "messages", "temperature", "max_tokens", "max_completion_tokens", "n", "seed"),
  *("stream", "response_format"),
)


def fields(extra: str, at: str = "teacher.extra_body") -> dict:
  """The body fields in a JSON text; {} for "". Raises errors.UserError, which speaks of it as `at`,
  for what is none."""
  if not extra.strip():
    return {}
  example = f"--config.{at}='{{\"top_k\": 20}}'"
  try:
    found = json.loads(extra)
    json.dumps(found, allow_nan=False)  # NaN and Infinity are no JSON, and 1e999 becomes one
  except (ValueError, RecursionError):
    found = None
  if not isinstance(found, dict):
    raise errors.config(at, extra, "empty, or body fields as a JSON object", example)
  if taken := [name for name in OURS if name in found]:
    allowed = f"without {', '.join(taken)}, which other settings or the client decide"
    raise errors.config(at, extra, allowed, example)
  return found


def told(messages, kind: str, schema: bool):
  """What the teacher is told; `schema`: the reply is asked for as JSON."""
  return prompts_schema.with_json_instruction(messages, kind) if schema else messages


class Shaping:
  """Dresses request bodies. `plain` says that the server has refused schemas; warn(text) is told
  once."""

  def __init__(self, *, extra: str, structured: bool, warn):
    self._extra, self._structured, self._warn = fields(extra), structured, warn
    self.plain = not structured

  def key(self, kind: str) -> dict:
    """What of it a cached reply depends on: nothing unless it is used."""
    found = {"extra": self._extra} if self._extra else {}
    if self._structured and kind in prompts_schema.SCHEMAS:
      found["schema"] = f"{kind} {prompts_schema.VERSION}"
    return found

  def schema(self, kind: str) -> bool:
    """Does a request of this kind ask for JSON?"""
    return not self.plain and kind in prompts_schema.SCHEMAS

  def body(self, kind: str, schema: bool) -> dict:
    """The further fields of a request's body."""
    asked = {"response_format": prompts_schema.response_format(kind)} if schema else {}
    return self._extra | asked

  def refused(self) -> None:
    """The server has refused a schema, and answered without it."""
    if not self.plain:
      self.plain = True
      self._warn(
        "the teacher's server takes no response_format: it is asked for plain text instead"
      )


NONE = Shaping(extra="", structured=False, warn=None)  # for whoever wants neither
