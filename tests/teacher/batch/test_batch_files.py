"""Files for a teacher on another machine: the run stops, says what to type, and resumes."""

import contextlib
import errno
import json
import os
import shlex

import pytest
from batch_scripted import filed, run_batch, unanswered, user_error
from scripted import ask, echo, wanted

from distill_jax import errors
from distill_jax.teacher import types
from distill_jax.teacher.batch import files
from distill_jax.teacher.store import cache
from tests import teacher_faults as faults
from tests import teacher_server as server


@pytest.fixture
def directory(tmp_path):
  return tmp_path / "batches"


@pytest.fixture
def play(tmp_path, directory):
  """play(requests, **options) -> the replies, or the UserError, of one run of the command."""

  def once(requests, **options):
    with contextlib.closing(filed(directory, tmp_path / "teacher.sqlite", **options)) as teacher:
      try:
        return ask(teacher, requests)
      except errors.UserError as error:
        return error
      finally:
        once.totals = teacher.ledger.of(0)

  return once


def elsewhere(script=()):
  """A server that is not connected; see batch_scripted.run_batch."""
  return server.Server(echo, port=0, model="e", latency=0.0, script=faults.Sequence(script), log="")


def test_a_run_stops_with_what_to_type_and_resumes_with_the_results(play, directory):
  error = play(wanted(5, samples=3))
  (path,) = unanswered(directory)
  result = directory / "round_00_s_001.out.jsonl"
  assert error.code == errors.PREEMPTED and "15 replies" in str(error)
  command = f"vllm run-batch -i {shlex.quote(str(path))} -o {shlex.quote(str(result))} --model m"
  assert command in str(error) and "\n" not in str(error)
  before = path.read_bytes()
  assert str(play(wanted(5, samples=3))) == str(error) and unanswered(directory) == [path]
  assert path.read_bytes() == before
  assert run_batch(elsewhere(), path) == result
  found = play(wanted(5, samples=3))
  assert [[one.text for one in row] for row in found] == [
    [f"q{k} #{s} at 0.5" for s in range(3)] for k in range(5)
  ]
  assert play.totals.calls == 15
  assert unanswered(directory) == [] and play(wanted(5, samples=3)) == found


def test_lines_are_those_of_the_batch_api(play, directory):
  play(wanted(3, samples=2))
  rows = [json.loads(raw) for raw in unanswered(directory)[0].read_text().splitlines()]
  assert {tuple(row) for row in rows} == {("custom_id", "method", "url", "body")}
  assert all(len(row["custom_id"]) == 64 for row in rows) and rows[0]["body"]["n"] == 2
  assert len({row["custom_id"] for row in rows}) == 3


def test_another_field_for_the_limit_leaves_the_files_readable_and_no_line_streams(play, directory):
  other = {"max_tokens_field": "max_completion_tokens", "stream": True}
  error = play(wanted(2))
  assert str(play(wanted(2), **other)) == str(error)
  more = str(play(wanted(4), **other))
  assert "4 replies" in more and str(play(wanted(4), **other)) == more
  lines = [line for path in unanswered(directory) for line in path.read_text().splitlines()]
  fields = {"max_tokens", "max_completion_tokens", "stream", "stream_options"}
  assert [set(json.loads(line)["body"]) & fields for line in lines] == [
    *[{"max_tokens"}] * 2,
    *[{"max_completion_tokens"}] * 2,
  ]


def test_missing_and_failed_lines_go_into_the_next_file(play, directory):
  vllm = elsewhere(["", "500", "hang", "refusal", "400", "fewer", "empty_object", "close"])
  play(wanted(8, samples=2))
  run_batch(vllm, unanswered(directory)[0])
  error = play(wanted(8, samples=2))
  (second,) = unanswered(directory)
  assert second.name == "round_00_s_002.jsonl" and "9 replies" in str(error)
  assert "4 earlier requests failed (" in str(error)  # the fifth was answered in part
  assert len(second.read_text().splitlines()) == 5
  run_batch(vllm, second)
  found = play(wanted(8, samples=2))
  kinds = [getattr(row[0], "kind", "") for row in found]
  assert kinds == ["", "", "", "refusal", "bad_request", "", "", ""]
  assert [one.text for one in found[5]] == ["q5 #0 at 0.5", "q5 #1 at 0.5"]
  assert vllm.stats.paid_twice == 0 and play.totals.calls == 12


@pytest.mark.parametrize("end", [b"", b'{"id": "vllm-1", "custom'])
def test_a_result_that_is_being_written_is_awaited(play, directory, end):
  play(wanted(4))
  path = unanswered(directory)[0]
  result = run_batch(elsewhere(), path)
  complete = result.read_bytes()
  partial = complete.splitlines(keepends=True)[0] + end if end else b""
  result.write_bytes(partial)
  error = play(wanted(4))
  assert error.code == errors.PREEMPTED and f"{3 if end else 4} replies" in str(error)
  assert not (directory / "round_00_s_002.jsonl").exists() and str(path) in str(error)
  result.write_bytes(complete)
  assert len(play(wanted(4))) == 4


