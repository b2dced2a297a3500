"""Every kind of fault between client and server, against a real server, and how the run ends."""

import itertools
import json
import time

import pytest
from scripted import ask, wanted

from distill_jax import errors
from distill_jax.teacher import types
from distill_jax.teacher.client import dispatcher, transport, verdicts

# How each fault ends:
#   passes    the request is retried and succeeds
#   lasts     a failure is recorded and not requested again
#   rejected  a failure is recorded, and requested again by the next command
#   stops     the run stops
MATRIX = {
  "429, Retry-After in seconds": ("passes", "429:retry_after=0.05"),
  "429, Retry-After is a date": ("passes", "429:retry_date=1"),
  "429, Retry-After in milliseconds": ("passes", "429:retry_after_ms=50"),
  "429, Retry-After of 300 s": ("stops", "429:retry_after=300"),
  "429, no wait given": ("passes", "429"),
  "429, a Go duration": ("passes", "429:retry_after=0m0.05s"),
  "429, requests reset": ("passes", "429:reset_requests=50ms:remaining_requests=0"),
  "429, tokens reset": ("passes", "429:reset_tokens=0m0.05s:remaining_tokens=0"),
  "429, tokens reset in 6m0s": ("stops", "429:reset_tokens=6m0s:remaining_tokens=0"),
  "500": ("passes", "500"),
  "502": ("passes", "502"),
  "timeout": ("passes", "hang"),
  "closed socket": ("passes", "close"),
  "cut body": ("passes", "cut"),
  "torn JSON": ("passes", "torn"),
  "HTML": ("passes", "html"),
  "{}": ("passes", "empty_object"),
  "no choices": ("passes", "no_choices"),
  "duplicate keys in the body": ("lasts", "double"),
  "slow drip": ("passes", "drip"),
  "empty content": ("lasts", "empty"),
  "refusal": ("lasts", "refusal"),
  "content filter": ("lasts", "filter"),
  "content filter as a status": ("lasts", "400:code=content_filter"),
  "length stop": ("lasts", "length"),
  "400": ("rejected", "400"),
  "401": ("stops", "401"),
  "403": ("stops", "403"),
  "insufficient_quota": ("stops", "429:code=insufficient_quota"),
}


@pytest.mark.parametrize("cell", MATRIX)
def test_each_fault_ends_as_expected_with_nothing_lost_and_nothing_paid_twice(serve, connect, cell):
  end, fault = MATRIX[cell]
  named = f"{fault}:request_id=req_7" if fault[0].isdecimal() else fault
  server = serve(["", "", named])
  options = {"max_concurrency": 1, "timeout": 0.8}
  requests, replies = wanted(4, samples=2) + wanted(2, samples=2), None  # some of them twice
  if end == "stops":
    with pytest.raises(errors.UserError, match="request req_7"):
      ask(connect(server.url, **options), requests)
    assert server.stats.requests == 3
  else:
    replies = ask(connect(server.url, **options), requests)
    assert [row[0].text for row in replies[:2]] == ["q0 #0 at 0.5", "q1 #0 at 0.5"]
    assert replies[4:] == replies[:2]
    failed = [reply for reply in replies[2] if isinstance(reply, types.Failure)]
    assert bool(failed) == (end in ("lasts", "rejected") and fault != "double")
    assert all(reply.attempts == 1 and reply.request_id for reply in failed)
    assert {reply.status for reply in failed} <= {200, 400}
    assert isinstance(replies[3][1], types.Reply)
  before = server.stats.requests
  again = ask(connect(server.url, **options), requests)  # as a restarted process does
  assert replies is None or end == "rejected" or again == replies
  assert server.stats.requests - before == {"stops": 2, "rejected": 1}.get(end, 0)
  assert server.stats.paid_twice == 0


PASSING = [
  *(
    "500",
    "502",
    "503",
    "408",
    "409",
    "429",
    "425",
    "529",
    "429:retry_after=0.01",
    "503:retry_date=0",
  ),
  *("cut", "torn", "html", "empty_object", "no_choices", "close"),
]
LASTING = {"refusal": "refusal", "filter": "filtered", "length": "length", "empty": "empty"}


