"""The parts of OpenAI's API that the server answers: models, completions, chat completions."""

import asyncio
import concurrent.futures
import dataclasses
import functools
import json
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, TypeGuard

from distill_jax.serving import engine, scoring
from distill_jax.serving.engine import BadRequest, Reply

CHOICES = 128  # the most choices of a request
PROMPTS = 256  # the most prompts of a request
STOPS, TOP = 16, 20  # the most stop texts; the most alternatives of a token
Body = dict[str, Any]
SHARED = frozenset((
  *("model", "n", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "seed"),
  *("stream", "stream_options", "user"),
))  # fmt: skip
COMPLETION = SHARED | {"prompt", "echo", "logprobs"}
CHAT = SHARED | {"messages"}
# The only values of other fields that are accepted: they ask for what the server does anyway.
NEUTRAL: Body = {
  "presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}, "best_of": 1, "suffix": "",
  "response_format": {"type": "text"}, "tools": [], "tool_choice": "none", "logprobs": False,
  "top_logprobs": 0,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Common:
  """The fields that completions and chat completions share."""

  sampling: engine.Sampling
  n: int
  max_tokens: int
  seed: int | None
  stream: bool


class Api:
  """Answers requests with a student.

  Attributes:
    model: Its name.
  """

  def __init__(self, served: engine.Engine, model: str):
    self._engine, self.model = served, model
    self._created = int(time.time())

  def models(self) -> Body:
    """Returns the list of models."""
    entry = {
      "id": self.model,
      "object": "model",
      "created": self._created,
      "owned_by": "distill_jax",
    }
    return {"object": "list", "data": [entry]}

  async def completions(self, body: Body) -> Body | AsyncIterator[Body]:
    """Answers /v1/completions; with `stream`, as an iterator of chunks."""
    _check_fields(body, COMPLETION)
    prompts, common = self._prompts(body), self._common(body, default=16)
    wanted = _integer(body, "logprobs", None, 0, TOP)
    echo = _flag(body, "echo")
    head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion",
            "created": int(time.time()), "model": self.model}  # fmt: skip
    asked = [functools.partial(self._complete, ids, common) for ids in prompts]
    if echo and wanted is not None:
      asked.append(functools.partial(self._engine.score, prompts, max(wanted, 1)))
    results = await _all(asked)
    replies, scored = results[: len(prompts)], results[-1]
    choices = []
    for number, (ids, of_prompt) in enumerate(zip(prompts, replies, strict=True)):
      after = [None] * len(of_prompt)
      if wanted and not echo and self._engine.served.student.decoder_start is None:
        after = await self._alternatives(ids, of_prompt, wanted)
      for reply, more in zip(of_prompt, after, strict=True):
        text = (self._decode(ids) if echo else "") + reply.text
        logprobs = None
        if wanted is not None:
          before = (ids, scored[number]) if echo else None
          logprobs = self._logprobs(before, reply, wanted, more)
        choices.append({"index": len(choices), "text": text, "logprobs": logprobs,
                        "finish_reason": reply.finish})  # fmt: skip
    usage = _usage(replies)
    if common.stream:
      return _chunks(head, choices, usage, body)
    return {**head, "choices": choices, "usage": usage}

  def _complete(self, ids: Sequence[int], common: Common) -> concurrent.futures.Future[Any]:
    if common.max_tokens == 0:
      done: concurrent.futures.Future[Any] = concurrent.futures.Future()
      done.set_result([Reply("", "length", len(ids), 0)] * common.n)
      return done
    return self._engine.complete(
      ids, common.sampling, n=common.n, max_tokens=common.max_tokens, seed=common.seed
    )

  async def _alternatives(
    self, ids: Sequence[int], replies: Sequence[Reply], wanted: int
  ) -> list[scoring.Scores]:
    """Returns the alternatives of the tokens that each reply has written."""
    texts = [[*ids, *reply.ids] for reply in replies]
    scores = await asyncio.wrap_future(self._engine.score(texts, wanted))
    start = len(ids) - 1
    return [scoring.Scores(*(part[start:] for part in found)) for found in scores]

  async def chat(self, body: Body) -> Body | AsyncIterator[Body]:
    """Answers /v1/chat/completions; with `stream`, as an iterator of chunks."""
    if body.get("logprobs"):
      raise BadRequest("logprobs of a chat are not supported: use /v1/completions")
    _check_fields(body, CHAT)
    common = self._common(body, default=self._engine.served.limit, least=1)
    messages = _messages(body)
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": self.model}
    replies = await asyncio.wrap_future(
      self._engine.chat(
        messages, common.sampling, n=common.n, max_tokens=common.max_tokens, seed=common.seed
      )
    )
    usage = _usage([replies])
    if common.stream:
      head["object"] = "chat.completion.chunk"
      deltas = [
        {"index": k, "delta": {"role": "assistant", "content": r.text}, "finish_reason": r.finish}
        for k, r in enumerate(replies)
      ]
      return _chunks(head, deltas, usage, body)
    head["object"] = "chat.completion"
    choices = [
      {"index": k, "message": {"role": "assistant", "content": r.text}, "finish_reason": r.finish}
      for k, r in enumerate(replies)
    ]
    return {**head, "choices": choices, "usage": usage}

  def _common(self, body: Body, *, default: int, least: int = 0) -> Common:
    if body.get("model", self.model) != self.model:
      raise BadRequest(f"no model {str(body['model'])[:80]!r}; this server has {self.model!r}")
    tokens = (
      "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    )
    limit = self._engine.served.limit
    max_tokens = _integer(body, tokens, default, least, 10**9)
    stop = body.get("stop") or []
    stop = [stop] if isinstance(stop, str) else stop
    if (not isinstance(stop, list) or len(stop) > STOPS
        or not all(isinstance(text, str) and text for text in stop)):  # fmt: skip
      raise BadRequest(f"stop must be a text or up to {STOPS} texts")
    seed = _integer(body, "seed", None, -(2**63), 2**64)
    sampling = engine.Sampling(
      temperature=_number(body, "temperature", 1.0, 0.0, 100.0),
      top_p=_number(body, "top_p", 1.0, 1e-6, 1.0),
      stop=tuple(stop),
    )
    n = _integer(body, "n", 1, 1, CHOICES)
    return Common(sampling, n, min(max_tokens, limit), seed, _flag(body, "stream"))

  def _prompts(self, body: Body) -> list[list[int]]:
    """Returns the prompts of a request as tokens: of a text, several, tokens, or lists of them."""
    given = body.get("prompt")
    several = [given] if isinstance(given, str) or _is_tokens(given) else given
    if not isinstance(several, list) or not 0 < len(several) <= PROMPTS:
      raise BadRequest(
        f"prompt must be a text, a list of tokens, or a list of 1 to {PROMPTS} of them"
      )
    student, prompts = self._engine.served.student, []
    for prompt in several:
      if isinstance(prompt, str):
        prompts.append(student.encode_prompt(prompt))
      elif _is_tokens(prompt) and all(0 <= token < student.config.vocab for token in prompt):
        prompts.append(prompt)
      else:
        raise BadRequest(f"a prompt must be a text or tokens from 0 to {student.config.vocab - 1}")
    return prompts

  def _decode(self, ids: Sequence[int]) -> str:
    return self._engine.served.student.tokenizer.decode(ids)

  def _logprobs(
    self,
    before: tuple[Sequence[int], scoring.Scores] | None,
    reply: Reply,
    wanted: int,
    after: scoring.Scores | None,
  ) -> Body:
    """Returns tokens, log-probabilities and alternatives, of the prompt first if it is echoed."""
    tokens, values, tops = [], [], []
    if before:
      ids, scores = before
      tokens = [self._decode([token]) for token in ids]
      values = [None, *map(float, scores.logprobs)]
      tops = [None, *self._tops(scores)]
    own = [self._decode([token]) for token in reply.ids]
    alternatives = self._tops(after) if after else [{} for _ in own]
    for token, value, found in zip(own, reply.logprobs, alternatives, strict=True):
      tokens.append(token)
      values.append(value)
      tops.append({token: value} | found if wanted else {token: value})
    offsets, position = [], 0
    for token in tokens:
      offsets.append(position)
      position += len(token)
    return {
      "tokens": tokens,
      "token_logprobs": values,
      "top_logprobs": tops,
      "text_offset": offsets,
    }

  def _tops(self, scores: scoring.Scores) -> list[dict[str, float]]:
    """Returns {token: log-probability} of the most likely tokens; of equal texts the likeliest."""
    found = []
    for ids, values in zip(scores.top_ids, scores.top_logprobs, strict=True):
      at: dict[str, float] = {}
      for token, value in zip(ids, values, strict=True):
        at.setdefault(self._decode([int(token)]), float(value))
      found.append(at)
    return found


async def _all(asked: Sequence[Callable[[], concurrent.futures.Future[Any]]]) -> list[Any]:
  """Returns the results of all requests; if one fails or the client leaves, all are canceled."""
  futures: list[concurrent.futures.Future[Any]] = []
  try:
    for ask in asked:
      futures.append(ask())
    return await asyncio.gather(*map(asyncio.wrap_future, futures))
  finally:
    for future in futures:
      future.cancel()


async def _chunks(
  head: Body, choices: Sequence[Body], usage: Body, body: Body
) -> AsyncIterator[Body]:
  """Yields a chunk per choice, and the usage if `stream_options` asks for it."""
  for choice in choices:
    yield {**head, "choices": [choice]}
  options = body.get("stream_options")
  if isinstance(options, dict) and options.get("include_usage"):
    yield {**head, "choices": [], "usage": usage}


def _usage(replies: Sequence[Sequence[Reply]]) -> Body:
  read = sum(of_prompt[0].prompt_tokens for of_prompt in replies)
  written = sum(reply.tokens for of_prompt in replies for reply in of_prompt)
  return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _is_tokens(value: Any) -> TypeGuard[list[int]]:
  return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


def _messages(body: Body) -> tuple[tuple[str, str], ...]:
  """Returns (role, text) of the messages; texts in parts are joined."""
  given = body.get("messages")
  if not isinstance(given, list) or not given:
    raise BadRequest("messages must be a list of at least one message")
  messages = []
  for message in given:
    if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant"):
      raise BadRequest("a message must have a role: system, user or assistant")
    content = message.get("content")
    if isinstance(content, list):
      parts = [part["text"] for part in content if isinstance(part, dict) and "text" in part]
      texts = [text for text in parts if isinstance(text, str)]
      content = "\n".join(texts) if len(texts) == len(content) else None
    if not isinstance(content, str):
      raise BadRequest("the content of a message must be text")
    messages.append((message["role"], content))
  return tuple(messages)


def _check_fields(body: Body, known: frozenset[str]) -> None:
  """Raises BadRequest, with its name, for a field that would be ignored."""
  for name, value in body.items():
    if name in known or value is None or (name in NEUTRAL and value == NEUTRAL[name]):
      continue
    only = f"; only {json.dumps(NEUTRAL[name])} is accepted" if name in NEUTRAL else ""
    raise BadRequest(f"{name[:80]} is not supported{only}: leave it out")


def _flag(body: Body, name: str) -> bool:
  value = body.get(name)
  if value is not None and not isinstance(value, bool):
    raise BadRequest(f"{name} must be true or false")
  return bool(value)


def _number(body: Body, name: str, default: float, low: float, high: float) -> float:
  value = body.get(name)
  if value is None:
    return default
  if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
    raise BadRequest(f"{name} must be a number from {low:g} to {high:g}")
  return float(value)


def _integer(body: Body, name: str, default: Any, low: int, high: int) -> Any:
  value = body.get(name)
  if value is None:
    return default
  if type(value) is not int or not low <= value <= high:
    raise BadRequest(f"{name} must be an integer from {low} to {high}")
  return value


def parse(raw: bytes) -> Body:
  """Parses the body of a request. Raises BadRequest if it is no JSON object."""
  try:
    body = json.loads(raw)
  except (ValueError, RecursionError):
    raise BadRequest("the body is not JSON") from None
  if not isinstance(body, Mapping):
    raise BadRequest("the body is not a JSON object")
  return dict(body)
