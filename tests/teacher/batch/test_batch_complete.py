"""Results of a batch that are not whole are paid for all the same: they are not asked for again."""

import pytest
from batch_scripted import batched, refusal
from scripted import ask, wanted

from distill_jax import errors
from distill_jax.teacher.batch import calls


@pytest.fixture
def path(tmp_path):
  return tmp_path / "teacher.sqlite"


@pytest.mark.parametrize("wrong", [b"", b"<html>log in</html>", None])
def test_results_that_are_not_whole_yet_are_waited_for_and_not_paid_again(
  serve, path, monkeypatch, wrong
):
  server, whole, seen = serve(), calls.BatchApi.download, []

  async def download(self, file, forget):
    content = await whole(self, file, forget)
    seen.append(file)
    return content if len(seen) > 2 else content[: len(content) // 2] if wrong is None else wrong

  monkeypatch.setattr(calls.BatchApi, "download", download)
  teacher = batched(server.url, path, max_wait=60.0)
  assert [reply.text for (reply,) in ask(teacher, wanted(4))] == [
    f"q{k} #0 at 0.5" for k in range(4)
  ]
  assert len(server.batches.batches) == 1 and len(seen) == 3
  assert teacher.ledger.total().tokens_out == 4 * 3
  teacher.close()


def test_results_that_are_never_whole_stop_the_run_and_are_not_paid_again(serve, path, monkeypatch):
  server = serve()

  async def download(self, file, forget):
    return b""

  monkeypatch.setattr(calls.BatchApi, "download", download)
  for _ in range(2):
    teacher = batched(server.url, path)
    refused = refusal(ask, teacher, wanted(4))
    assert refused.code == errors.TEACHER and "delete from batches" in str(refused)
    teacher.close()
  assert len(server.batches.batches) == 1


@pytest.mark.parametrize("odd", ["x", [1, None], {"data": "x"}, {"data": [None]}, {"data": [{}]}])
def test_what_a_server_says_of_a_batch_in_another_form_is_nothing(odd):
  state = calls.Batch.construct(request_counts=odd, errors=odd)
  assert calls.request_counts(state) == (0, 0) and calls.first_error(state) == ("", "", 0)
