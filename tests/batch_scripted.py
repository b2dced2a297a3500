"""Teachers that ask in batches and files, and who answers files."""

import json
import pathlib

import scripted

from distill_jax import errors
from distill_jax.teacher.batch import api, calls, files

TERMS = {**scripted.CLIENT_OPTIONS, "max_wait": 0.3}
SETTLE = 0.3  # seconds; the server of the tests is never slower


def batched(url, path, **terms):
  """A Batches that does not dawdle."""
  calls.LISTING_DELAY = SETTLE
  pace = {"poll": 0.01, "discount": 0.5, "batch_size": 50_000}
  return api.BatchTeacher(base_url=url, cache_path=str(path), **{**TERMS, **pace, **terms})


def filed(folder, path, **terms):
  """A Files with its files in `folder`."""
  own = {"directory": folder, "batch_size": 50_000, "base_url": ""}
  return files.FileTeacher(cache_path=str(path), **{**TERMS, **own, **terms})


def refusal(call, *args, **kwargs) -> errors.UserError:
  """What the call refuses; fails if it does not."""
  try:
    call(*args, **kwargs)
  except errors.UserError as refused:
    assert "\n" not in str(refused)
    return refused
  raise AssertionError("it did not refuse")


def run_batch(server, path: pathlib.Path) -> pathlib.Path:
  """Does what `vllm run-batch -i path` does: a result for each line, errors in the same file."""
  rows = []
  for raw in path.read_text().splitlines():
    asked = json.loads(raw)
    assert asked["method"] == "POST" and asked["url"] == "/v1/chat/completions"
    found = server.line(json.dumps(asked["body"]).encode())
    if found is None or not found[0]:
      continue
    status, body = found
    response = {"status_code": status, "request_id": "vllm-batch-1"}
    response["body"] = body if status == 200 else None
    error = None if status == 200 else body
    name = f"vllm-{server.stats.requests}"
    row = {"id": name, "custom_id": asked["custom_id"], "response": response, "error": error}
    rows.append(json.dumps(row) + "\n")
  result = path.with_suffix(".out.jsonl")
  result.write_text("".join(rows))
  return result


def papers(folder: pathlib.Path) -> list[pathlib.Path]:
  """The files of requests that have no result yet."""
  found = sorted(folder.glob("*.jsonl"))
  asked = [path for path in found if not path.name.endswith(".out.jsonl")]
  return [path for path in asked if not path.with_suffix(".out.jsonl").exists()]