@pytest.mark.parametrize("fault", PASSING)
def test_transient_faults_are_retried(serve, connect, fault):
  server = serve([fault, fault])
  teacher = connect(server.url)
  replies = ask(teacher, wanted(3))
  assert [row[0].text for row in replies] == [f"q{k} #0 at 0.5" for k in range(3)]
  assert (server.stats.requests, server.stats.completed, teacher.ledger.total().retries) == (
    5,
    3,
    2,
  )


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_slow_responses_are_retried(serve, connect, fault):
  server = serve([fault])
  assert ask(connect(server.url, timeout=1.0), wanted(1))[0][0].text == "q0 #0 at 0.5"
  assert server.stats.requests == 2


@pytest.mark.parametrize("fault", LASTING)
def test_an_invalid_reply_is_recorded_and_the_run_continues(serve, connect, fault):
  server = serve([fault])
  teacher = connect(server.url, max_concurrency=1)
  replies = ask(teacher, wanted(3))
  assert isinstance(replies[0][0], types.Failure) and replies[0][0].kind == LASTING[fault]
  assert replies[0][0].tokens_in > 0 and replies[0][0].dollars > 0  # it was billed
  totals = teacher.ledger.total()
  assert (totals.calls, totals.failures) == (2, 1)
  assert ask(connect(server.url), wanted(3)) == replies  # and it stays with its round and phase
  assert server.stats.requests == 3
  assert ask(teacher, wanted(3), round=1)[0][0].text == "q0 #0 at 0.5"


@pytest.mark.parametrize(
  ("fault", "kind"),
  [("400", "bad_request"), ("422", "bad_request"), ("400:code=content_filter", "filtered")],
)
def test_a_rejected_request_is_recorded_and_the_run_continues(serve, connect, fault, kind):
  server = serve([fault])
  replies = ask(connect(server.url, max_concurrency=1), wanted(3, samples=2))
  assert [reply.kind for reply in replies[0]] == [kind, kind]
  assert all(isinstance(reply, types.Reply) for row in replies[1:] for reply in row)


@pytest.mark.parametrize(
  ("fault", "message"),
  [
    ("401", "key"),
    ("403", "may not use"),
    ("404", "teacher.model"),
    ("402", "credit"),
    ("429:code=insufficient_quota", "quota"),
  ],
)
def test_permanent_errors_stop_the_run_at_once(serve, connect, fault, message):
  server = serve([fault] * 100)
  with pytest.raises(errors.UserError, match=message) as error:
    ask(connect(server.url), wanted(100))
  assert error.value.code == errors.TEACHER and "\n" not in str(error.value)
  assert server.stats.requests <= 4  # those in flight


def test_replies_received_before_a_stop_are_kept(serve, connect):
  server = serve([""] * 5 + ["401"])
  with pytest.raises(errors.UserError):
    ask(connect(server.url, max_concurrency=1), wanted(10))
  ask(connect(server.url), wanted(10))
  assert (server.stats.completed, server.stats.paid_twice) == (10, 0)


@pytest.mark.parametrize("fault", ["html", "empty_object", "torn", "cut", "500"])
def test_a_server_that_never_gives_a_valid_response_stops_the_run(serve, connect, fault):
  server = serve([fault] * 100)
  with pytest.raises(
    errors.UserError, match=r"no valid response from http://127\.0\.0\.1.*base_url"
  ):
    ask(connect(server.url), wanted(50))
  assert server.stats.requests <= 16


def test_a_server_that_is_not_running_stops_the_run(connect):
  with pytest.raises(
    errors.UserError, match=r"no valid response.*check that it is running"
  ) as error:
    ask(connect("http://127.0.0.1:9/v1"), wanted(5))
  assert error.value.code == errors.TEACHER and "\n" not in str(error.value)


