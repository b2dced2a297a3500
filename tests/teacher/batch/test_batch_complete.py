"""What a batch has cost is counted and not requested again, whatever its results are."""

import json

import pytest
from batch_scripted import batched, user_error
from scripted import ask, wanted

from distill_jax import errors
from distill_jax.teacher import types
from distill_jax.teacher.batch import calls
from distill_jax.teacher.client import headers


@pytest.fixture
def path(tmp_path):
  return tmp_path / "teacher.sqlite"


@pytest.mark.parametrize("wrong", [b"", b"<html>log in</html>", None])
def test_results_that_are_not_complete_yet_are_awaited_and_not_paid_for_again(
  serve, path, monkeypatch, wrong
):
  server, original, downloads = serve(), calls.BatchApi.download, []

  async def download(self, file, advice):
    content = await original(self, file, advice)
    downloads.append(file)
    if len(downloads) > 2:
      return content
    return content[: len(content) // 2] if wrong is None else wrong

  monkeypatch.setattr(calls.BatchApi, "download", download)
  teacher = batched(server.url, path, max_wait=60.0)
  assert [reply.text for (reply,) in ask(teacher, wanted(4))] == [
    f"q{k} #0 at 0.5" for k in range(4)
  ]
  assert len(server.batches.batches) == 1 and len(downloads) == 3
  assert teacher.ledger.total().tokens_out == 4 * 3
  teacher.close()


def test_failed_lines_do_not_stand_for_results_that_are_still_missing(serve, path, monkeypatch):
  server, original, downloads = serve(["", "400"] * 6), calls.BatchApi.download, []

  async def download(self, file, advice):
    content = await original(self, file, advice)
    downloads.append(file)
    return content.splitlines(keepends=True)[0] if len(downloads) == 1 else content

  monkeypatch.setattr(calls.BatchApi, "download", download)
  teacher = batched(server.url, path, max_wait=60.0)
  found = [outcome for (outcome,) in ask(teacher, wanted(12))]
  assert sum(isinstance(outcome, types.Reply) for outcome in found) == 6
  assert len(server.batches.batches) == 1
  teacher.close()


def test_a_line_that_was_billed_and_cannot_be_used_is_in_the_ledger(serve, path):
  server, spoiled, billed = serve(), [], []
  answer = server.batches._answer

  def spoil(body):
    status, reply = answer(body)
    billed.append(reply["usage"]["completion_tokens"])
    if len(spoiled) < 4:
      spoiled.append(body)
      reply = {**reply, "choices": [{"message": {"content": "Sev"}, "finish_reason": "error"}]}
    return status, reply

  server.batches._answer = spoil
  teacher = batched(server.url, path)
  assert all(isinstance(outcome, types.Reply) for (outcome,) in ask(teacher, wanted(4)))
  assert len(billed) == 8 and teacher.ledger.total().tokens_out == sum(billed)
  teacher.close()


def test_a_batch_learns_a_refusal_that_looks_like_a_missing_model(serve, path):
  server = serve()
  answer = server.batches._answer

  def refuse(body):
    if "temperature" in json.loads(body):
      message = "`temperature` is deprecated for this model."
      return 400, {"error": {"message": message, "type": "invalid_request_error"}}
    return answer(body)

  server.batches._answer = refuse
  teacher = batched(server.url, path)
  assert all(isinstance(outcome, types.Reply) for (outcome,) in ask(teacher, wanted(2)))
  teacher.close()


def test_extra_headers_are_sent_with_every_request_of_a_batch(serve, path, monkeypatch):
  server, seen = serve(), []
  exchange = server.batches.exchange

  async def watched(writer, method, target, fields, raw):
    seen.append((fields.get("openai-organization"), fields.get("x-gateway-key")))
    return await exchange(writer, method, target, fields, raw)

  server.batches.exchange = watched
  monkeypatch.setenv("GATEWAY", "its-secret")
  extra = headers.resolve('{"OpenAI-Organization": "org-1", "X-Gateway-Key": "$GATEWAY"}')
  teacher = batched(server.url, path, extra_headers=extra)
  ask(teacher, wanted(2))
  teacher.close()
  assert len(seen) >= 4 and set(seen) == {("org-1", "its-secret")}


def test_results_that_are_never_complete_stop_the_run_and_are_not_paid_for_again(
  serve, path, monkeypatch
):
  server = serve()

  async def download(self, file, advice):
    return b""

  monkeypatch.setattr(calls.BatchApi, "download", download)
  for _ in range(2):
    teacher = batched(server.url, path)
    error = user_error(ask, teacher, wanted(4))
    assert error.code == errors.TEACHER and "delete from batches" in str(error)
    teacher.close()
  assert len(server.batches.batches) == 1


@pytest.mark.parametrize("odd", ["x", [1, None], {"data": "x"}, {"data": [None]}, {"data": [{}]}])
def test_malformed_counts_and_errors_of_a_batch_are_ignored(odd):
  state = calls.Batch.construct(request_counts=odd, errors=odd)
  assert calls.request_counts(state) == (0, 0) and calls.first_error(state) == ("", "", 0)
