"""The Batch API: half the price, nothing submitted twice and nothing lost, however batches end."""

import dataclasses
import json
import math
import sqlite3
import threading
import time

import pytest
from batch_scripted import batched, user_error
from scripted import ask, wanted

from distill_jax import errors
from distill_jax.teacher import types
from distill_jax.teacher.batch import calls as batch_calls
from distill_jax.teacher.batch import format, results
from distill_jax.teacher.builtin import http
from distill_jax.teacher.client import rate_limit, request_body, verdicts
from distill_jax.teacher.store import cache
from tests import teacher_batches


@pytest.fixture
def path(tmp_path):
  return tmp_path / "teacher.sqlite"


def texts(rows) -> list[list[str]]:
  return [[getattr(one, "text", getattr(one, "kind", "")) for one in row] for row in rows]


def shaper(warnings) -> request_body.RequestShaper:
  return request_body.RequestShaper(extra="", structured=False, warn=warnings.append)


def states(path) -> list[str]:
  with sqlite3.connect(path) as db:
    found = [row[0] for row in db.execute("select state from batches order by rowid")]
  db.close()
  return found


def test_replies_are_those_of_ordinary_calls_at_half_the_price(serve, connect, path):
  server = serve()
  teacher = batched(server.url, path)
  replies = ask(teacher, wanted(30, samples=3), phase="batch")
  plain = connect(server.url, cache_path=str(path.with_name("plain.sqlite")))
  assert texts(replies) == texts(ask(plain, wanted(30, samples=3), phase="batch"))
  mine, theirs = teacher.ledger.of(0, "batch"), plain.ledger.of(0, "batch")
  assert mine.dollars == pytest.approx(theirs.dollars / 2) and mine.dollars > 0
  assert (mine.calls, mine.tokens_in, mine.tokens_out) == (90, theirs.tokens_in, theirs.tokens_out)
  assert server.batches.requests["create"] == 1 and teacher.ledger.requests_sent() == 30
  teacher.close()


def test_replies_of_a_batch_are_cache_hits_of_ordinary_calls_and_the_other_way_round(
  serve, connect, path
):
  server = serve()
  ask(connect(server.url), wanted(5), phase="a")
  teacher = batched(server.url, path)
  ask(teacher, wanted(8), phase="b")
  assert teacher.ledger.of(0, "b").cache_hits == 5 and teacher.ledger.of(0, "b").calls == 3
  teacher.close()
  plain = connect(server.url)
  assert ask(plain, wanted(8), phase="c") and plain.ledger.of(0, "c").calls == 0


def test_each_line_succeeds_or_fails_by_itself(serve, path):
  script = ["", "429", "hang", "refusal", "500", "length", "400", "fewer", "close", "empty_object"]
  server = serve(script)
  teacher = batched(server.url, path)
  found = ask(teacher, wanted(12, samples=2))
  kinds = ["refusal", "length", "bad_request"]
  assert texts(found) == [
    [kinds[(3, 5, 6).index(k)]] * 2 if k in (3, 5, 6) else [f"q{k} #{s} at 0.5" for s in (0, 1)]
    for k in range(12)
  ]
  totals = teacher.ledger.of(0)
  assert totals.calls == 18 and totals.failures == 6 and totals.retries == 5
  assert server.stats.paid_twice == 0 and found[3][0].request_id == "batch-0-3"
  assert states(path) == ["completed", "completed"]
  teacher.close()


def test_a_line_that_never_succeeds_is_given_up(serve, path):
  server = serve(["", *["500"] * 20])
  teacher = batched(server.url, path, max_attempts=3)
  found = ask(teacher, wanted(2))
  assert found[0][0].text and (found[1][0].kind, found[1][0].attempts) == ("gave_up", 3)
  assert found[1][0].status == 500 and len(server.batches.batches) == 3
  teacher.close()


def test_a_truncated_reply_is_requested_with_a_larger_limit(serve, path):
  server = serve(["length", "length", ""])
  teacher = batched(server.url, path, max_tokens=100, max_tokens_retry_limit=400)
  assert texts(ask(teacher, wanted(1))) == [["q0 #0 at 0.5"]]
  assert len(server.batches.batches) == 3 and teacher.ledger.of(0).failures == 0
  assert teacher.ledger.of(0).tokens_out == 9  # truncated replies were paid for
  teacher.close()


