"""What goes wrong between us and a server, each kind against a real one, and how the run ends."""

import itertools
import time

import pytest
from scripted import ask, wanted

from distill_jax import errors
from distill_jax.teacher import asking, sending

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
def test_what_passes_is_tried_again(serve, connect, fault):
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
def test_what_takes_too_long_is_tried_again(serve, connect, fault):
  server = serve([fault])
  assert ask(connect(server.url, timeout=0.3), wanted(1))[0][0].text == "q0 #0 at 0.5"
  assert server.stats.requests == 2


@pytest.mark.parametrize("fault", LASTING)
def test_a_reply_that_is_none_is_recorded_and_the_run_goes_on(serve, connect, fault):
  server = serve([fault])
  teacher = connect(server.url, concurrency=1)
  replies = ask(teacher, wanted(3))
  assert isinstance(replies[0][0], asking.Failure) and replies[0][0].kind == LASTING[fault]
  assert replies[0][0].tokens_in > 0 and replies[0][0].dollars > 0  # it was billed
  totals = teacher.ledger.total()
  assert (totals.calls, totals.failures) == (2, 1)
  assert ask(connect(server.url), wanted(3)) == replies  # and stays with its round and stage
  assert server.stats.requests == 3
  assert ask(teacher, wanted(3), round=1)[0][0].text == "q0 #0 at 0.5"


@pytest.mark.parametrize(
  ("fault", "kind"),
  [("400", "bad_request"), ("422", "bad_request"), ("400:code=content_filter", "filtered")],
)
def test_a_rejected_request_is_recorded_and_the_run_goes_on(serve, connect, fault, kind):
  server = serve([fault])
  replies = ask(connect(server.url, concurrency=1), wanted(3, samples=2))
  assert [reply.kind for reply in replies[0]] == [kind, kind]
  assert all(isinstance(reply, asking.Reply) for row in replies[1:] for reply in row)


@pytest.mark.parametrize(
  ("fault", "say"),
  [
    ("401", "key"),
    ("403", "may not use"),
    ("404", "teacher.model"),
    ("402", "credit"),
    ("429:code=insufficient_quota", "quota"),
  ],
)
def test_what_no_retry_can_mend_stops_the_run_at_once(serve, connect, fault, say):
  server = serve([fault] * 100)
  with pytest.raises(errors.Refusal, match=say) as refusal:
    ask(connect(server.url), wanted(100))
  assert refusal.value.code == errors.TEACHER and "\n" not in str(refusal.value)
  assert server.stats.requests <= 4  # those in flight


def test_what_came_in_before_a_stop_is_kept(serve, connect):
  server = serve([""] * 5 + ["401"])
  with pytest.raises(errors.Refusal):
    ask(connect(server.url, concurrency=1), wanted(10))
  ask(connect(server.url), wanted(10))
  assert (server.stats.completed, server.stats.paid_twice) == (10, 0)


@pytest.mark.parametrize("fault", ["html", "empty_object", "torn", "cut", "500"])
def test_a_server_that_never_gives_a_valid_answer_stops_the_run(serve, connect, fault):
  server = serve([fault] * 100)
  with pytest.raises(errors.Refusal, match=r"no valid answer from http://127\.0\.0\.1.*base_url"):
    ask(connect(server.url), wanted(50))
  assert server.stats.requests <= 16


def test_nothing_listening_stops_the_run(connect):
  with pytest.raises(errors.Refusal, match=r"no valid answer.*check that it is running") as refusal:
    ask(connect("http://127.0.0.1:9/v1"), wanted(5))
  assert refusal.value.code == errors.TEACHER and "\n" not in str(refusal.value)


def test_a_server_that_rejects_everything_stops_the_run(serve, connect):
  server = serve(["400:say=Unsupported parameter"] * 1000)
  with pytest.raises(errors.Refusal, match=r"Unsupported parameter.*max_tokens_field"):
    ask(connect(server.url), wanted(500))
  assert server.stats.requests < 20


def test_one_request_that_never_works_is_given_up_and_asked_again_next_time(serve, connect):
  server = serve([""] + ["500"] * 4)
  teacher = connect(server.url, concurrency=1)
  replies = ask(teacher, wanted(3))
  assert (replies[1][0].kind, replies[1][0].attempts) == ("gave_up", 4)
  assert isinstance(replies[2][0], asking.Reply)
  assert teacher.ledger.total().failures == 1
  assert all(isinstance(row[0], asking.Reply) for row in ask(teacher, wanted(3)))
  assert teacher.ledger.total().failures == 0


def test_a_server_that_dies_on_the_way_stops_the_run(serve, connect):
  server = serve([""] * 3 + ["500"] * 10_000)
  with pytest.raises(errors.Refusal, match="stopped answering"):
    ask(connect(server.url, attempts=2), wanted(500))
  assert server.stats.requests < 3 + 2 * (sending.DEAD_AFTER + 8)


@pytest.mark.parametrize("spelling", ["retry_after=0.4", "retry_after_ms=400"])
def test_all_workers_wait_when_one_is_told_to(serve, connect, spelling):
  arrivals = []

  def answer(messages, n, temperature, seed):
    arrivals.append(time.monotonic())
    return ["x"] * n

  server = serve(["", "", f"429:{spelling}"], answer=answer, latency=0.02)
  ask(connect(server.url, concurrency=3), wanted(40))
  gaps = [b - a for a, b in itertools.pairwise(arrivals)]
  assert max(gaps) >= 0.35 and sum(gap > 0.3 for gap in gaps) == 1
  assert server.stats.most_in_flight == 3


def test_a_wait_beyond_patience_stops_the_run_and_says_how_long(serve, connect):
  server = serve([""] * 2 + ["429:retry_after=300"] * 100)
  started = time.monotonic()
  with pytest.raises(errors.Refusal, match=r"asks to wait 300 s.*teacher.patience=5"):
    ask(connect(server.url, concurrency=2), wanted(10))
  assert time.monotonic() - started < 4
  assert server.stats.requests <= 5


def test_injected_faults_change_nothing_but_the_number_of_requests(serve, connect, tmp_path):
  script = (
    "429:retry_after=0.01@0.05,500@0.1,cut@0.05,html@0.05,empty_object@0.05,close@0.05,fewer@0.1"
  )
  calm = ask(connect(serve().url, cache_path=str(tmp_path / "calm.sqlite")), wanted(60, samples=2))
  server = serve(script)
  rough = ask(connect(server.url, attempts=12), wanted(60, samples=2))
  assert [[r.text for r in row] for row in rough] == [[r.text for r in row] for row in calm]
  assert server.stats.faults > 10 and server.stats.paid_twice == 0
