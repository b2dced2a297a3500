"""Requests and results as JSON lines, as the OpenAI Batch API and `vllm run-batch` define them.

  {"custom_id": KEY, "method": "POST", "url": "/v1/chat/completions", "body": {...}}
  {"id": ..., "custom_id": KEY, "response": {"status_code": 200, "body": {...}}, "error": null}

One line asks for consecutive samples, so the prompt is paid for once, as in an ordinary call. Its
custom_id is the cache key of the first sample.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from distill_jax import settings
from distill_jax.teacher.client import request_jobs, verdicts
from distill_jax.teacher.store import batches

ENDPOINT = "/v1/chat/completions"
MAX_FILE_BYTES = 200 * 10**6
MAX_FILE_REQUESTS = 50_000


class RequestRow(NamedTuple):
  """A line of a request file: its samples, its bytes, and its highest possible cost."""

  line: batches.BatchLine
  content: bytes
  dollars: float


@dataclasses.dataclass(frozen=True)
class LineResult:
  """The result of a line.

  Attributes:
    name: custom_id of the line.
    verdict: What the result means.
    status: HTTP status; 0 if the request was never sent.
    request_id: The server's name of the request.
    error: Why the server rejected the line, as it says it; None if it did not.
  """

  name: str
  verdict: verdicts.Verdict
  status: int
  request_id: str
  error: Any = None


def missing_lines(job: request_jobs.Job, most: int) -> list[batches.BatchLine]:
  """The missing samples of a job, one line for each run of up to `most` consecutive samples."""
  runs: list[list[int]] = []
  for sample in sorted(job.missing):
    if runs and runs[-1][-1] == sample - 1 and len(runs[-1]) < most:
      runs[-1].append(sample)
    else:
      runs.append([sample])
  return [
    batches.BatchLine(
      name=job.missing[run[0]],
      request=job.request,
      keys={sample: job.missing[sample] for sample in run},
      limit=job.limit,
    )
    for run in runs
  ]


def request_row(
  config: request_jobs.ClientConfig,
  line: batches.BatchLine,
  job: request_jobs.Job,
  temperature: float,
) -> RequestRow:
  """The row that asks for a line; `job` has that line's samples and no others."""
  body = request_jobs.body(config, job, temperature)
  body = {name: value for name, value in body.items() if not name.startswith("stream")}
  return RequestRow(line, _encode(line.name, body), request_jobs.max_dollars(config, job))


def _encode(name: str, body: dict[str, Any]) -> bytes:
  row = {"custom_id": name, "method": "POST", "url": ENDPOINT, "body": body}
  return json.dumps(row).encode("ascii") + b"\n"


def split_rows(rows: Sequence[RequestRow], batch_size: int) -> list[list[RequestRow]]:
  """Splits rows into files of at most `batch_size` requests and MAX_FILE_BYTES, in order."""
  max_requests = min(batch_size, MAX_FILE_REQUESTS)
  files: list[list[RequestRow]] = []
  size = 0
  for row in rows:
    full = files and (len(files[-1]) == max_requests or size + len(row.content) > MAX_FILE_BYTES)
    if full or not files:
      files.append([])
      size = 0
    files[-1].append(row)
    size += len(row.content)
  return files


def parse_results(content: bytes, model: str) -> Iterator[LineResult]:
  """Yields the readable results of an output or error file; its lines may be in any order.

  Args:
    content: The file. Unreadable lines are skipped.
    model: The model to record where a result does not name one.
  """
  for raw in content.split(b"\n"):
    try:
      row = json.loads(raw)
    except (ValueError, RecursionError):
      continue
    if isinstance(row, dict) and isinstance(row.get("custom_id"), str):
      yield _parse_result(row, model)


def discounted(prices: settings.Prices, discount: float) -> settings.Prices:
  """Prices reduced by a share of `discount`. Negative prices have a meaning of their own and stay.

  See `ledger.dollars`.
  """

  def reduce(price: float) -> float:
    return price * (1 - discount) if price > 0 else price

  return dataclasses.replace(
    prices, input=reduce(prices.input), output=reduce(prices.output), cached=reduce(prices.cached)
  )


def _parse_result(row: dict[str, Any], model: str) -> LineResult:
  response = row.get("response")
  response = response if isinstance(response, dict) else {}
  error, status, body = row.get("error"), response.get("status_code"), response.get("body")
  ids = (row.get("id"), response.get("request_id"))
  request_id = verdicts.excerpt(next((id for id in ids if isinstance(id, str) and id), ""))[:100]
  if type(status) is not int or not 100 <= status <= 599:
    message = error.get("message") if isinstance(error, dict) else error
    reason = verdicts.excerpt(message if isinstance(message, str) else json.dumps(row))
    return LineResult(row["custom_id"], verdicts.Retry(reason), 0, request_id)
  if 200 <= status < 300:
    verdict = verdicts.parse_body(json.dumps(body).encode(), model)
    return LineResult(row["custom_id"], verdict, status, request_id)
  details = body if body else error if isinstance(error, dict) else {"message": error}
  verdict = verdicts.classify_status(status, {}, details, 0.0)
  return LineResult(row["custom_id"], verdict, status, request_id, details)
