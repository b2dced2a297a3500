"""HTTP/1.1 as the server writes and reads it."""

import json

REASONS = {
  200: "OK",
  400: "Bad Request",
  404: "Not Found",
  413: "Payload Too Large",
  429: "Too Many Requests",
}


async def send(writer, status: int, body: dict, extra: dict | None = None) -> None:
  raw = json.dumps(body).encode()
  writer.write(head(status, len(raw), extra or {}) + raw)
  await writer.drain()


def head(status: int, length: int, extra: dict) -> bytes:
  lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Error')}", "Content-Type: application/json"]
  lines += [f"Content-Length: {length}", *(f"{name}: {value}" for name, value in extra.items())]
  return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def error(message: str, code: str | None = None) -> dict:
  return {"error": {"message": message, "type": code or "error", "code": code}}


def completion(raw: bytes) -> dict:
  """The parts of a completion request that matter. Raises ValueError, TypeError or KeyError."""
  body = json.loads(raw)
  messages = [(message["role"], message["content"]) for message in body["messages"]]
  if not messages or not all(isinstance(part, str) for message in messages for part in message):
    raise ValueError("messages are texts")
  n, seed = int(body.get("n") or 1), body.get("seed")
  if not 1 <= n <= 1024:
    raise ValueError("n is 1 to 1024")
  wanted = body.get("response_format") or {"type": "text"}
  temperature = float(1.0 if body.get("temperature") is None else body["temperature"])
  return {
    "messages": messages,
    "n": n,
    "temperature": temperature,
    "seed": None if seed is None else int(seed),
    # the name of the schema that the reply must keep to
    "schema": wanted["json_schema"]["name"] if wanted["type"] == "json_schema" else "",
  }
