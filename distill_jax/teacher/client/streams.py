"""Assembles a streamed response (server-sent events) into the body of an ordinary one.

The samples of one response have an index each. Some servers give all of them the same one; then
they differ in the id of the chunk, or each comes in one part, or they cannot be told apart.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

MIXED = [{"finish_reason": "mixed"}]  # the choices of a stream whose samples are mixed up
_STARTS = (b"data:", b"event:", b":", b"id:", b"retry:")


def is_stream(content_type: str, raw: bytes) -> bool:
  """Whether a body is a stream, whatever was asked for."""
  if content_type.startswith("text/event-stream"):
    return True
  return raw[:200].lstrip().startswith(_STARTS)


class _Part(NamedTuple):
  """A part of a choice, in the chunk with this id."""

  id: str
  index: int
  fields: dict[str, Any]


def assemble(raw: bytes, samples: int = 1) -> bytes:
  """The JSON of the ordinary response that a stream stands for.

  A choice that has no finish reason when the stream breaks off was aborted. An error amid the
  stream is the whole response. If several samples cannot be told apart, its choices are `MIXED`.

  Args:
    raw: The stream.
    samples: How many samples were asked for.
  """
  body: dict[str, Any] = {}
  parts: list[_Part] = []
  ended = False
  for data in _events(raw):
    if data == "[DONE]":
      ended = True
      continue
    try:
      chunk = json.loads(data)
    except (ValueError, RecursionError):
      continue
    if not isinstance(chunk, dict):
      continue
    for name, value in chunk.items():
      if name != "choices" and value is not None:
        body[name] = value
    found = chunk.get("choices")
    for position, part in enumerate(found if isinstance(found, list) else []):
      if isinstance(part, dict):
        index, id = part.get("index"), chunk.get("id")
        index = index if type(index) is int else position
        parts.append(_Part(id if isinstance(id, str) else "", index, part))
  if parts and not body.get("error"):
    body["choices"] = _choices(parts, ended, samples)
  return json.dumps(body).encode()


def _choices(parts: list[_Part], ended: bool, samples: int) -> list[dict[str, Any]]:
  """The choices that parts make up, in the order of their indices."""
  names = _names(parts, samples)
  if names is None:
    return MIXED
  choices: dict[int, dict[str, Any]] = {}
  for name, part in zip(names, parts, strict=True):
    _add(choices.setdefault(name, {}), part.fields)
  for choice in choices.values():
    if choice.get("finish_reason") is None:
      choice["finish_reason"] = None if ended else "error"
  return [choices[name] for name in sorted(choices)]


def _names(parts: list[_Part], samples: int) -> list[int] | None:
  """The number of the choice that each part belongs to; None if it cannot be known."""
  indices = [part.index for part in parts]
  ids = list(dict.fromkeys(part.id for part in parts))
  ends = [part.id for part in parts if part.fields.get("finish_reason")]
  if samples == 1 or len(set(indices)) > 1 or (len(ids) == 1 and len(ends) < 2):
    return indices
  if len(ids) == len(ends) == samples and set(ids) == set(ends):
    return [ids.index(part.id) for part in parts]
  return list(range(samples)) if len(parts) == len(ends) == samples else None


def _events(raw: bytes) -> Iterator[str]:
  """The data of each event; lines that are not data are skipped."""
  data: list[str] = []
  for line in raw.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").split("\n"):
    if line.startswith("data:"):
      data.append(line[5:].removeprefix(" "))
    elif not line and data:
      yield "\n".join(data).strip()
      data = []
  if data:
    yield "\n".join(data).strip()


def _add(choice: dict[str, Any], part: dict[str, Any]) -> None:
  """Adds a part of a choice to what has come before."""
  message = choice.setdefault("message", {"content": None})
  whole, delta = part.get("message"), part.get("delta")
  if isinstance(whole, dict):
    message.update(whole)
  for name, value in delta.items() if isinstance(delta, dict) else ():
    before = message.get(name)
    if isinstance(value, str) and isinstance(before, str) and name != "role":
      message[name] = before + value
    elif isinstance(value, list) and isinstance(before, list):
      message[name] = _joined(before, value)
    elif isinstance(value, list) and isinstance(before, str) and before:
      message[name] = [{"type": "text", "text": before}, *value]
    elif isinstance(value, str) and isinstance(before, list):
      message[name] = _joined(before, [{"type": "text", "text": value}] if value else [])
    elif value is not None:
      message[name] = value
  for name in ("finish_reason", "error", "usage"):
    if part.get(name) is not None:
      choice[name] = part[name]


def _joined(before: list[Any], more: list[Any]) -> list[Any]:
  """Content parts in order; texts that follow each other become one."""
  parts = list(before)
  for part in more:
    last = parts[-1] if parts else None
    if isinstance(last, dict) and isinstance(part, dict) and last.get("type") == part.get("type"):
      texts = last.get("text"), part.get("text")
      if isinstance(texts[0], str) and isinstance(texts[1], str):
        parts[-1] = {**last, "text": texts[0] + texts[1]}
        continue
    parts.append(part)
  return parts