@pytest.mark.parametrize("batch_size", [1, 7, 30])
def test_too_many_requests_for_one_file_go_into_several(serve, path, batch_size):
  server = serve()
  teacher = batched(server.url, path, batch_size=batch_size)
  assert len(ask(teacher, wanted(21))) == 21
  assert len(server.batches.batches) == math.ceil(21 / batch_size) and server.stats.completed == 21
  teacher.close()


def test_files_are_split_by_size_too(monkeypatch):
  monkeypatch.setattr(format, "MAX_FILE_BYTES", 25)
  parts = format.split_rows([format.RequestRow(k, b"x" * 10, 0.0) for k in range(7)], 100)
  assert [len(part) for part in parts] == [2, 2, 2, 1]
  assert (format.MAX_FILE_REQUESTS, format.split_rows([], 5)) == (50_000, [])


def test_samples_with_a_gap_between_them_are_separate_lines(serve, connect, path):
  server = serve()
  ask(connect(server.url), wanted(1, samples=1, first=1))
  teacher = batched(server.url, path)
  assert texts(ask(teacher, wanted(1, samples=4))) == [[f"q0 #{k} at 0.5" for k in range(4)]]
  assert server.stats.completed == 4
  teacher.close()


def test_the_rest_of_an_expired_batch_is_requested_again(serve, path):
  server = serve()
  server.batches.ends = ["expired@0.5", "expired@0.5"]
  teacher = batched(server.url, path)
  assert texts(ask(teacher, wanted(8))) == [[f"q{k} #0 at 0.5"] for k in range(8)]
  assert states(path) == ["expired", "expired", "completed"]
  assert server.stats.completed == 8 and server.stats.paid_twice == 0
  teacher.close()


def test_a_cancelled_batch_keeps_its_results_and_stops_the_run(serve, path):
  server = serve()
  server.batches.ends = ["cancelled@0.5"]
  teacher = batched(server.url, path)
  error = user_error(ask, teacher, wanted(8))
  assert error.code == errors.TEACHER and "4 of its replies are stored, 4 are missing" in str(error)
  assert len(ask(teacher, wanted(8))) == 8 and server.stats.completed == 8
  assert server.stats.paid_twice == 0 and states(path) == ["cancelled", "completed"]
  teacher.close()


def test_a_rejected_batch_stops_the_run_with_its_reason(serve, path):
  server = serve()
  server.batches.ends = ["failed"]
  teacher = batched(server.url, path)
  error = user_error(ask, teacher, wanted(3))
  assert error.code == errors.TEACHER and "no batch: injected" in str(error)
  assert teacher.ledger.total().dollars == 0 and len(ask(teacher, wanted(3))) == 3
  teacher.close()


def test_a_batch_without_room_waits_for_another_to_end(serve, path):
  server = serve(latency=0.05)
  server.batches.ends = ["completed", "full"]
  teacher = batched(server.url, path, batch_size=4)
  assert len(ask(teacher, wanted(8))) == 8
  assert sorted(states(path)) == ["completed", "completed", "failed"]
  assert server.stats.paid_twice == 0
  server.batches.ends = [""] * 3 + ["full"]
  assert "batch_size" in str(user_error(ask, teacher, wanted(9)))  # there is none to wait for
  teacher.close()


def test_no_credit_stops_the_run_after_its_results_are_stored(serve, path):
  server = serve(["", "", "429:code=insufficient_quota"])
  teacher = batched(server.url, path)
  error = user_error(ask, teacher, wanted(3))
  assert error.code == errors.TEACHER and "quota" in str(error)
  assert teacher.ledger.total().calls == 2
  assert len(ask(teacher, wanted(3))) == 3 and server.stats.paid_twice == 0
  teacher.close()


def test_a_server_that_rejects_every_line_stops_the_run(serve, path):
  server = serve("400@1")
  teacher = batched(server.url, path)
  assert "rejected every request" in str(user_error(ask, teacher, wanted(3)))
  teacher.close()


