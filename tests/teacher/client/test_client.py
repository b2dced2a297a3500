"""Replies match their requests, in order; each is paid for once and accounted for."""

import contextlib
import dataclasses
import sqlite3
import threading
import time

import pytest
from scripted import ask, wanted

from distill_jax import errors
from distill_jax.teacher import types
from distill_jax.teacher.client import progress, rate_limit, transport
from distill_jax.teacher.store import cache, writer


def texts(replies):
  return [[reply.text for reply in row] for row in replies]


def test_replies_come_in_the_order_of_the_requests_with_all_samples(serve, connect):
  server = serve(latency=0.002)
  got = texts(ask(connect(server.url), wanted(20, samples=3)))
  assert got == [[f"q{q} #{k} at 0.5" for k in range(3)] for q in range(20)]
  assert server.stats.requests == 20


def test_the_temperature_is_the_requested_one(serve, connect):
  teacher = connect(serve().url)
  assert texts(ask(teacher, wanted(1), temperature=0.0)) == [["q0 #0 at 0.0"]]
  assert texts(ask(teacher, wanted(1), temperature=1.0)) == [["q0 #0 at 1.0"]]


def test_nothing_is_requested_twice(serve, connect):
  server = serve()
  first = ask(connect(server.url), wanted(5, samples=2))
  again = ask(connect(server.url), wanted(5, samples=2))
  assert again == first
  assert (server.stats.requests, server.stats.paid_twice) == (5, 0)


def test_only_missing_samples_are_requested(serve, connect):
  server = serve()
  teacher = connect(server.url)
  ask(teacher, wanted(1, samples=2))
  assert texts(ask(teacher, wanted(1, samples=5))) == [[f"q0 #{k} at 0.5" for k in range(5)]]
  assert texts(ask(teacher, wanted(1, samples=2, first=4))) == [["q0 #4 at 0.5", "q0 #5 at 0.5"]]
  assert (server.stats.requests, server.stats.completed) == (3, 6)


def test_samples_on_both_sides_of_a_gap_are_numbered_correctly(serve, connect):
  server = serve()
  teacher = connect(server.url)
  ask(teacher, wanted(1, samples=1, first=2))
  assert texts(ask(teacher, wanted(1, samples=5))) == [[f"q0 #{k} at 0.5" for k in range(5)]]
  assert server.stats.completed == 5


def test_equal_requests_share_one_call(serve, connect):
  server = serve()
  teacher = connect(server.url)
  assert len(set(map(str, texts(ask(teacher, wanted(1) * 7))))) == 1
  assert server.stats.completed == 1
  assert teacher.ledger.of(0).calls == 1


def test_a_server_that_returns_fewer_choices_is_asked_for_the_rest(serve, connect):
  server = serve(["fewer", "fewer"])
  assert len(set(texts(ask(connect(server.url), wanted(1, samples=4)))[0])) == 4
  assert server.stats.requests == 3


def test_no_more_requests_are_in_flight_than_allowed(serve, connect):
  server = serve(latency=0.01)
  ask(connect(server.url, max_concurrency=5), wanted(30))
  assert server.stats.max_in_flight == 5


def test_the_ledger_counts_who_paid_first(serve, connect):
  teacher = connect(serve().url)
  ask(teacher, wanted(4), round=0, phase="a")
  replies = ask(teacher, wanted(6), round=1, phase="b")
  one, two, all_ = teacher.ledger.of(0), teacher.ledger.of(1, "b"), teacher.ledger.total()
  assert (one.calls, one.cache_hits, two.calls, two.cache_hits) == (4, 0, 2, 4)
  assert [row[0].cached for row in replies] == [True] * 4 + [False] * 2
  assert all_.calls == 6 and all_.tokens_in == one.tokens_in + two.tokens_in
  assert all_.dollars == pytest.approx((all_.tokens_in + 10 * all_.tokens_out) / 1e6)
  assert two.dollars == pytest.approx(sum(row[0].dollars for row in replies))


def test_the_ledger_is_the_same_after_a_restart_and_a_repeated_ask(serve, connect):
  server = serve()
  teacher = connect(server.url)
  ask(teacher, wanted(9, samples=3), round=2, phase="b")
  before = teacher.ledger.of(2)
  teacher.close()
  teacher = connect(server.url)
  replies = ask(teacher, wanted(9, samples=3), round=2, phase="b")
  assert teacher.ledger.of(2) == before
  assert not any(reply.cached for row in replies for reply in row)


