"""What servers do with a request, from which `vendors` makes those of real ones.

Each behavior is a function of a request (`virtual.Sent`) and a bill, which counts what the server
charges.
"""

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
from virtual import Sent

PRICE_IN, PRICE_OUT = 1e-6, 10e-6  # dollars per token, as in scripted.CLIENT_OPTIONS
TOKENS_OUT = 40  # of a reply


@dataclasses.dataclass
class Bill:
  """What a server charges, by its own count."""

  dollars: float = 0.0

  def add(self, tokens_in: int, tokens_out: int) -> None:
    self.dollars += tokens_in * PRICE_IN + tokens_out * PRICE_OUT


Behavior = Callable[[Sent, Bill], Awaitable[httpx2.Response]]


@dataclasses.dataclass(frozen=True)
class Vendor:
  """A behavior, and how a run of 4 requests with 2 samples each ends.

  Attributes:
    source: The documentation or report that it follows.
    behavior: Answers a request.
    kept: Replies that are kept.
    sent: Requests that are sent.
    stops: Whether the run stops with exit code 5.
    options: Of the client.
  """

  source: str
  behavior: Behavior
  kept: int = 8
  sent: int = 4
  stops: bool = False
  options: dict[str, Any] = dataclasses.field(default_factory=dict)


def prompt_tokens(sent: Sent) -> int:
  return sum(1 + len(message["content"]) // 2 for message in sent.body["messages"])


def reply(
  sent: Sent,
  bill: Bill,
  *,
  text: Any = "Seven.",
  finish: Any = "stop",
  usage: Callable[[int, int], Any] | None = None,
  hidden: int = 0,
  status: int = 200,
  choices: int = 0,
  body: dict[str, Any] | None = None,
  **message: Any,
) -> httpx2.Response:
  """A reply to each sample; bills the prompt, TOKENS_OUT for each sample, and hidden tokens."""
  count = choices or sent.body.get("n", 1)
  tokens_in, tokens_out = prompt_tokens(sent), count * TOKENS_OUT
  bill.add(tokens_in, tokens_out + count * hidden)
  report = usage or (lambda i, o: {"prompt_tokens": i, "completion_tokens": o})
  choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
  content = {"choices": [choice] * count, "usage": report(tokens_in, tokens_out), **(body or {})}
  return httpx2.Response(status, json=content)


def plain(**options: Any) -> Behavior:
  async def behavior(sent: Sent, bill: Bill) -> httpx2.Response:
    return reply(sent, bill, **options)

  return behavior


def error(
  status: int, message: str, headers: dict[str, str] | None = None, **fields: Any
) -> httpx2.Response:
  return httpx2.Response(
    status, json={"error": {"message": message, **fields}}, headers=headers or {}
  )


def first(response: Any, count: int = 1, billed: bool = False) -> Behavior:
  """The first `count` requests get `response` (or raise it), the others a reply."""

  async def behavior(sent: Sent, bill: Bill) -> httpx2.Response:
    if sent.number >= count:
      return reply(sent, bill)
    if billed:
      reply(sent, bill)
    if isinstance(response, Exception):
      raise response
    return response

  return behavior


def after(count: int, response: httpx2.Response) -> Behavior:
  """The first `count` requests get a reply, the others `response`."""

  async def behavior(sent: Sent, bill: Bill) -> httpx2.Response:
    return reply(sent, bill) if sent.number < count else response

  return behavior


def spoils(last: dict[str, Any], *, every: bool = False) -> Behavior:
  """The last of several choices, or `every` choice of one question, is `last`."""

  async def behavior(sent: Sent, bill: Bill) -> httpx2.Response:
    whole = reply(sent, bill)
    body = json.loads(whole.content)
    if every and sent.body["messages"][-1]["content"] == "q0":
      body["choices"] = [last] * len(body["choices"])
    elif not every and len(body["choices"]) > 1:
      body["choices"][-1] = last
    return httpx2.Response(200, json=body)

  return behavior


def usage_in_choices() -> Behavior:
  """A stream in which each choice ends with its own usage."""

  async def behavior(sent: Sent, bill: Bill) -> httpx2.Response:
    count, tokens_in = sent.body.get("n", 1), prompt_tokens(sent)
    bill.add(tokens_in, count * TOKENS_OUT)
    usage = {"prompt_tokens": tokens_in, "completion_tokens": TOKENS_OUT}
    chunks = [
      {"index": k, "delta": {"content": "Seven."}, "finish_reason": "stop", "usage": usage}
      for k in range(count)
    ]
    lines = [f"data: {json.dumps({'choices': [chunk]})}\n\n" for chunk in chunks]
    text = "".join([*lines, "data: [DONE]\n\n"])
    return httpx2.Response(200, text=text, headers={"content-type": "text/event-stream"})

  return behavior


def refusing(source: str, response: httpx2.Response, replies: int = 2) -> Vendor:
  """A server that answers `replies` requests and refuses all later ones, which stops the run.

  Two requests are in flight at once, so two are refused.
  """
  return Vendor(source, after(replies, response), 2 * replies, replies + 2, stops=True)


def refuses(applies: Callable[[dict[str, Any]], bool], response: httpx2.Response) -> Behavior:
  async def behavior(sent: Sent, bill: Bill) -> httpx2.Response:
    return response if applies(sent.body) else reply(sent, bill)

  return behavior


def refuses_parameters(*names: str) -> Behavior:
  """Refuses requests with any of these fields, and names all that it has found."""

  async def behavior(sent: Sent, bill: Bill) -> httpx2.Response:
    found = [name for name in names if name in sent.body]
    if not found:
      return reply(sent, bill)
    message = f"litellm.UnsupportedParamsError: anthropic does not support parameters: {found}"
    return error(400, f"{message}, for model=m. To drop these, set `litellm.drop_params=True`")

  return behavior


def sleeps(seconds: float, count: int = 10**9) -> Behavior:
  """The first `count` requests are billed and answered late."""

  async def behavior(sent: Sent, bill: Bill) -> httpx2.Response:
    made = reply(sent, bill)
    await asyncio.sleep(seconds if sent.number < count else 0.1)
    return made

  return behavior


def cut(length: int, count: int = 1) -> Behavior:
  """The first `count` bodies end after `length` bytes."""

  async def behavior(sent: Sent, bill: Bill) -> httpx2.Response:
    made = reply(sent, bill)
    return httpx2.Response(200, content=made.content[:length]) if sent.number < count else made

  return behavior


def streams(
  *, usage: bool = True, before: str = "", only: bool = False, ends: int = 10**9
) -> Behavior:
  """Streams every reply; with `only`, refuses requests that do not ask for it.

  The end of a sample is sent for the first `ends` samples of a request.
  """

  async def behavior(sent: Sent, bill: Bill) -> httpx2.Response:
    if only and not sent.body.get("stream"):
      return error(400, "This model only support stream mode, please enable the stream parameter.")
    count = sent.body.get("n", 1)
    made = json.loads(reply(sent, bill).content)
    chunks = [
      {"choices": [{"index": k, "delta": {"content": part}, "finish_reason": end}]}
      for part, end in (("Sev", None), ("en.", None), ("", "stop"))
      for k in range(count if end is None else min(count, ends))
    ]
    chunks += [{"choices": [], "usage": made["usage"]}] if usage else []
    text = before + "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return httpx2.Response(
      200, text=f"{text}data: [DONE]\n\n", headers={"content-type": "text/event-stream"}
    )

  return behavior