def test_a_feature_that_a_line_is_refused_for_is_left_out_of_the_next_batch(
  serve, path, monkeypatch
):
  server, warnings = serve(), []
  answer, refused = server.line, []

  def line(raw):
    if json.loads(raw).get("n", 1) > 1:
      refused.append(raw)
      return 400, http.error("Invalid n value: only one completion choice is supported")
    return answer(raw)

  monkeypatch.setattr(server.batches, "_answer", line)
  teacher = batched(server.url, path, shaper=shaper(warnings))
  assert [len(row) for row in texts(ask(teacher, wanted(4, samples=3)))] == [3] * 4
  assert len(refused) == 4 and server.batches.requests["create"] == 2
  assert len(warnings) == 1 and "several samples in one request" in warnings[0]
  teacher.close()


@pytest.mark.parametrize(
  ("say", "requested"), [("No valid output.", 5), ("The maximum context length is 9 tokens.", 4)]
)
def test_a_line_that_fails_with_a_schema_says_nothing_about_schemas(
  serve, path, monkeypatch, say, requested
):
  server, warnings = serve(), []
  answer, asked = server.line, []

  def line(raw):
    body = json.loads(raw)
    asked.append(body)
    if "response_format" in body and "q1" in body["messages"][-1]["content"]:
      return 400, http.error(say)
    return answer(raw)

  monkeypatch.setattr(server.batches, "_answer", line)
  structured = request_body.RequestShaper(extra="", structured=True, warn=warnings.append)
  teacher = batched(server.url, path, shaper=structured)
  found = texts(ask(teacher, wanted(4)))
  assert len(asked) == requested and (found[1] == ["bad_request"]) == (requested == 4)
  assert not structured.plain and not warnings
  teacher.close()


def test_a_feature_that_a_whole_batch_is_refused_for_is_left_out_of_the_next(
  serve, path, monkeypatch
):
  server, warnings = serve(), []
  unsupported = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
  problem = lambda content: unsupported if b'"max_tokens"' in content else ""
  monkeypatch.setattr(teacher_batches, "_problem", problem)
  teacher = batched(server.url, path, shaper=shaper(warnings))
  assert len(ask(teacher, wanted(3))) == 3
  assert server.batches.requests["create"] == 2 and "max_completion_tokens" in warnings[0]
  assert sorted(states(path)) == ["completed", "failed"]
  teacher.close()


def test_a_server_that_refuses_every_batch_for_a_feature_is_not_asked_forever(
  serve, path, monkeypatch
):
  server = serve()
  monkeypatch.setattr(teacher_batches, "_problem", lambda content: "n is not supported")
  teacher = batched(server.url, path, shaper=shaper([]))
  assert "n is not supported" in str(user_error(ask, teacher, wanted(3, samples=2)))
  teacher.close()


@pytest.mark.parametrize("field, terms", [("max_dollars", 0.001), ("max_requests", 4)])
def test_a_cap_is_checked_before_anything_is_sent(serve, path, field, terms):
  server = serve()
  teacher = batched(server.url, path, **{field: terms})
  error = user_error(ask, teacher, wanted(5))
  assert error.code == errors.BUDGET and field in str(error)
  assert not server.batches.requests and states(path) == []
  teacher.close()


def test_requests_that_were_not_uploaded_do_not_count_against_the_cap(serve, path):
  server = serve()
  server.batches.faults = {"upload": ["404", "", "404"]}
  teacher = batched(server.url, path, max_requests=5, batch_size=2)
  assert user_error(ask, teacher, wanted(5)).code == errors.TEACHER
  assert user_error(ask, teacher, wanted(5)).code == errors.TEACHER
  assert teacher.ledger.requests_sent() == 2
  assert len(ask(teacher, wanted(5))) == 5 and teacher.ledger.requests_sent() == 5
  teacher.close()


def test_batches_under_way_count_against_the_cap(serve, path):
  server = serve()
  teacher = batched(server.url, path, max_dollars=0.01)
  name = teacher.registry.make(cache.RunPhase("this run", 9, "z"), [], 0.0099)
  teacher.registry.record_submission(name, "batch-0")
  assert user_error(ask, teacher, wanted(2)).code == errors.BUDGET and not server.batches.requests
  teacher.registry.close_batch(name, "done")
  teacher.close()


