"""What a server may do wrong, as a script: `429:retry_after=1@0.05,500@0.1,cut@0.02`.

KIND[:OPTION=VALUE]...@PROBABILITY, separated by commas. Kinds: any status from 400 to 599, and

cut       the body ends in the middle, then the connection closes
torn      a whole HTTP answer whose JSON ends in the middle
html      a status page instead of JSON             empty_object  {}
no_choices  an empty list of choices                close    no answer at all
hang      nothing, until the client leaves          drip     the body, far too slowly
refusal, filter, length, empty   a reply that is none, in the protocol's own words
fewer     one choice, however many were asked for
spent     a whole reply           double   a whole reply in which `choices` stands twice

Options of a status: retry_after (seconds), retry_after_ms, retry_date (seconds from now, sent as a
date), code (of the error, for example insufficient_quota), say (the error's message). Of a status
and of spent: reset_requests, reset_tokens (6m0s), remaining_requests, remaining_tokens, request_id.
"""

import asyncio
import dataclasses
import email.utils
import hashlib
import json
import time

from distill_jax import errors
from distill_jax.teacher.builtin import http
from distill_jax.teacher.client import verdicts

KINDS = (
  "cut", "torn", "html", "empty_object", "no_choices", "close", "hang", "drip", "refusal", "filter",
  "length", "empty", "fewer", "spent", "double",
)  # fmt: skip
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


@dataclasses.dataclass(frozen=True)
class Fault:
  kind: str  # one of KINDS, or a status
  options: tuple[tuple[str, str], ...] = ()


class Script:
  """Which fault the request with a given number (from 0) meets: a function of seed and number."""

  def __init__(self, script: str, seed: int):
    """Raises errors.UserError if the script cannot be read."""
    self._seed = seed
    self._shares = [_share(part.strip()) for part in script.split(",") if part.strip()]
    if sum(share for _, share in self._shares) > 1:
      raise _refusal(script, "probabilities that sum to 1 at most")

  def pick(self, number: int) -> Fault | None:
    drawn = chance(f"fault {self._seed} {number}")
    for fault, share in self._shares:
      drawn -= share
      if drawn < 0:
        return fault
    return None


class Sequence:
  """An explicit list: entry k for request k ("" for none), nothing after its end."""

  def __init__(self, faults):
    self._faults = [parse(entry) if entry else None for entry in faults]

  def pick(self, number: int) -> Fault | None:
    return self._faults[number] if number < len(self._faults) else None


def parse(text: str) -> Fault:
  """The fault in `KIND[:OPTION=VALUE]...`. Raises errors.UserError."""
  kind, *options = text.split(":")
  status = kind.isascii() and kind.isdecimal() and len(kind) == 3 and kind[0] in "45"
  if kind not in KINDS and not status:
    raise _refusal(text, f"a status from 400 to 599, or {', '.join(KINDS)}")
  pairs = tuple((name, value) for name, _, value in (option.partition("=") for option in options))
  if any(name not in OPTIONS for name, _ in pairs):
    raise _refusal(text, f"options {', '.join(OPTIONS)}")
  for name, value in pairs:
    date = name == "retry_date" and not value.replace(".", "", 1).isdecimal()
    if date or (name in WAITS and verdicts.parse_wait(value, 0.0) is None):
      raise _refusal(text, f"a number for {name}")
  return Fault(kind, pairs)


def chance(text: str) -> float:
  """A number in [0, 1) that the text decides."""
  digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
  return int.from_bytes(digest[:7], "big") / 2**56


def _share(part: str) -> tuple[Fault, float]:
  head, at, share = part.rpartition("@")
  if not at or not share.replace(".", "", 1).isdecimal() or float(share) > 1:
    raise _refusal(part, "KIND@PROBABILITY, such as 500@0.1")
  return parse(head), float(share)


def _refusal(value: str, allowed: str):
  do = "--config.teacher.builtin.faults=429:retry_after=1@0.05,500@0.1"
  return errors.config("teacher.builtin.faults", value, allowed, do)


def _set(**parts):
  """A change to every choice of a reply."""

  def change(reply: dict) -> None:
    for choice in reply["choices"]:
      choice["finish_reason"] = parts.get("finish", "stop")
      choice["message"]["content"] = parts.get("content", choice["message"]["content"])
      if "refusal" in parts:
        choice["message"]["refusal"] = parts["refusal"]

  return change


def _fewer(reply: dict) -> None:
  del reply["choices"][1:]


SHAPES = {
  "refusal": _set(content=None, refusal="I cannot help with that."),
  "filter": _set(content="", finish="content_filter"),
  "length": _set(finish="length"),
  "empty": _set(content=""),
  "fewer": _fewer,
  "spent": lambda reply: None,
}


def headers(fault: Fault) -> dict[str, str]:
  """What the answer says in its head."""
  return {HEADERS[name]: value for name, value in fault.options if name in HEADERS}


async def commit(writer, fault, reply) -> bool:
  """Answers as the fault says; whether the connection stays open."""
  if fault.kind.isdecimal():
    options = dict(fault.options)
    extra = headers(fault)
    if "retry_date" in options:
      when = time.time() + float(options["retry_date"])
      extra["Retry-After"] = email.utils.formatdate(when, usegmt=True)
    body = http.error(options.get("say", "an injected fault"), options.get("code"))
    await http.send(writer, int(fault.kind), body, extra)
    return True
  if fault.kind == "close":
    return False
  if fault.kind == "hang":
    await asyncio.sleep(3600)
    return False
  bodies = {"html": b"<!doctype html><title>Bad gateway</title>", "empty_object": b"{}"}
  whole = (
    bodies.get(fault.kind)
    or json.dumps(reply() | ({"choices": []} if fault.kind == "no_choices" else {})).encode()
  )
  if fault.kind == "double":
    whole = b'{"choices": [], ' + whole[1:]
  if fault.kind == "torn":
    whole = whole[: len(whole) // 2]
  sent = whole[: len(whole) // 2] if fault.kind in ("cut", "drip") else whole
  writer.write(http.head(200, len(whole), {}) + sent)
  await writer.drain()
  if fault.kind == "drip":
    for position in range(len(sent), len(whole)):
      await asyncio.sleep(0.2)
      writer.write(whole[position : position + 1])
      await writer.drain()
  return fault.kind != "cut"
