"""Faults that the test server injects, as a script: `429:retry_after=1@0.05,500@0.1,cut@0.02`.

Each entry is KIND[:OPTION=VALUE]...@PROBABILITY. Kinds are the statuses from 400 to 599, and

cut           the body ends in the middle, then the connection closes
torn          a complete HTTP response whose JSON ends in the middle
html          a status page instead of JSON
empty_object  {}
no_choices    an empty list of choices
close         no response; the connection closes
hang          no response until the client disconnects
drip          the second half of the body arrives far too slowly
refusal, filter, length, empty   an invalid reply, in the protocol's own terms
fewer         one choice, however many were requested
spent         a complete reply
double        a complete reply in which `choices` appears twice

Options of a status: retry_after (seconds), retry_after_ms, retry_date (seconds from now, sent as a
date), code (of the error, such as insufficient_quota), say (the error's message). Options of a
status and of `spent`: reset_requests, reset_tokens (6m0s), remaining_requests, remaining_tokens,
request_id.
"""

import asyncio
import dataclasses
import email.utils
import json
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from distill_jax import errors
from distill_jax.teacher.builtin import http, teacher
from distill_jax.teacher.client import waits

KINDS = (
  *("cut", "torn", "html", "empty_object", "no_choices", "close", "hang", "drip", "refusal"),
  *("filter", "length", "empty", "fewer", "spent", "double"),
)
HEADERS = {
  "retry_after": "Retry-After",
  "retry_after_ms": "Retry-After-Ms",
  "reset_requests": "X-RateLimit-Reset-Requests",
  "reset_tokens": "X-RateLimit-Reset-Tokens",
  "remaining_requests": "X-RateLimit-Remaining-Requests",
  "remaining_tokens": "X-RateLimit-Remaining-Tokens",
  "request_id": "X-Request-Id",
}
WAITS = ("retry_after", "retry_after_ms", "reset_requests", "reset_tokens")
OPTIONS = (*HEADERS, "retry_date", "code", "say")

HANG = 3600.0  # seconds
DRIP = 0.2  # seconds per byte


@dataclasses.dataclass(frozen=True)
class Fault:
  """A fault. `kind` is one of KINDS or a status."""

  kind: str
  options: tuple[tuple[str, str], ...] = ()


class FaultSource(Protocol):
  """Decides which request meets which fault."""

  def pick(self, number: int) -> Fault | None:
    """The fault of request `number` (from 0); None for none."""
    ...


class Script:
  """Faults drawn at random, as a function of the seed and the number of the request."""

  def __init__(self, script: str, seed: int):
    """Parses a script. Raises errors.UserError if it is invalid."""
    self._seed = seed
    entries = [entry.strip() for entry in script.split(",")]
    self._shares = [_parse_entry(entry) for entry in entries if entry]
    if sum(share for _, share in self._shares) > 1:
      raise _invalid(script, "probabilities that sum to 1 at most")

  def pick(self, number: int) -> Fault | None:
    """The fault of request `number` (from 0); None for none."""
    drawn = teacher.chance(f"fault {self._seed} {number}")
    for fault, share in self._shares:
      drawn -= share
      if drawn < 0:
        return fault
    return None


class Sequence:
  """Faults by the number of the request: "" for none, and none after the end of the list."""

  def __init__(self, entries: Iterable[str]):
    self._faults = [parse(entry) if entry else None for entry in entries]

  def pick(self, number: int) -> Fault | None:
    """The fault of request `number` (from 0); None for none."""
    return self._faults[number] if number < len(self._faults) else None


def parse(text: str) -> Fault:
  """Parses `KIND[:OPTION=VALUE]...`. Raises errors.UserError if it is invalid."""
  kind, *entries = text.split(":")
  is_status = kind.isascii() and kind.isdecimal() and len(kind) == 3 and kind[0] in "45"
  if kind not in KINDS and not is_status:
    raise _invalid(text, f"a status from 400 to 599, or {', '.join(KINDS)}")
  options = tuple((name, value) for name, _, value in (entry.partition("=") for entry in entries))
  if any(name not in OPTIONS for name, _ in options):
    raise _invalid(text, f"options {', '.join(OPTIONS)}")
  for name, value in options:
    bad_date = name == "retry_date" and not value.replace(".", "", 1).isdecimal()
    if bad_date or (name in WAITS and waits.parse_wait(value, 0.0) is None):
      raise _invalid(text, f"a number for {name}")
  return Fault(kind, options)


