"""Requests and results as lines of JSONL, the way the Batch API and `vllm run-batch` have them.

  {"custom_id": KEY, "method": "POST", "url": "/v1/chat/completions", "body": {...}}
  {"id": ..., "custom_id": KEY, "response": {"status_code": 200, "body": {...}}, "error": null}

A line asks for samples that follow each other; its custom_id is the cache key of the first, so that
the prompt is paid for once, as in an ordinary call.
"""

import dataclasses
import json
import types

from distill_jax import errors
from distill_jax.teacher.client import verdicts
from distill_jax.teacher.store import batches

ENDPOINT = "/v1/chat/completions"
MOST_BYTES = 200 * 10**6  # of a file
MOST_REQUESTS = 50_000  # in a file


@dataclasses.dataclass(frozen=True)
class Result:
  """What became of a line. `verdict`: one of verdicts.Completed, Retry, Skip, Abort."""

  name: str  # custom_id
  verdict: object
  status: int  # of HTTP; 0 if it was never asked
  request_id: str


def lines_of(job) -> list[batches.BatchLine]:
  """What is missing of a request_jobs.Job, one line for each run of samples without a gap."""
  runs: list[list[int]] = []
  for sample in sorted(job.missing):
    if runs and runs[-1][-1] == sample - 1:
      runs[-1].append(sample)
    else:
      runs.append([sample])
  return [
    batches.BatchLine(job.missing[run[0]], job.request, {s: job.missing[s] for s in run}, job.limit)
    for run in runs
  ]


def written(name: str, body: dict) -> bytes:
  """A request as a line; ASCII, whatever is in it."""
  row = {"custom_id": name, "method": "POST", "url": ENDPOINT, "body": body}
  return json.dumps(row).encode("ascii") + b"\n"


def parts(rows: list[tuple], most: int) -> list[list[tuple]]:
  """[(line, bytes), ...] in files of at most `most` requests and MOST_BYTES."""
  found, size = [[]], 0
  for row in rows:
    if found[-1] and (
      len(found[-1]) == min(most, MOST_REQUESTS) or size + len(row[1]) > MOST_BYTES
    ):
      found.append([])
      size = 0
    found[-1].append(row)
    size += len(row[1])
  return [part for part in found if part]


def results(content: bytes, model: str):
  """Yields a Result for each line of an output or error file that can be read, in any order."""
  for raw in content.split(b"\n"):
    try:
      row = json.loads(raw)
    except (ValueError, RecursionError):
      continue
    if isinstance(row, dict) and isinstance(row.get("custom_id"), str):
      yield _result(row, model)


def check_caps(
  store, run: str, rows: list[tuple], *, max_dollars: float, max_requests: int, held: float
) -> None:
  """Raises errors.UserError if the caps of a run do not allow these rows, [(..., dollars), ...].

  held: dollars that what is under way may still cost.
  """
  spent, need = held + store.totals(run).dollars, sum(row[-1] for row in rows)
  if spent + need > max_dollars:
    raise errors.budget(
      f"the next {len(rows)} teacher requests may cost ${need:.4f} (all replies at their longest),"
      f" but ${spent:.4f} of ${max_dollars:.4f} are spent or set aside; nothing was sent,"
      " raise --config.teacher.max_dollars and run the same command again"
    )
  sent = store.requests_sent(run)
  if sent + len(rows) > max_requests:
    raise errors.budget(
      f"{sent} teacher requests were sent, {len(rows)} more are needed, the cap is"
      f" {max_requests}; nothing is lost, raise --config.teacher.max_requests and run the"
      " same command again"
    )


def discounted(prices, discount: float):
  """The prices, less that share; what is below 0 stands for something else and stays."""
  less = lambda value: value * (1 - discount) if value > 0 else value
  return types.SimpleNamespace(**{name: less(value) for name, value in vars(prices).items()})


def _result(row: dict, model: str) -> Result:
  response = row.get("response") if isinstance(row.get("response"), dict) else {}
  error, status, body = row.get("error"), response.get("status_code"), response.get("body")
  names = (row.get("id"), response.get("request_id"))
  request_id = verdicts.excerpt(next((n for n in names if isinstance(n, str) and n), ""))[:100]
  if type(status) is not int or not 100 <= status <= 599:
    said = error.get("message") if isinstance(error, dict) else error
    verdict = verdicts.Retry(verdicts.excerpt(said if isinstance(said, str) else json.dumps(row)))
    return Result(row["custom_id"], verdict, 0, request_id)
  if status == 200:
    verdict = verdicts.parse_body(json.dumps(body).encode(), model)
  else:
    said = body if body else error if isinstance(error, dict) else {"message": error}
    verdict = verdicts.classify_status(status, {}, said, 0.0)
  return Result(row["custom_id"], verdict, status, request_id)