def test_results_in_any_order_with_garbage_between_them_are_read(play, directory):
  play(wanted(4))
  result = run_batch(elsewhere(), unanswered(directory)[0])
  lines = result.read_bytes().splitlines(keepends=True)
  foreign = json.dumps({"custom_id": "no", "response": None, "error": None}).encode() + b"\n"
  garbage = [
    b"\n",
    b"\xff\xfe{\n",
    b"[1, 2]\n",
    b'{"custom_id": 3}\n',
    foreign,
    b"[" * 9999 + b"\n",
  ]
  result.write_bytes(b"".join([*garbage, *lines[::-1], *lines]))
  assert [row[0].text for row in play(wanted(4))] == [f"q{k} #0 at 0.5" for k in range(4)]


def test_a_line_without_a_result_in_max_attempts_files_is_given_up(play, directory):
  vllm = elsewhere(["", *["500"] * 9])
  for _ in range(3):
    assert play(wanted(2), max_attempts=3).code == errors.PREEMPTED
    run_batch(vllm, unanswered(directory)[0])
  found = play(wanted(2), max_attempts=3)
  assert isinstance(found[1][0], types.Failure) and found[1][0].kind == "gave_up"
  assert "no result in 3 files (HTTP 500" in found[1][0].message
  assert found[0][0].text == "q0 #0 at 0.5" and len(list(directory.glob("*.jsonl"))) == 6


def test_an_unreadable_result_file_is_named(play, directory):
  play(wanted(3))
  (directory / "round_00_s_001.out.jsonl").write_bytes(b"<html>no</html>\n")
  message = str(play(wanted(3)))
  reason = "round_00_s_001.out.jsonl has no readable result for it"
  assert message.startswith(f"3 earlier requests failed ({reason})")
  assert message == str(play(wanted(3))) and "round_00_s_002.jsonl" in message


def test_a_truncated_reply_is_requested_with_a_larger_limit(play, directory):
  vllm = elsewhere(["length", "length"])
  for tokens in (100, 200, 400):
    assert play(wanted(1), max_tokens_retry_limit=400).code == errors.PREEMPTED
    (path,) = unanswered(directory)
    assert json.loads(path.read_text())["body"]["max_tokens"] == tokens
    run_batch(vllm, path)
  assert play(wanted(1), max_tokens_retry_limit=400)[0][0].text == "q0 #0 at 0.5"
  assert play.totals.tokens_out == 9


def test_requests_are_split_into_files(play, directory):
  error = play(wanted(9), batch_size=2)
  assert len(unanswered(directory)) == 5 and "likewise for 2 more" in str(error)
  for path in unanswered(directory):
    run_batch(elsewhere(), path)
  assert len(play(wanted(9), batch_size=2)) == 9


def test_a_cap_is_checked_before_a_file_is_written(play, directory):
  assert play(wanted(3), max_dollars=0.001).code == errors.BUDGET
  assert unanswered(directory) == []


def test_a_missing_model_is_reported_with_the_file(play, directory):
  play(wanted(1))
  run_batch(elsewhere(["404"]), unanswered(directory)[0])
  error = play(wanted(1))
  assert error.code == errors.TEACHER and "out.jsonl" in str(error)


def test_a_foreign_file_is_named(play, directory):
  play(wanted(1))
  for line in ('{"question": 1}', "[" * 100_000):
    (directory / "other.jsonl").write_text(f"{line}\n")
    assert "other.jsonl" in str(play(wanted(1)))


def test_a_directory_that_cannot_be_created_is_an_error(tmp_path):
  (tmp_path / "file").write_text("")
  with contextlib.closing(filed(tmp_path / "file" / "x", tmp_path / "t.sqlite")) as teacher:
    assert user_error(ask, teacher, wanted(1)).code == errors.DATA


def test_a_full_disk_leaves_no_partial_file(play, directory, monkeypatch):
  def full(_):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(files.os, "fsync", full)
  assert "No space left" in str(play(wanted(2)))
  assert list(directory.iterdir()) == []


def test_a_directory_that_cannot_be_synced_is_closed(play, directory, monkeypatch):
  synced = []

  def full(descriptor):
    synced.append(descriptor)
    if len(synced) == 2:
      raise OSError(errno.EIO, "Input/output error")

  monkeypatch.setattr(files.os, "fsync", full)
  assert "Input/output error" in str(play(wanted(2)))
  with pytest.raises(OSError, match="Bad file descriptor"):
    os.fstat(synced[1])


@pytest.mark.parametrize("fault", ["refusal", "empty", "400"])
def test_reset_failures_go_into_the_next_file_and_are_billed_once(play, directory, tmp_path, fault):
  play(wanted(2))
  run_batch(elsewhere(["", fault]), unanswered(directory)[0])
  first = play(wanted(2))
  assert isinstance(first[1][0], types.Failure)
  spent = play.totals.dollars
  store = cache.ReplyCache(tmp_path / "teacher.sqlite")
  assert store.reset_failures("this run", ()) == 1
  store.close()
  assert play(wanted(2)).code == errors.PREEMPTED and play.totals.dollars == spent
  (path,) = unanswered(directory)
  assert len(path.read_text().splitlines()) == 1
  run_batch(elsewhere(), path)
  assert all(isinstance(reply, types.Reply) for (reply,) in play(wanted(2)))