def _parse_entry(entry: str) -> tuple[Fault, float]:
  fault, at, share = entry.rpartition("@")
  if not at or not share.replace(".", "", 1).isdecimal() or float(share) > 1:
    raise _invalid(entry, "KIND@PROBABILITY, such as 500@0.1")
  return parse(fault), float(share)


def _invalid(value: str, allowed: str) -> errors.UserError:
  return errors.usage(f"the script of faults is {value!r}, but must be {allowed}")


def _set_choices(reply: dict[str, Any], *, finish: str = "stop", **message: Any) -> None:
  for choice in reply["choices"]:
    choice["finish_reason"] = finish
    choice["message"] |= message


def _refuse(reply: dict[str, Any]) -> None:
  _set_choices(reply, content=None, refusal="I cannot help with that.")


def _filter(reply: dict[str, Any]) -> None:
  _set_choices(reply, finish="content_filter", content="")


def _truncate(reply: dict[str, Any]) -> None:
  _set_choices(reply, finish="length")


def _empty(reply: dict[str, Any]) -> None:
  _set_choices(reply, content="")


def _keep_one(reply: dict[str, Any]) -> None:
  del reply["choices"][1:]


def _keep(reply: dict[str, Any]) -> None:
  del reply


# Faults that change a reply in place. The response is complete and billed.
REPLY_FAULTS: dict[str, Callable[[dict[str, Any]], None]] = {
  "refusal": _refuse,
  "filter": _filter,
  "length": _truncate,
  "empty": _empty,
  "fewer": _keep_one,
  "spent": _keep,
}


def headers(fault: Fault) -> dict[str, str]:
  """The response headers that a fault's options ask for."""
  return {HEADERS[name]: value for name, value in fault.options if name in HEADERS}


async def respond(writer: asyncio.StreamWriter, fault: Fault, reply: Callable[[], Any]) -> bool:
  """Responds as a fault demands.

  Args:
    writer: The connection.
    fault: The fault; not one of REPLY_FAULTS.
    reply: Makes the JSON object that would have been sent.

  Returns:
    Whether the connection stays open.
  """
  if fault.kind.isdecimal():
    await _send_status(writer, fault)
    return True
  if fault.kind == "close":
    return False
  if fault.kind == "hang":
    await asyncio.sleep(HANG)
    return False
  body = _body(fault.kind, reply)
  sent = body[: len(body) // 2] if fault.kind in ("cut", "drip") else body
  writer.write(http.head(200, len(body), {}) + sent)
  await writer.drain()
  if fault.kind == "drip":
    for position in range(len(sent), len(body)):
      await asyncio.sleep(DRIP)
      writer.write(body[position : position + 1])
      await writer.drain()
  return fault.kind != "cut"


async def _send_status(writer: asyncio.StreamWriter, fault: Fault) -> None:
  options, response_headers = dict(fault.options), headers(fault)
  if "retry_date" in options:
    date = time.time() + float(options["retry_date"])
    response_headers["Retry-After"] = email.utils.formatdate(date, usegmt=True)
  body = http.error(options.get("say", "an injected fault"), options.get("code"))
  await http.send(writer, int(fault.kind), body, response_headers)


def _body(kind: str, reply: Callable[[], Any]) -> bytes:
  """The body of a malformed response, before it is cut off."""
  if kind == "html":
    return b"<!doctype html><title>Bad gateway</title>"
  if kind == "empty_object":
    return b"{}"
  if kind == "no_choices":
    return json.dumps(reply() | {"choices": []}).encode()
  body = json.dumps(reply()).encode()
  if kind == "double":
    return b'{"choices": [], ' + body[1:]
  if kind == "torn":
    return body[: len(body) // 2]
  return body