def at_once(most: int, response: httpx2.Response) -> Behavior:
  """Refuses more than `most` requests at once."""

  async def behavior(sent: Sent, bill: Bill) -> httpx2.Response:
    if sent.in_flight > most:
      return response
    await asyncio.sleep(0.2)
    return reply(sent, bill)

  return behavior


def blanks_before_the_body() -> Behavior:
  class Stream(httpx2.AsyncByteStream):
    def __init__(self, content: bytes):
      self.content = content

    async def __aiter__(self):
      for _ in range(20):
        await asyncio.sleep(1.0)
        yield b"\n"
      yield self.content

  async def behavior(sent: Sent, bill: Bill) -> httpx2.Response:
    return httpx2.Response(200, stream=Stream(reply(sent, bill).content))

  return behavior


def several(body: dict[str, Any]) -> bool:
  return body.get("n", 1) > 1


def has(name: str) -> Callable[[dict[str, Any]], bool]:
  return lambda body: name in body


def has_system(body: dict[str, Any]) -> bool:
  return any(message["role"] == "system" for message in body["messages"])


def unsupported(name: str, **fields: Any) -> httpx2.Response:
  message = f"Unsupported parameter: '{name}' is not supported with this model."
  return error(400, message, param=name, code="unsupported_parameter", **fields)
