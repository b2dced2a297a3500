"""Sends one HTTP request and classifies the response. Follows no redirect and retries nothing."""

import asyncio
import dataclasses
import functools
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp
import httpx2

from distill_jax.teacher import types
from distill_jax.teacher.client import (
  error_bodies,
  patience,
  refusals,
  sessions,
  streams,
  verdicts,
  waits,
)

_USER = re.compile(r"//[^/\s]*@")  # user name and password in an address
MAX_BODY_BYTES = 64 * 2**20  # of a response
NEVER_LEFT = (  # errors before a request is sent
  *(aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, aiohttp.ConnectionTimeoutError),
  *(aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError),
)
ENCODED_BYTES = 2**14  # that are decoded at a time
SPARE_CONNECTIONS = 8  # beyond those for the requests in flight


@dataclasses.dataclass(frozen=True)
class Response:
  """The outcome of one request.

  Attributes:
    verdict: What the response means.
    status: HTTP status; 0 if there was no response.
    request_id: The server's name for the request; "" if unknown.
    reset: Seconds until a rate limit that this request has exhausted is available again.
    timed_out: Whether the request was abandoned because the response took too long.
  """

  verdict: verdicts.Verdict
  status: int = 0
  request_id: str = ""
  reset: float = 0.0
  timed_out: bool = False

  @property
  def note(self) -> str:
    """The server's name for the request, as a note that users can pass on to its operator."""
    return f" (request {self.request_id})" if self.request_id else ""

  def failure(self, kind: str, message: str, attempts: int, **cost: Any) -> types.Failure:
    """The failure of a sample of this request; `cost` are its tokens and dollars."""
    return types.Failure(
      kind, message, attempts, status=self.status, request_id=self.request_id, **cost
    )


class Transport:
  """A connection pool to one server; an async context manager that lives in one event loop."""

  def __init__(
    self,
    base_url: str,
    key: str,
    *,
    waits: patience.Patience,
    connect_timeout: float,
    local: bool,
    connections: int,
    redact: Callable[[str], str],
    headers: Mapping[str, str] | None = None,
  ):
    """Creates a transport, which opens its connections when requests are sent.

    Args:
      base_url: Parent of /chat/completions.
      key: API key; "" for none.
      waits: How long requests wait for their responses.
      connect_timeout: Seconds in which a connection has to be made.
      local: The server is on this machine: proxies are ignored.
      connections: Maximum concurrent requests.
      redact: Removes the key from a text; applied before anything the server sent is used.
      headers: Sent with every request; they take precedence over the key's.
    """
    self._address = base_url.rstrip("/") + "/chat/completions"
    self._headers = {"Content-Type": "application/json"}
    if key:
      self._headers["Authorization"] = f"Bearer {key}"
    for name, value in (headers or {}).items():
      own = next((known for known in self._headers if known.lower() == name.lower()), name)
      self._headers[own] = value
    self._waits, self._redact = waits, redact
    self._open = functools.partial(
      sessions.open_session,
      self._address,
      local=local,
      connections=connections + SPARE_CONNECTIONS,
      connect_timeout=connect_timeout,
    )

  async def __aenter__(self) -> Self:
    self._session = self._open()
    return self

  async def __aexit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    await self._session.close()

  async def send(self, body: dict[str, Any], model: str, idempotency_key: str) -> Response:
    """Sends one chat completions request.

    Args:
      body: The request body.
      model: Model name to record if the response has none.
      idempotency_key: Value of the Idempotency-Key header.
    """
    content = json.dumps(body).encode()
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
      async with self._waits.wait() as wait:
        async with self._session.post(
          self._address,
          data=content,
          # Not a local variable: a traceback may show the locals, and these hold the key.
          headers=self._headers | {"Idempotency-Key": idempotency_key},
          allow_redirects=False,  # which could send questions anywhere
        ) as response:
          raw = await self._read_body(response, wait)
        if 200 <= response.status < 300:
          self._waits.on_response()
    except NEVER_LEFT as error:
      if isinstance(error, aiohttp.ClientHttpProxyError) and error.status == 407:
        advice = "the proxy refuses its user name or password; check HTTPS_PROXY and NO_PROXY"
        return Response(verdicts.Abort(describe_error(error, self._redact), advice))
      return Response(verdicts.Retry(describe_error(error, self._redact)))
    except TimeoutError:
      reason = f"no response within {loop.time() - began:.3g} s"
      return Response(verdicts.Retry(reason, may_bill=True), timed_out=True)
    except (aiohttp.ClientError, httpx2.DecodingError, OSError) as error:
      return Response(verdicts.Retry(describe_error(error, self._redact), may_bill=True))
    response_headers = redact_headers(_joined(response.headers), self._redact)
    if raw is not None:
      raw = redact_bytes(raw, self._redact)
    return _classify(response.status, response_headers, raw, {"model": model, **body})

  async def _read_body(self, response: aiohttp.ClientResponse, wait: patience.Wait) -> bytes | None:
    """The body; None if it is longer than MAX_BODY_BYTES."""
    parts, size = [], 0
    streamed = response.headers.get("content-type", "").startswith("text/event-stream")
    async for part in _decoded(response):
      if streamed or not part.strip():  # blanks keep a connection open while the model thinks
        self._waits.on_alive(wait)
      else:
        self._waits.on_body(wait)
      parts.append(part)
      size += len(part)
      if size > MAX_BODY_BYTES:
        return None
    return b"".join(parts)


