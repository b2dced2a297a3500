"""Assembles a streamed response (server-sent events) into the body of an ordinary one."""

import json
from collections.abc import Iterator
from typing import Any

_STARTS = (b"data:", b"event:", b":", b"id:", b"retry:")


def is_stream(content_type: str, raw: bytes) -> bool:
  """Whether a body is a stream, whatever was asked for."""
  if content_type.startswith("text/event-stream"):
    return True
  return raw[:200].lstrip().startswith(_STARTS)


def assemble(raw: bytes) -> bytes:
  """The JSON of the ordinary response that a stream stands for.

  A choice that has no finish reason when the stream breaks off was aborted. An error amid the
  stream is the whole response.
  """
  body: dict[str, Any] = {}
  choices: dict[int, dict[str, Any]] = {}
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
        index = part.get("index")
        _add(choices.setdefault(index if type(index) is int else position, {}), part)
  if choices and not body.get("error"):
    for choice in choices.values():
      if choice.get("finish_reason") is None:
        choice["finish_reason"] = None if ended else "error"
    body["choices"] = [choices[index] for index in sorted(choices)]
  return json.dumps(body).encode()


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
