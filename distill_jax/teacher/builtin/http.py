"""The parts of HTTP/1.1 and of the chat completions API that the server needs."""

import asyncio
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

MAX_SAMPLES = 1024

REASONS = {
  200: "OK",
  400: "Bad Request",
  404: "Not Found",
  413: "Payload Too Large",
  429: "Too Many Requests",
}


@dataclasses.dataclass(frozen=True)
class CompletionRequest:
  """The parts of a chat completions request that matter.

  Attributes:
    messages: (role, content) pairs.
    n: Number of choices.
    temperature: Sampling temperature.
    seed: Number of the first sample; None if not given.
    schema: Name of the JSON schema that the reply must follow; "" for none.
  """

  messages: list[tuple[str, str]]
  n: int
  temperature: float
  seed: int | None
  schema: str


async def send(
  writer: asyncio.StreamWriter,
  status: int,
  body: Mapping[str, Any],
  headers: Mapping[str, str] | None = None,
) -> None:
  """Sends a response with a JSON body."""
  raw = json.dumps(body).encode()
  writer.write(head(status, len(raw), headers or {}) + raw)
  await writer.drain()


def head(status: int, length: int, headers: Mapping[str, str]) -> bytes:
  """The status line and headers of a response whose body has `length` bytes."""
  lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Error')}", "Content-Type: application/json"]
  lines += [f"Content-Length: {length}", *(f"{name}: {value}" for name, value in headers.items())]
  return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def error(message: str, code: str | None = None) -> dict[str, Any]:
  """The body of an error response."""
  return {"error": {"message": message, "type": code or "error", "code": code}}


def parse_completion(raw: bytes) -> CompletionRequest:
  """Parses the body of a chat completions request.

  Raises:
    ValueError, TypeError, KeyError, OverflowError, RecursionError: The body is invalid.
  """
  body = json.loads(raw)
  messages = [(message["role"], message["content"]) for message in body["messages"]]
  if not messages or not all(isinstance(part, str) for message in messages for part in message):
    raise ValueError("messages must be texts")
  n, seed = int(body.get("n") or 1), body.get("seed")
  if not 1 <= n <= MAX_SAMPLES:
    raise ValueError(f"n must be 1 to {MAX_SAMPLES}")
  response_format: dict[str, Any] = body.get("response_format") or {"type": "text"}
  has_schema = response_format["type"] == "json_schema"
  return CompletionRequest(
    messages=messages,
    n=n,
    temperature=float(1.0 if body.get("temperature") is None else body["temperature"]),
    seed=None if seed is None else int(seed),
    schema=response_format["json_schema"]["name"] if has_schema else "",
  )