@pytest.mark.parametrize(
  "fault", ["500", "close", "429:retry_after=0.01", "torn", "html", "empty_object"]
)
@pytest.mark.parametrize("verb", ["upload", "create", "poll", "content"])
def test_no_fault_of_the_server_creates_a_batch_twice(serve, path, monkeypatch, verb, fault):
  server = serve()
  server.batches.faults = {verb: [fault], "list": ["", "502"]}
  teacher = batched(server.url, path)
  monkeypatch.setattr(batch_calls, "LISTING_DELAY", 0.01)
  assert len(ask(teacher, wanted(4))) == 4
  assert len(server.batches.batches) == 1 and server.stats.completed == 4
  teacher.close()


def test_without_a_response_the_run_stops_and_can_resume(serve, path):
  server = serve()
  server.batches.faults = {"poll": ["503"] * 40}
  teacher = batched(server.url, path)
  error = user_error(ask, teacher, wanted(4))
  assert error.code == errors.TEACHER and "collect" in str(error)
  server.batches.faults = {}
  assert len(ask(teacher, wanted(4))) == 4 and len(server.batches.batches) == 1
  teacher.close()


def test_a_batch_that_cannot_be_looked_up_is_not_created_again(serve, path):
  server = serve()
  server.batches.faults = {"create": ["close"], "list": ["404"] * 9}
  teacher = batched(server.url, path)
  messages = [str(user_error(ask, teacher, wanted(4))) for _ in range(2)]
  assert "delete from batches" in messages[1] and server.batches.requests["create"] == 1
  teacher.close()


def test_a_server_without_a_batch_api_stops_the_run(serve, path):
  server = serve()
  server.batches.faults = {"upload": ["404"]}
  teacher = batched(server.url, path)
  assert user_error(ask, teacher, wanted(1)).code == errors.TEACHER
  assert states(path) == ["never sent"] and teacher.ledger.requests_sent() == 0
  teacher.close()


def test_a_batch_unknown_to_the_server_is_not_paid_for_again(serve, path):
  server = serve()
  server.batches.faults = {"poll": ["404"] * 9}
  teacher = batched(server.url, path)
  error = user_error(ask, teacher, wanted(2))
  assert "sqlite3" in str(error) and "delete from batches" in str(error)
  assert user_error(ask, teacher, wanted(2)).code == errors.TEACHER
  assert server.batches.requests["create"] == 1
  teacher.close()


def test_ordinary_calls_do_not_pay_for_samples_under_way(serve, path, connect):
  server = serve()
  server.batches.faults = {"poll": ["401"] * 9}
  teacher = batched(server.url, path)
  assert user_error(ask, teacher, wanted(2)).code == errors.TEACHER
  teacher.close()
  ordinary = connect(server.url)
  error, sent = user_error(ask, ordinary, wanted(3)), server.stats.requests
  assert "batch-0" in str(error) and "batch=api" in str(error)
  assert server.stats.requests == sent
  assert len(ask(ordinary, wanted(5)[2:])) == 3  # no batch has these
  assert len(ask(connect(server.url, run="another run"), wanted(2))) == 2


def test_a_batch_of_one_teacher_does_not_block_another_of_the_same_run(serve, path, connect):
  server = serve()
  server.batches.faults = {"poll": ["401"]}
  strong = batched(server.url, path, model="strong")
  cheap = connect(server.url, cache_path=str(path), model="cheap")
  assert user_error(ask, strong, wanted(2)).code == errors.TEACHER
  assert len(ask(cheap, wanted(2))) == len(ask(strong, wanted(2))) == 2
  strong.close()


def test_a_wait_is_at_least_the_clients_own_backoff(monkeypatch):
  monkeypatch.setattr(rate_limit, "backoff", lambda attempt: 2.0 * attempt)
  waits = [batch_calls._pause(verdicts.Retry("busy", wait), 3) for wait in (None, 0.0, 1.0, 9.0)]
  assert waits == [6.0, 6.0, 6.0, 9.0]


@pytest.mark.parametrize("verb", ["upload", "create", "poll", "list"])
def test_a_stop_interrupts_a_wait_that_the_server_asks_for(serve, path, verb):
  server = serve()
  server.batches.faults = {"create": ["close"]} if verb == "list" else {}
  server.batches.faults |= {verb: ["429:retry_after=9"]}
  teacher, started = batched(server.url, path, deadline=0.2, max_wait=60.0), time.monotonic()
  assert user_error(ask, teacher, wanted(2)).code == errors.BUDGET
  assert time.monotonic() - started < 5
  teacher.close()
  again = batched(server.url, path)
  server.batches.faults = {}
  assert len(ask(again, wanted(2))) == 2 and len(server.batches.batches) == 1
  again.close()


