"""Batch and file teachers for tests, and a stand-in for `vllm run-batch`."""

import json
import pathlib

import scripted

from distill_jax import errors
from distill_jax.teacher.batch import api, calls, files

OPTIONS = {**scripted.CLIENT_OPTIONS, "max_wait": 0.3}
LISTING_DELAY = 0.3  # seconds; the tests' server is never slower


def batched(url, path, **options):
  """A BatchTeacher with short waits."""
  calls.LISTING_DELAY = LISTING_DELAY
  own = {"poll": 0.01, "discount": 0.5, "batch_size": 50_000}
  return api.BatchTeacher(base_url=url, cache_path=str(path), **{**OPTIONS, **own, **options})


def filed(directory, path, **options):
  """A FileTeacher with its files in `directory`."""
  own = {"directory": directory, "batch_size": 50_000, "base_url": ""}
  return files.FileTeacher(cache_path=str(path), **{**OPTIONS, **own, **options})


def user_error(call, *args, **kwargs) -> errors.UserError:
  """The UserError that a call raises; fails if it raises none."""
  try:
    call(*args, **kwargs)
  except errors.UserError as error:
    assert "\n" not in str(error)
    return error
  raise AssertionError("no UserError was raised")


def run_batch(server, path: pathlib.Path) -> pathlib.Path:
  """Like `vllm run-batch -i path`: a result for each line, with errors in the same file."""
  rows = []
  for raw in path.read_text().splitlines():
    request = json.loads(raw)
    assert request["method"] == "POST" and request["url"] == "/v1/chat/completions"
    answer = server.line(json.dumps(request["body"]).encode())
    if answer is None or not answer[0]:
      continue
    status, body = answer
    response = {"status_code": status, "request_id": "vllm-batch-1"}
    response["body"] = body if status == 200 else None
    error = None if status == 200 else body
    id = f"vllm-{server.stats.requests}"
    row = {"id": id, "custom_id": request["custom_id"], "response": response, "error": error}
    rows.append(json.dumps(row) + "\n")
  result = path.with_suffix(".out.jsonl")
  result.write_text("".join(rows))
  return result


def unanswered(directory: pathlib.Path) -> list[pathlib.Path]:
  """The request files that have no result yet."""
  paths = sorted(directory.glob("*.jsonl"))
  requests = [path for path in paths if not path.name.endswith(".out.jsonl")]
  return [path for path in requests if not path.with_suffix(".out.jsonl").exists()]
