"""HTTP requests of the OpenAI Batch API, with retries.

If the response to a request that creates a batch is lost, the batch may exist nevertheless: it is
looked for in the server's list before it is requested again.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx2
import openai
from openai.types import Batch, FileObject

from distill_jax import errors
from distill_jax.teacher.batch import format
from distill_jax.teacher.client import rate_limit, request_jobs, transport, verdicts

TRANSFER_TIMEOUT = 600.0  # seconds for uploads and downloads, at least
LISTING_DELAY = 20.0  # seconds after which a new batch appears in the server's list
LISTING_WINDOW = 86_400  # seconds; a batch listed as this much older than ours is not ours
PAGE_SIZE = 100
METADATA_KEY = "distill_jax"

T = TypeVar("T")


class BatchApi:
  """Upload, create, find, retrieve and download.

  Every method raises `errors.UserError` if the server does not respond, or rejects the request.
  """

  def __init__(
    self,
    http: openai.AsyncOpenAI,
    config: request_jobs.ClientConfig,
    redact: Callable[[str], str],
    rest: Callable[[float], Awaitable[None]],
  ):
    """Creates a client of one server.

    Args:
      http: The connection.
      config: Timeouts and retries.
      redact: Removes the API key from a text.
      rest: Sleeps for some seconds, and raises if the run has to stop.
    """
    self._http, self._config, self._redact, self._rest = http, config, redact, rest
    self._transfer_timeout = max(TRANSFER_TIMEOUT, config.timeout)

  async def upload(self, name: str, content: bytes) -> str:
    """Uploads a file. Returns its id."""

    def send() -> Awaitable[FileObject]:
      return self._http.files.create(
        file=(f"{name}.jsonl", content), purpose="batch", timeout=self._transfer_timeout
      )

    file = await self._call("accept the file", send, _is_file, self._transfer_timeout)
    return file.id

  async def create(self, name: str, file: str, on_attempt: Callable[[], None]) -> str:
    """Creates a batch. Returns its id.

    Args:
      name: Our name of the batch.
      file: Id of the uploaded file.
      on_attempt: Called before each request.
    """
    left, attempt = self._config.max_wait, 0
    while True:
      attempt += 1
      on_attempt()
      result = await self._once(lambda: self._create(name, file), _is_batch, self._config.timeout)
      if isinstance(result, Batch):
        return result.id
      retry = self._retry_or_raise(result, "accept the batch")
      if not retry.rate_limited and (id := await self.find(name, file, time.time())):
        return id
      seconds = _pause(retry, attempt)
      if attempt >= self._config.max_attempts or seconds > left:
        raise self._gave_up("accept the batch", retry)
      left -= seconds
      await self._rest(seconds)

  async def find(self, name: str, file: str, tried: float, advice: str = "") -> str:
    """Looks for a batch in the server's list, after waiting until it must be there.

    Args:
      name: Our name of the batch.
      file: Id of its file.
      tried: When it was requested, in Unix seconds.
      advice: What the user can do if the server has no list.

    Returns:
      The id of the batch; "" if there is none.
    """
    await self._rest(min(max(0.0, tried + LISTING_DELAY - time.time()), LISTING_DELAY))
    after: str | openai.Omit = openai.omit
    while True:

      def send(after: str | openai.Omit = after) -> Awaitable[Any]:
        return self._http.batches.list(limit=PAGE_SIZE, after=after)

      page = await self._call("list its batches", send, _is_page, self._config.timeout, advice)
      for batch in page.data:
        if batch.input_file_id == file or (batch.metadata or {}).get(METADATA_KEY) == name:
          return batch.id
      if len(page.data) < PAGE_SIZE or (page.data[-1].created_at or 0) < tried - LISTING_WINDOW:
        return ""
      after = page.data[-1].id

  async def retrieve(self, id: str, advice: str) -> Batch:
    """The current state of a batch. `advice` says what to do if the server does not know it."""

    def send() -> Awaitable[Batch]:
      return self._http.batches.retrieve(id)

    return await self._call(f"return batch {id}", send, _is_batch, self._config.timeout, advice)

  async def download(self, file: str, advice: str) -> bytes:
    """The content of a file. `advice` says what to do if the server does not know it."""

    def send() -> Awaitable[openai.HttpxBinaryResponseContent]:
      return self._http.files.content(file, timeout=self._transfer_timeout)

    response = await self._call(
      f"return file {file}", send, _has_content, self._transfer_timeout, advice
    )
    return transport.redact_bytes(response.content, self._redact)

  def _create(self, name: str, file: str) -> Awaitable[Batch]:
    return self._http.batches.create(
      input_file_id=file,
      endpoint=format.ENDPOINT,
      completion_window="24h",
      metadata={METADATA_KEY: name},
      extra_headers={"Idempotency-Key": name},
    )

  async def _call(
    self,
    action: str,
    send: Callable[[], Awaitable[T]],
    is_valid: Callable[[T], bool],
    timeout: float,
    advice: str = "",
  ) -> T:
    """Sends a request until it gets a valid response. `advice` is for a 404."""
    waited, attempt = 0.0, 0
    while True:
      attempt += 1
      result = await self._once(send, is_valid, timeout)
      if not isinstance(result, verdicts.Retry | verdicts.Skip | verdicts.Abort):
        return result
      retry = self._retry_or_raise(result, action, advice)
      waited += (seconds := _pause(retry, attempt))
      if waited > self._config.max_wait:
        raise self._gave_up(action, retry)
      await self._rest(seconds)

  async def _once(
    self, send: Callable[[], Awaitable[T]], is_valid: Callable[[T], bool], timeout: float
  ) -> T | verdicts.Retry | verdicts.Skip | verdicts.Abort:
    """Sends one request. Returns the response if it is valid, else a verdict."""
    try:
      async with asyncio.timeout(timeout):
        response = await send()
        if is_valid(response):
          return response
      return verdicts.Retry("the response is malformed")
    except (TimeoutError, openai.APITimeoutError):
      return verdicts.Retry(f"no response within {timeout:g} s")
    except openai.APIStatusError as error:
      headers = transport.redact_headers(error.response.headers, self._redact)
      body = json.loads(self._redact(json.dumps(error.body)))
      return verdicts.classify_status(error.status_code, headers, body, time.time())
    except (openai.APIConnectionError, httpx2.HTTPError) as error:
      return verdicts.Retry(transport.describe_error(error, self._redact))
    except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
      return verdicts.Retry(transport.describe_error(error, self._redact))

  def _retry_or_raise(
    self,
    verdict: verdicts.Retry | verdicts.Skip | verdicts.Abort,
    action: str,
    advice_404: str = "",
  ) -> verdicts.Retry:
    """Returns a verdict that is worth a retry, and raises UserError for any other."""
    if isinstance(verdict, verdicts.Retry):
      return verdict
    if isinstance(verdict, verdicts.Skip):
      advice = 'the server may lack a Batch API; set --config.teacher.batch="" to do without it'
    elif advice_404 and verdict.reason.startswith("HTTP 404"):
      advice = advice_404
    else:
      advice = verdict.advice
    reason = self._redact(verdict.reason)
    raise errors.teacher(f"{self._config.base_url} did not {action} ({reason}); {advice}")

  def _gave_up(self, action: str, retry: verdicts.Retry) -> errors.UserError:
    return errors.teacher(
      f"{self._config.base_url} did not {action} ({self._redact(retry.reason)}); nothing is lost:"
      " batches that were submitted continue there, run the same command again to collect them"
    )


def request_counts(state: Batch) -> tuple[int, int]:
  """(completed, total) requests as the server reports them; 0 for numbers that it does not."""
  counts = [getattr(state.request_counts, name, 0) for name in ("completed", "total")]
  completed, total = (n if type(n) is int and n > 0 else 0 for n in counts)
  return completed, total


def first_error(state: Batch) -> tuple[str, str, int]:
  """(code, message, line) of the first error of a batch; "" and 0 for missing parts."""
  listed = getattr(state.errors, "data", None)
  first = listed[0] if isinstance(listed, list) and listed else None
  code, message = getattr(first, "code", None), getattr(first, "message", None)
  line = getattr(first, "line", None)
  return (
    code if isinstance(code, str) else "",
    message if isinstance(message, str) else "",
    line if type(line) is int else 0,
  )


def _pause(retry: verdicts.Retry, attempt: int) -> float:
  """Seconds to wait after attempt number `attempt`."""
  return max(rate_limit.backoff(attempt), retry.wait or 0.0)


def _is_batch(response: Any) -> bool:
  return isinstance(response, Batch) and _has_id(response)


def _is_file(response: Any) -> bool:
  return isinstance(response, FileObject) and _has_id(response)


def _is_page(response: Any) -> bool:
  return isinstance(response.data, list) and all(map(_is_batch, response.data))


def _has_id(response: Batch | FileObject) -> bool:
  """Servers may send anything, so the type of the id is checked as well."""
  return isinstance(response.id, str) and bool(response.id)


def _has_content(response: openai.HttpxBinaryResponseContent) -> bool:
  return isinstance(response.content, bytes)