def test_samples_share_the_tokens_of_their_response_exactly(serve, connect):
  (row,) = ask(connect(serve().url), [types.Request("annotate", "q", (("user", "q" * 403),), 3)])
  assert sum(reply.tokens_in for reply in row) == 403 // 4
  assert sum(reply.tokens_out for reply in row) == sum(len(reply.text) // 4 for reply in row)


def test_runs_that_share_a_cache_pay_once_and_their_ledgers_say_so(serve, connect):
  server = serve()
  first = connect(server.url, run="/a")
  second = connect(server.url, run="/b")
  ask(first, wanted(3))
  ask(second, wanted(3))
  assert (first.ledger.total().calls, first.ledger.total().cache_hits) == (3, 0)
  assert (second.ledger.total().calls, second.ledger.total().cache_hits) == (0, 3)
  assert second.ledger.total().dollars == 0 and server.stats.completed == 3


def test_the_identity_replaces_the_address_of_a_server_whose_port_changes(serve, connect):
  ask(connect(serve().url, identity="builtin:1"), wanted(2))
  other = serve()
  ask(connect(other.url, identity="builtin:1"), wanted(2))
  assert other.stats.requests == 0
  ask(connect(other.url, identity="builtin:2"), wanted(2))
  assert other.stats.requests == 2


def test_progress_reaches_the_total(serve, connect):
  seen = []
  ask(
    connect(serve(["500", "refusal"]).url, max_concurrency=1),
    wanted(6, samples=2),
    on_progress=seen.append,
  )
  assert [p.done for p in seen] == sorted(p.done for p in seen)
  last = seen[-1]
  assert (last.done, last.total, last.failures, last.retries) == (12, 12, 2, 1) and last.dollars > 0


def test_progress_is_complete_at_once_if_everything_is_cached(serve, connect):
  teacher, seen = connect(serve().url), []
  ask(teacher, wanted(6))
  ask(teacher, wanted(6) * 2, on_progress=seen.append)
  assert [(p.done, p.total) for p in seen] == [(12, 12)]


@pytest.mark.parametrize("cap", [{"max_dollars": 0.0009}, {"max_requests": 0}])
def test_a_cap_is_checked_before_the_first_request(serve, connect, cap):
  server = serve()
  with pytest.raises(errors.UserError, match=f"teacher.{next(iter(cap))}") as error:
    ask(connect(server.url, **cap), wanted(3))
  assert error.value.code == errors.BUDGET and server.stats.requests == 0


def test_a_cap_reached_midway_loses_nothing(serve, connect):
  server = serve()
  # A reservation is about $0.001.
  teacher = connect(server.url, max_dollars=0.0017, max_concurrency=8)
  with pytest.raises(errors.UserError, match=r"are spent.*max_dollars"):
    ask(teacher, wanted(50))
  paid = server.stats.completed
  assert 0 < paid < 50
  totals = teacher.ledger.total()
  assert totals.calls == paid and totals.dollars <= 0.0017
  ask(connect(server.url), wanted(50))
  assert (server.stats.completed, server.stats.paid_twice) == (50, 0)


def test_the_cap_applies_to_the_run_and_not_to_the_process(serve, connect):
  server = serve()
  ask(connect(server.url, max_requests=3), wanted(3))
  ask(connect(server.url, max_requests=3), wanted(3))
  with pytest.raises(errors.UserError, match="max_requests"):
    ask(connect(server.url, max_requests=3), wanted(4))


def test_a_reply_is_immutable(serve, connect):
  (row,) = ask(connect(serve().url), wanted(1))
  with pytest.raises(dataclasses.FrozenInstanceError):
    row[0].text = "other"


def test_asks_from_several_threads_share_their_common_requests(serve, connect):
  server = serve(latency=0.05)
  teacher, found = connect(server.url), []
  threads = [
    threading.Thread(target=lambda: found.append(ask(teacher, wanted(6, samples=2))))
    for _ in range(3)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert found[0] == found[1] == found[2]
  assert (server.stats.completed, server.stats.paid_twice) == (12, 0)


def test_one_write_stores_many_replies_and_none_is_used_before_it(
  serve, connect, tmp_path, monkeypatch
):
  writes, seen, store_many, done = [], [], cache.ReplyCache.store_many, progress.ProgressMeter.done

  def noted(self, calls):
    writes.append(len(calls))
    time.sleep(0.02)  # a slow disk
    store_many(self, calls)

  def noted_done(self, samples, failures, tokens):
    with contextlib.closing(sqlite3.connect(tmp_path / "teacher.sqlite")) as other:
      seen.append(other.execute("select count(*) from replies").fetchone()[0])
    done(self, samples, failures, tokens)

  monkeypatch.setattr(cache.ReplyCache, "store_many", noted)
  monkeypatch.setattr(progress.ProgressMeter, "done", noted_done)
  ask(connect(serve(latency=0.01).url, max_concurrency=40), wanted(120))
  assert sum(writes) == 120 and len(writes) < 60
  assert all(stored >= k for k, stored in enumerate(seen, 1)) and len(seen) == 120


def test_a_disk_error_stops_the_run_with_one_line(serve, connect, monkeypatch):
  def full(self, calls):
    raise errors.data("teacher cache teacher.sqlite cannot be used (disk is full)")

  monkeypatch.setattr(cache.ReplyCache, "store_many", full)
  server = serve(latency=0.01)
  with pytest.raises(errors.UserError, match=r"disk is full"):
    ask(connect(server.url), wanted(50))
  assert server.stats.requests <= 8


def test_the_deadline_applies_to_all_asks_together(serve, connect):
  server = serve(latency=0.1)
  teacher = connect(server.url, max_concurrency=2, deadline=1.0)
  ask(teacher, wanted(4))
  with pytest.raises(errors.UserError, match=r"teacher\.deadline \(1 s\) reached.*re-run") as error:
    ask(teacher, wanted(200), round=1)
  assert error.value.code == errors.BUDGET
  assert teacher.ledger.total().calls == server.stats.completed < 60
  with pytest.raises(errors.UserError, match=r"teacher\.deadline"):
    ask(teacher, wanted(200), round=2)


def test_requests_keep_to_the_limit_per_minute(serve, connect):
  begun = time.monotonic()
  ask(connect(serve().url, requests_per_minute=600, max_concurrency=50), wanted(40))
  assert time.monotonic() - begun >= (40 - 600 / 60 * rate_limit.BURST) / 10 - 0.1


def test_a_failure_records_the_servers_request_id(serve, connect):
  server = serve(["", "400:request_id=req_abc", "refusal", "500:request_id=req_7"])
  rows = ask(connect(server.url, max_concurrency=1, max_attempts=1), wanted(4))
  found = [(row[0].kind, row[0].status, row[0].request_id, row[0].attempts) for row in rows[1:]]
  assert found[0] == ("bad_request", 400, "req_abc", 1)
  assert found[1] == ("refusal", 200, "chatcmpl-2", 1)
  assert found[2] == ("gave_up", 500, "req_7", 1)


def test_progress_reports_rates_projected_cost_and_time_left(serve, connect, monkeypatch):
  monkeypatch.setattr(progress, "TICK", 0.01)
  seen = []
  ask(connect(serve(latency=0.05).url, max_concurrency=3), wanted(30), on_progress=seen.append)
  midway = [p for p in seen if 0 < p.done < 30]
  assert max(p.in_flight for p in midway) > 0 and all(p.in_flight <= p.limit == 3 for p in midway)
  assert all(
    p.requests_per_second > 0 and p.tokens_per_second > 0 and p.seconds_left > 0 for p in midway
  )
  assert midway[-1].projected_dollars == pytest.approx(seen[-1].dollars, rel=0.3)
  assert {"failures", "retries", "dollars", "projected", "in flight", "requests/s"} <= {
    *midway[-1].facts()
  }


def test_progress_is_reported_while_there_is_no_response_and_says_so(serve, connect, monkeypatch):
  monkeypatch.setattr(progress, "TICK", 0.1)
  monkeypatch.setattr(types, "IDLE_NOTICE", 0.5)
  seen = []
  ask(connect(serve(["hang"]).url, timeout=1.5), wanted(1), on_progress=seen.append)
  assert sum("no response for" in p.facts() for p in seen) >= 3
  assert "no response for" not in seen[-1].facts()


def test_a_request_keeps_its_idempotency_key_until_its_response_is_stored(
  serve, connect, monkeypatch, tmp_path
):
  keys, send = [], transport.Transport.send

  def noted(self, body, model, idempotency_key):
    keys.append(idempotency_key)
    return send(self, body, model, idempotency_key)

  monkeypatch.setattr(transport.Transport, "send", noted)
  server = serve(["500", "close", "torn", "", "refusal"])
  teacher = connect(server.url, max_concurrency=1)
  assert ask(teacher, wanted(1))[0][0].text == "q0 #0 at 0.5"
  assert keys[0] == keys[1] == keys[2] != keys[3]  # a malformed body was a response
  assert ask(teacher, wanted(2))[1][0].kind == "refusal"
  ask(teacher, wanted(2), round=1)
  assert len(set(keys)) == 4  # asking again after a refusal is another request
  other = connect(server.url, cache_path=str(tmp_path / "other.sqlite"))
  ask(other, wanted(2))
  assert len(set(keys)) == 6  # and so is one for another cache file


def test_a_server_that_honors_idempotency_keys_bills_a_lost_reply_once(serve, connect, monkeypatch):
  server, write = serve(), writer.StoreWriter.write

  async def lost(*_):
    raise OSError("the process died")

  monkeypatch.setattr(writer.StoreWriter, "write", lost)
  with pytest.raises(OSError):
    ask(connect(server.url, max_concurrency=1), wanted(1))
  monkeypatch.setattr(writer.StoreWriter, "write", write)
  assert ask(connect(server.url), wanted(1))[0][0].text == "q0 #0 at 0.5"
  assert (server.stats.requests, server.stats.completed, server.stats.paid_twice) == (2, 1, 0)
