"""One HTTP request and what its answer means. Nothing is retried and nothing followed here."""

import asyncio
import dataclasses
import json
import time

import aiohttp
import httpx2
import openai

from distill_jax import errors
from distill_jax.teacher.client import verdicts

LARGEST = 64 * 2**20  # bytes of an answer


@dataclasses.dataclass(frozen=True)
class Heard:
  """What came of a request. `reset`: seconds until a limit it used up is there again."""

  verdict: verdicts.Answered | verdicts.Again | verdicts.Skip | verdicts.Stop
  status: int = 0  # of HTTP; 0 if no answer came
  request_id: str = ""
  reset: float = 0.0


class Post:
  """An open connection pool to one server; lives in one event loop (`async with`).

  timeout  seconds for one request, from sending to the last byte
  local    the server is on this machine: no proxy stands between
  hide     takes the key out of a text; nothing the server sent is read before
  """

  def __init__(
    self, base_url: str, key: str, *, timeout: float, local: bool, connections: int, hide
  ):
    self._url = base_url.rstrip("/") + "/chat/completions"
    self._headers = {"Content-Type": "application/json"}
    if key:
      self._headers["Authorization"] = f"Bearer {key}"
    self._timeout, self._hide = timeout, hide
    limits = httpx2.Limits(max_connections=connections + 8, max_keepalive_connections=connections)
    self._http = connection(local, timeout=None, limits=limits)

  async def __aenter__(self):
    await self._http.__aenter__()
    return self

  async def __aexit__(self, *error):
    await self._http.__aexit__(*error)

  async def send(self, body: dict, model: str, name: str) -> Heard:
    """Sends a body of chat completions; `model` is what answers if the server does not say, `name`
    the request's Idempotency-Key."""
    raw = json.dumps(body).encode()
    try:
      async with asyncio.timeout(self._timeout):
        async with self._http.stream(
          "POST", self._url, content=raw, headers=self._headers | {"Idempotency-Key": name}
        ) as response:
          answer = await _read(response)
    except (TimeoutError, httpx2.TimeoutException) as error:
      if isinstance(error, httpx2.ConnectTimeout) and str(error):  # how a closed socket is told
        return Heard(verdicts.Again(named(error, self._hide)))
      return Heard(verdicts.Again(f"no answer within {self._timeout:g} s"))
    except (httpx2.HTTPError, httpx2.InvalidURL, aiohttp.ClientError, OSError) as error:
      return Heard(verdicts.Again(named(error, self._hide)))
    headers = read(response.headers, self._hide)
    if answer is not None:
      answer = hidden(answer, self._hide)
    return _heard(response.status_code, headers, answer, model)


def connection(local: bool, **options):
  """aiohttp's sockets under httpx2's interface: a third of the processor time of a request. A
  redirect is not followed: it could send questions anywhere.

  Raises errors.UserError where the environment names proxies or certificates that are none.
  """
  try:
    return openai.DefaultAioHttpClient(follow_redirects=False, trust_env=not local, **options)
  except (httpx2.InvalidURL, ImportError, OSError, ValueError):  # which may quote a password
    raise errors.teacher(
      "no connection can be made with the proxies or certificates that the environment names;"
      " check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
    ) from None


def read(headers, hide) -> dict[str, str]:
  """A server's headers, `hide` applied."""
  return {name.lower(): hide(value) for name, value in headers.items()}


def hidden(raw: bytes, hide) -> bytes:
  """What a server sent, `hide` applied before anything can be cut off; all else is as it was."""
  return hide(raw.decode("latin-1")).encode("latin-1")


def _heard(status: int, headers: dict, answer: bytes | None, model: str) -> Heard:
  """What a whole answer means; `answer` is None if it is longer than any may be."""
  now = time.time()
  name = verdicts.request_id(headers)
  if answer is None:
    return Heard(verdicts.Again(f"the body is longer than {LARGEST} bytes"), status, name)
  if status == 200:
    verdict = verdicts.of_body(answer, model)
    name = name or getattr(verdict, "name", "")
    return Heard(verdict, status, name, verdicts.exhausted(headers, now))
  try:
    body = json.loads(answer)
  except (ValueError, RecursionError):
    body = answer.decode("utf-8", "replace")
  return Heard(verdicts.of_status(status, headers, body, now), status, name)


async def _read(response) -> bytes | None:
  """The body; None if it is too long to be one."""
  parts, size = [], 0
  async for part in response.aiter_bytes():
    parts.append(part)
    size += len(part)
    if size > LARGEST:
      return None
  return b"".join(parts)


def named(error: Exception, hide) -> str:
  """What went wrong on the way, in one line."""
  cause = error.__cause__ or error
  return f"{type(cause).__name__}: {verdicts.start(hide(str(cause)))}"
