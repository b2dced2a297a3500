"""Incomplete results of a batch are paid for, so they are not requested again."""

import pytest
from batch_scripted import batched, user_error
from scripted import ask, wanted

from distill_jax import errors
from distill_jax.teacher.batch import calls


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