def test_a_server_that_rejects_everything_stops_the_run(serve, connect):
  server = serve(["400:say=Unsupported parameter"] * 1000)
  with pytest.raises(errors.UserError, match=r"Unsupported parameter.*max_tokens_field"):
    ask(connect(server.url), wanted(500))
  assert server.stats.requests < 20


def test_a_request_that_keeps_failing_is_given_up_and_requested_again_next_time(serve, connect):
  server = serve([""] + ["500"] * 4)
  teacher = connect(server.url, max_concurrency=1)
  replies = ask(teacher, wanted(3))
  assert (replies[1][0].kind, replies[1][0].attempts) == ("gave_up", 4)
  assert isinstance(replies[2][0], types.Reply)
  assert teacher.ledger.total().failures == 1
  assert all(isinstance(row[0], types.Reply) for row in ask(teacher, wanted(3)))
  assert teacher.ledger.total().failures == 0


def test_a_server_that_dies_midway_stops_the_run(serve, connect):
  server = serve([""] * 3 + ["500"] * 10_000)
  with pytest.raises(errors.UserError, match="stopped responding"):
    ask(connect(server.url, max_attempts=2), wanted(500))
  assert server.stats.requests < 3 + 2 * (dispatcher.DEAD_AFTER + 8)


@pytest.mark.parametrize("spelling", ["retry_after=0.4", "retry_after_ms=400"])
def test_all_workers_wait_when_the_server_asks_one_to(serve, connect, spelling):
  arrivals = []

  def answer(messages, n, temperature, seed):
    arrivals.append(time.monotonic())
    return ["x"] * n

  server = serve(["", "", f"429:{spelling}"], answer=answer, latency=0.02)
  ask(connect(server.url, max_concurrency=3), wanted(40))
  gaps = [b - a for a, b in itertools.pairwise(arrivals)]
  assert max(gaps) >= 0.35 and sum(gap > 0.3 for gap in gaps) == 1
  assert server.stats.max_in_flight == 3


def test_a_wait_beyond_max_wait_stops_the_run_and_says_how_long(serve, connect):
  server = serve([""] * 2 + ["429:retry_after=300"] * 100)
  started = time.monotonic()
  with pytest.raises(errors.UserError, match=r"asks to wait 300 s.*teacher.max_wait=5"):
    ask(connect(server.url, max_concurrency=2), wanted(10))
  assert time.monotonic() - started < 4
  assert server.stats.requests <= 5


def test_injected_faults_change_only_the_number_of_requests(serve, connect, tmp_path):
  script = (
    "429:retry_after=0.01@0.05,500@0.1,cut@0.05,html@0.05,empty_object@0.05,close@0.05,fewer@0.1"
  )
  calm = ask(connect(serve().url, cache_path=str(tmp_path / "calm.sqlite")), wanted(60, samples=2))
  server = serve(script)
  rough = ask(connect(server.url, max_attempts=12), wanted(60, samples=2))
  assert [[r.text for r in row] for row in rough] == [[r.text for r in row] for row in calm]
  assert server.stats.faults > 10 and server.stats.paid_twice == 0


def bodies(monkeypatch) -> list[dict]:
  """The bodies of all requests sent from now on."""
  seen, send = [], transport.Transport.send

  def noted(self, body, *others):
    seen.append(body)
    return send(self, body, *others)

  monkeypatch.setattr(transport.Transport, "send", noted)
  return seen


def test_a_truncated_reply_is_requested_again_with_twice_the_tokens(serve, connect, monkeypatch):
  sent, server = bodies(monkeypatch), serve(["length", "", "length"])
  teacher = connect(server.url, max_concurrency=1, max_tokens_retry_limit=250)
  replies = ask(teacher, wanted(2))
  assert [row[0].text for row in replies] == ["q0 #0 at 0.5", "q1 #0 at 0.5"]
  assert [body["max_tokens"] for body in sent] == [100, 200, 100, 200]
  totals = teacher.ledger.of(0)
  assert (totals.calls, totals.failures, totals.retries) == (2, 0, 0)
  assert totals.tokens_out == 2 * replies[0][0].tokens_out + 2 * replies[1][0].tokens_out