class _Encoded(httpx2.AsyncByteStream):
  """A body as it comes over the network."""

  def __init__(self, response: aiohttp.ClientResponse):
    self._content = response.content

  async def __aiter__(self) -> AsyncIterator[bytes]:
    async for part in self._content.iter_chunked(ENCODED_BYTES):
      yield part


async def _decoded(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
  """Yields the decoded parts of a body. What cannot be decoded is dropped from an error's body."""
  encoding = response.headers.get("content-encoding")
  if encoding is None:
    async for part in response.content.iter_any():
      yield part
    return
  encoded = httpx2.Response(
    response.status, headers={"content-encoding": encoding}, stream=_Encoded(response)
  )
  try:
    async for part in encoded.aiter_bytes():
      yield part
  except httpx2.DecodingError:
    if response.status == 200:
      raise


def redact_headers(headers: Mapping[str, str], redact: Callable[[str], str]) -> dict[str, str]:
  """Response headers with lower-case names and redacted values."""
  return {name.lower(): redact(value) for name, value in headers.items()}


def redact_bytes(raw: bytes, redact: Callable[[str], str]) -> bytes:
  """A redacted response body; all other bytes stay the same."""
  return redact(raw.decode("latin-1")).encode("latin-1")


def _classify(
  status: int, headers: dict[str, str], raw: bytes | None, sent: Mapping[str, Any]
) -> Response:
  """Classifies a response to the body `sent`; `raw` is None if the response is too long."""
  now = time.time()
  request_id = verdicts.request_id(headers)
  if raw is None:
    reason = f"the body is longer than {MAX_BODY_BYTES} bytes"
    verdict = verdicts.Retry(reason, may_bill=200 <= status < 300)
    return Response(verdict, status, request_id)
  if streams.is_stream(headers.get("content-type", ""), raw):
    raw = streams.assemble(raw, sent.get("n", 1))
  if 200 <= status < 300:
    if (refused := _refused_inside(raw, sent)) is not None:
      return Response(refused, status, request_id)
    verdict = verdicts.parse_body(raw, str(sent.get("model", "")), headers)
    if not request_id and isinstance(verdict, verdicts.Completed):
      request_id = verdict.id
    return Response(verdict, status, request_id, waits.exhausted_reset(headers, now))
  try:
    body = json.loads(raw)
  except (ValueError, RecursionError):
    body = raw.decode("utf-8", "replace")
  if (refused := _unsupported(status, body, sent)) is not None:
    return Response(refused, status, request_id)
  return Response(verdicts.classify_status(status, headers, body, now), status, request_id)


def _unsupported(status: int, body: Any, sent: Mapping[str, Any]) -> verdicts.Unsupported | None:
  """The feature that an error refuses; None if it is about something else."""
  refused = refusals.feature(status, body, sent)
  if refused is None:
    return None
  reason = f"HTTP {status}: {verdicts.excerpt(error_bodies.text_of(body))}"
  return verdicts.Unsupported(*refused, reason)


def _refused_inside(raw: bytes, sent: Mapping[str, Any]) -> verdicts.Unsupported | None:
  """The feature that an error in the body of a success refuses."""
  if b"error" not in raw:
    return None
  try:
    body = json.loads(raw)
  except (ValueError, RecursionError):
    return None
  error = refusals.embedded(body) if isinstance(body, dict) else None
  return _unsupported(error.status, error.body, sent) if error else None


def describe_error(error: Exception, redact: Callable[[str], str]) -> str:
  """Describes a network error on one line, without the user and password of a proxy's address."""
  cause = error if isinstance(error, aiohttp.ClientError) else error.__cause__ or error
  text = str(cause)
  if isinstance(cause, aiohttp.ClientResponseError):
    text = f"{cause.status} {cause.message}"
  elif isinstance(cause, aiohttp.ClientConnectorError) and cause.os_error.strerror:
    text = f"{cause.host}:{cause.port}: {cause.os_error.strerror}"
  elif isinstance(cause, aiohttp.InvalidURL | httpx2.InvalidURL):
    text = "the address is malformed"
  return f"{type(cause).__name__}: {verdicts.excerpt(redact(_USER.sub('//', text)))}"


def _joined(headers: Mapping[str, str]) -> dict[str, str]:
  """Headers of aiohttp's, which may repeat a name: joined by commas, in UTF-8 or Latin-1."""
  joined: dict[str, str] = {}
  for name, value in headers.items():
    try:
      value.encode()
    except UnicodeEncodeError:  # it is not UTF-8
      value = value.encode("utf-8", "surrogateescape").decode("latin-1")
    joined[name] = f"{joined[name]}, {value}" if name in joined else value
  return joined
