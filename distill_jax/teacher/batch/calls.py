"""The few HTTP requests that a batch takes, each repeated while that helps.

A request to create a batch whose answer is lost may have made one: the server's list is looked at
before it is asked again.
"""

import asyncio
import json
import time

import httpx2
import openai
from openai.types import Batch, FileObject

from distill_jax import errors
from distill_jax.teacher.batch import format
from distill_jax.teacher.client import rate_limit, transport, verdicts

TRANSFER = 600.0  # seconds that a file may travel, at least
SETTLE = 20.0  # seconds after which a batch that was asked for stands in the server's list
OLDER = 86_400  # seconds before ours: what is as old as that in the list cannot be ours
PAGE = 100
METADATA = "distill_jax"


class BatchApi:
  """Upload, create, find, look at and download, on sending.Terms.

  Every method raises errors.UserError where no answer comes, or one after which nothing can go on.
  """

  def __init__(self, http, config, redact, rest):
    """`redact` takes the key out of a text; rest(seconds) sleeps, and raises if the run must stop."""
    self._http, self._config, self._redact, self._rest = http, config, redact, rest
    self._slow = max(TRANSFER, config.timeout)

  async def upload(self, name: str, content: bytes) -> str:
    """The id of a file with this content."""
    send = lambda: self._http.files.create(
      file=(f"{name}.jsonl", content), purpose="batch", timeout=self._slow
    )
    return (await self._call("take a file", send, _named(FileObject), self._slow)).id

  async def create(self, name: str, file: str, trying) -> str:
    """The id of the batch `name` of this file; trying() is called before each request for it."""
    left = self._config.max_wait
    for attempt in range(1, self._config.max_attempts + 1):
      trying()
      found = await self._once(lambda: self._order(name, file), _named(Batch), self._config.timeout)
      if isinstance(found, Batch):
        return found.id
      self._check(found, "take a batch")
      if not found.rate_limited and (id := await self.find(name, file, time.time())):
        return id
      if attempt == self._config.max_attempts or (seconds := _pause(found, attempt)) > left:
        break
      left -= seconds
      await self._rest(seconds)
    raise self._gone("take a batch", found)

  async def find(self, name: str, file: str, tried: float, forget: str = "") -> str:
    """The id of the batch that was asked for under this name at `tried` (Unix seconds); "" if there
    is none. Waits until it would be in the list; `forget` says what to type if there is no list."""
    await self._rest(min(max(0.0, tried + SETTLE - time.time()), SETTLE))
    after = openai.omit
    while True:
      send = lambda after=after: self._http.batches.list(limit=PAGE, after=after)
      timeout = self._config.timeout
      page = (await self._call("list its batches", send, _is_page, timeout, forget)).data
      for batch in page:
        if batch.input_file_id == file or (batch.metadata or {}).get(METADATA) == name:
          return batch.id
      if len(page) < PAGE or (page[-1].created_at or 0) < tried - OLDER:
        return ""
      after = page[-1].id

  async def look(self, id: str, forget: str) -> Batch:
    """The batch as it stands; `forget` says what to type if the server knows of none."""
    send = lambda: self._http.batches.retrieve(id)
    return await self._call(f"show batch {id}", send, _named(Batch), self._config.timeout, forget)

  async def download(self, file: str, forget: str) -> bytes:
    """The content of a file; `forget` as above."""
    send = lambda: self._http.files.content(file, timeout=self._slow)
    found = await self._call(
      f"give file {file}", send, lambda f: isinstance(f.content, bytes), self._slow, forget
    )
    return transport.redact_bytes(found.content, self._redact)

  def _order(self, name: str, file: str):
    return self._http.batches.create(
      input_file_id=file, endpoint=format.ENDPOINT, completion_window="24h",
      metadata={METADATA: name}, extra_headers={"Idempotency-Key": name},
    )  # fmt: skip

  async def _call(self, what: str, send, sound, timeout: float, do: str = ""):
    """What `send` brings, if need be after several attempts."""
    waited, attempt = 0.0, 0
    while True:
      attempt += 1
      found = await self._once(send, sound, timeout)
      if not isinstance(found, verdicts.Retry | verdicts.Skip | verdicts.Abort):
        return found
      self._check(found, what, do)
      waited += (seconds := _pause(found, attempt))
      if waited > self._config.max_wait:
        raise self._gone(what, found)
      await self._rest(seconds)

  async def _once(self, send, sound, timeout: float):
    """One request: what came, if `sound` says that it is whole, or a verdict."""
    try:
      async with asyncio.timeout(timeout):
        found = await send()
        if sound(found):
          return found
      return verdicts.Retry("an answer that is none")
    except (TimeoutError, openai.APITimeoutError):
      return verdicts.Retry(f"no answer within {timeout:g} s")
    except openai.APIStatusError as error:
      headers = transport.redact_headers(error.response.headers, self._redact)
      body = json.loads(self._redact(json.dumps(error.body)))
      return verdicts.classify_status(error.status_code, headers, body, time.time())
    except (openai.APIConnectionError, httpx2.HTTPError) as error:
      return verdicts.Retry(transport.describe_error(error, self._redact))
    except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
      return verdicts.Retry(transport.describe_error(error, self._redact))

  def _check(self, verdict, what: str, lost: str = "") -> None:
    """Raises what no further attempt can change; `lost` says what to do about a 404."""
    if isinstance(verdict, verdicts.Abort):
      do = lost if lost and verdict.reason.startswith("HTTP 404") else verdict.advice
    elif isinstance(verdict, verdicts.Skip):
      do = 'this server may have no Batch API; --config.teacher.batch="" asks one by one'
    else:
      return
    why = self._redact(verdict.reason)
    raise errors.teacher(f"{self._config.base_url} did not {what} ({why}); {do}")

  def _gone(self, what: str, verdict) -> errors.UserError:
    return errors.teacher(
      f"{self._config.base_url} did not {what} ({self._redact(verdict.reason)}); nothing is lost: what"
      " was sent before goes on there, run the same command again to collect it"
    )


def counted(state: Batch) -> tuple[int, int]:
  """(requests that are completed, requests there are) by a server's word; 0 where it has none."""
  found = [getattr(state.request_counts, name, 0) for name in ("completed", "total")]
  done, total = (n if type(n) is int and n > 0 else 0 for n in found)
  return done, total


def problem(state: Batch) -> tuple[str, str, int]:
  """(code, message, line) of the first thing that is wrong with a batch; "" and 0 for none."""
  listed = getattr(state.errors, "data", None)
  first = listed[0] if isinstance(listed, list) and listed else None
  code, said, line = (getattr(first, name, None) for name in ("code", "message", "line"))
  text = [x if isinstance(x, str) else "" for x in (code, said)]
  return *text, line if type(line) is int else 0


def _pause(verdict, attempt: int) -> float:
  """Seconds to wait after the verdict of an attempt."""
  return rate_limit.backoff(attempt) if verdict.wait is None else verdict.wait


def _named(kind):
  """Is this an object of that kind, with an id?"""
  return lambda found: isinstance(found, kind) and isinstance(found.id, str) and bool(found.id)


def _is_page(found) -> bool:
  return isinstance(found.data, list) and all(map(_named(Batch), found.data))