def test_a_reply_truncated_at_the_retry_limit_is_a_settled_failure(serve, connect, monkeypatch):
  sent, server = bodies(monkeypatch), serve(["length"] * 3)
  teacher = connect(server.url, max_concurrency=1, max_tokens_retry_limit=250)
  (row,) = ask(teacher, wanted(1))
  assert (row[0].kind, types.truncated_at(row[0])) == ("length", 250)
  assert [body["max_tokens"] for body in sent] == [100, 200, 250]
  assert ask(teacher, wanted(1)) == [row] and server.stats.requests == 3
  larger = connect(server.url, max_concurrency=1, max_tokens_retry_limit=1000)
  assert ask(larger, wanted(1))[0][0].text == "q0 #0 at 0.5"  # starts at twice the last limit
  assert sent[-1]["max_tokens"] == 500 and server.stats.requests == 4
  assert larger.ledger.of(0).dollars > row[0].dollars


def test_a_truncated_reply_is_not_paid_for_again_after_a_stop(serve, connect, monkeypatch):
  sent, server = bodies(monkeypatch), serve(["length"])
  with pytest.raises(errors.UserError, match="max_requests"):
    ask(connect(server.url, max_requests=1, max_tokens_retry_limit=400), wanted(1))
  assert ask(connect(server.url, max_tokens_retry_limit=400), wanted(1))[0][0].finish == "stop"
  assert [body["max_tokens"] for body in sent] == [100, 200]


def test_all_requests_wait_for_a_rate_limit_that_one_has_exhausted(serve, connect):
  arrivals = []

  def answer(messages, n, temperature, seed):
    arrivals.append(time.monotonic())
    return ["x"] * n

  spent = "spent:remaining_requests=0:reset_requests=700ms"
  server = serve(["", "", spent], answer=answer, latency=0.02)
  ask(connect(server.url, max_concurrency=2), wanted(30))
  gaps = [b - a for a, b in itertools.pairwise(arrivals)]
  assert max(gaps) >= 0.6 and server.stats.requests == 30


def test_rate_limiting_alone_does_not_give_up_a_request(serve, connect):
  server = serve([""] + ["429"] * 7)  # more than max_attempts
  replies = ask(connect(server.url, max_attempts=3, max_concurrency=1), wanted(3))
  assert all(isinstance(row[0], types.Reply) for row in replies)
  assert server.stats.requests == 10


def test_rate_limiting_for_longer_than_max_wait_stops_the_run(serve, connect):
  server = serve(["429:retry_after_ms=150"] * 1000)
  started = time.monotonic()
  with pytest.raises(errors.UserError, match=r"max_wait"):
    ask(connect(server.url, max_wait=1.0), wanted(3))
  assert time.monotonic() - started < 8


def test_the_cost_of_a_malformed_response_is_counted_and_capped(serve, connect, monkeypatch):
  read, usage = verdicts.parse_body, {"prompt_tokens": 10, "completion_tokens": 20}
  broken = {"choices": [{"message": {"content": 7}}], "usage": usage}
  bodies = [json.dumps(broken).encode()] * 2
  monkeypatch.setattr(
    verdicts, "parse_body", lambda raw, *rest: read(bodies.pop() if bodies else raw, *rest)
  )
  teacher = connect(serve().url, max_concurrency=1)
  ((reply,),) = ask(teacher, wanted(1))
  total = teacher.ledger.total()
  assert (total.calls, total.failures, total.tokens_in) == (1, 0, reply.tokens_in + 20)
  assert total.dollars == pytest.approx(reply.dollars + 2 * (10e-6 + 20e-5))
  bodies += [json.dumps(broken).encode()] * 99
  cap = 2e-3  # more than one request may cost
  capped = connect(serve().url, run="capped", max_concurrency=1, max_attempts=99, max_dollars=cap)
  with pytest.raises(errors.UserError, match="max_dollars"):
    ask(capped, wanted(1))
  assert cap - 1.2e-3 < capped.ledger.total().dollars <= cap