def test_two_runs_over_one_file_share_a_batch(serve, path):
  server = serve(latency=0.1)
  polls = {"a": 0.01, "b": 0.5}  # `a` collects and closes it before `b` looks again

  def start(name):
    return batched(server.url, path, run=name, max_wait=60.0, poll=polls[name])

  found, teachers = {}, [start(name) for name in polls]

  def play(teacher, name):
    found[name] = ask(teacher, wanted(10))

  threads = [threading.Thread(target=play, args=pair) for pair in zip(teachers, "ab", strict=True)]
  for thread in threads:
    thread.start()
    time.sleep(0.15)
  for thread in threads:
    thread.join()
  assert texts(found["a"]) == texts(found["b"]) and len(server.batches.batches) == 1
  totals = [teacher.ledger.total() for teacher in teachers]
  assert sorted((t.calls, t.cache_hits) for t in totals) == [(0, 10), (10, 0)]
  assert server.stats.completed == 10
  for teacher in teachers:
    teacher.close()


def test_progress_counts_samples_done_at_the_server(serve, path):
  server, reports = serve(latency=0.05), []
  teacher = batched(server.url, path)
  ask(teacher, wanted(6, samples=2), on_progress=reports.append)
  assert {p.total for p in reports} == {12} and reports[0].done == 0 and reports[-1].done == 12
  assert isinstance(reports[-1], types.Progress) and reports[-1].dollars > 0
  assert [p.done for p in reports] == sorted(p.done for p in reports)
  teacher.close()


def test_a_stop_leaves_the_batch_to_the_next_process(serve, path):
  server = serve(latency=0.3)
  teacher = batched(server.url, path, deadline=0.2)
  assert user_error(ask, teacher, wanted(3)).code == errors.BUDGET
  teacher.close()
  again = batched(server.url, path)
  assert len(ask(again, wanted(3))) == 3 and len(server.batches.batches) == 1
  again.close()


def test_a_failure_that_is_read_twice_is_billed_once(serve, path, monkeypatch):
  server = serve(["", "", "refusal"])  # the last line, and so the first result
  monkeypatch.setattr(results, "CALLS_PER_WRITE", 1)
  teacher, calls, original = batched(server.url, path), [], cache.ReplyCache.store_many

  def interrupted(self, rows):
    calls.append(rows)
    if len(calls) == 2:
      raise SystemExit
    original(self, rows)

  monkeypatch.setattr(cache.ReplyCache, "store_many", interrupted)
  with pytest.raises(SystemExit):
    ask(teacher, wanted(3))
  assert teacher.ledger.of(0).failures == 1 and teacher.ledger.of(0).calls == 0
  ask(teacher, wanted(3))
  totals = teacher.ledger.of(0)
  assert (totals.calls, totals.failures, totals.tokens_out) == (2, 1, 9)
  teacher.close()


def test_a_server_with_one_request_id_for_all_is_not_asked_forever(serve, path, monkeypatch):
  server, read = serve(["refusal"] * 99), format.parse_results
  same = lambda *a: (dataclasses.replace(found, request_id="x") for found in read(*a))
  monkeypatch.setattr(format, "parse_results", same)
  teacher = batched(server.url, path)
  assert texts(ask(teacher, wanted(1))) == [["refusal"]]
  assert teacher._store.reset_failures("this run", ()) == 1
  assert texts(ask(teacher, wanted(1))) == [["gave_up"]] and len(server.batches.batches) == 5
  teacher.close()


def test_a_batch_that_another_thread_is_creating_is_not_taken_for_one_that_was_left(serve, path):
  server = serve()
  server.batches.faults = {"upload": ["429:retry_after=0.5"]}
  strong, cheap = (batched(server.url, path, model=m, max_wait=9.0) for m in ("strong", "cheap"))
  thread = threading.Thread(target=ask, args=(strong, wanted(3)))
  thread.start()
  while not server.batches.requests.get("upload"):
    time.sleep(0.005)
  ask(cheap, wanted(3))
  thread.join()
  assert len(ask(strong, wanted(3))) == 3 and server.batches.requests["create"] == 2
  assert server.stats.completed == 6 and states(path) == ["completed"] * 2
  strong.close()
  cheap.close()
