"""Sends one HTTP request and classifies the response. Follows no redirect and retries nothing."""

import asyncio
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp
import httpx2
import openai

from distill_jax import errors
from distill_jax.teacher import types
from distill_jax.teacher.client import patience, refusals, streams, verdicts, waits

MAX_BODY_BYTES = 64 * 2**20  # of a response
NEVER_LEFT = (httpx2.ConnectError, httpx2.ProxyError, httpx2.InvalidURL, httpx2.UnsupportedProtocol)
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
    """Creates the pool; connects when the first request is sent.

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
    limits = httpx2.Limits(
      max_connections=connections + SPARE_CONNECTIONS, max_keepalive_connections=connections
    )
    timeout = httpx2.Timeout(None, connect=connect_timeout)
    self._http = http_client(local, timeout=timeout, limits=limits)

  async def __aenter__(self) -> Self:
    await self._http.__aenter__()
    return self

  async def __aexit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    await self._http.__aexit__(kind, error, trace)

  @functools.cached_property
  def _url(self) -> httpx2.URL:
    """The parsed address: given a text, httpx2 parses it for every request."""
    return httpx2.URL(self._address)

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
        async with self._http.stream(
          "POST",
          self._url,
          content=content,
          # Not a local variable: a traceback may show the locals, and these hold the key.
          headers=self._headers | {"Idempotency-Key": idempotency_key},
        ) as response:
          raw = await self._read_body(response, wait)
        if response.status_code == 200:
          self._waits.on_response()
    except (TimeoutError, httpx2.TimeoutException) as error:
      if isinstance(error, httpx2.ConnectTimeout) and str(error):  # also covers closed sockets
        left = not isinstance(error.__cause__, aiohttp.ConnectionTimeoutError)
        return Response(verdicts.Retry(describe_error(error, self._redact), may_bill=left))
      reason = f"no response within {loop.time() - began:.3g} s"
      return Response(verdicts.Retry(reason, may_bill=True), timed_out=True)
    except (httpx2.HTTPError, httpx2.InvalidURL, aiohttp.ClientError, OSError) as error:
      left = not isinstance(error, NEVER_LEFT)
      return Response(verdicts.Retry(describe_error(error, self._redact), may_bill=left))
    response_headers = redact_headers(response.headers, self._redact)
    if raw is not None:
      raw = redact_bytes(raw, self._redact)
    return _classify(response.status_code, response_headers, raw, {"model": model, **body})

  async def _read_body(self, response: httpx2.Response, wait: patience.Wait) -> bytes | None:
    """The body; None if it is longer than MAX_BODY_BYTES."""
    parts, size = [], 0
    streamed = response.headers.get("content-type", "").startswith("text/event-stream")
    async for part in response.aiter_bytes():
      if streamed or not part.strip():  # blanks keep a connection open while the model thinks
        self._waits.on_alive(wait)
      else:
        self._waits.on_body(wait)
      parts.append(part)
      size += len(part)
      if size > MAX_BODY_BYTES:
        return None
    return b"".join(parts)


def http_client(local: bool, **options: Any) -> httpx2.AsyncClient:
  """An HTTP client: aiohttp's sockets behind httpx2's interface, a third of the CPU time.

  Redirects are not followed, since they could send questions anywhere.

  Args:
    local: Ignore the environment's proxies.
    **options: Passed on.

  Raises:
    UserError: The environment's proxies or certificates are unusable.
  """
  try:
    return openai.DefaultAioHttpClient(follow_redirects=False, trust_env=not local, **options)
  except (httpx2.InvalidURL, ImportError, OSError, ValueError):  # which may quote a password
    raise errors.teacher(
      "cannot connect with the proxies or certificates set in the environment; check HTTP_PROXY,"
      " HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
    ) from None


def openai_client(base_url: str, key: str, timeout: float, local: bool) -> openai.AsyncOpenAI:
  """A client for files and batches; lives in one event loop.

  Args:
    base_url: The server.
    key: API key; "" for none.
    timeout: Seconds for one request.
    local: Ignore the environment's proxies.
  """
  made = openai.AsyncOpenAI(
    api_key=key or "none",
    base_url=base_url,
    max_retries=0,
    timeout=timeout,
    http_client=http_client(local),
  )
  # The environment's settings may be meant for another server.
  made.organization = made.project = None
  made._custom_headers = {}
  return made


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
    verdict = verdicts.Retry(reason, may_bill=status == 200)
    return Response(verdict, status, request_id)
  if streams.is_stream(headers.get("content-type", ""), raw):
    raw = streams.assemble(raw)
  if status == 200:
    verdict = verdicts.parse_body(raw, str(sent.get("model", "")))
    if not request_id and isinstance(verdict, verdicts.Completed):
      request_id = verdict.id
    return Response(verdict, status, request_id, waits.exhausted_reset(headers, now))
  try:
    body = json.loads(raw)
  except (ValueError, RecursionError):
    body = raw.decode("utf-8", "replace")
  if (refused := refusals.feature(status, body, sent)) is not None:
    reason = f"HTTP {status}: {verdicts.excerpt(refusals.text_of(body))}"
    return Response(verdicts.Unsupported(*refused, reason), status, request_id)
  return Response(verdicts.classify_status(status, headers, body, now), status, request_id)


def describe_error(error: Exception, redact: Callable[[str], str]) -> str:
  """A network error on one line."""
  cause = error.__cause__ or error
  return f"{type(cause).__name__}: {verdicts.excerpt(redact(str(cause)))}"
