"""What leaves the machine counts: under the cap, in the ledger, and after a kill."""

import asyncio
import json
import subprocess
import sys
import threading

import httpx2
import pytest
import virtual
from scripted import ask, wanted

from distill_jax import errors, settings
from distill_jax.teacher import types
from distill_jax.teacher.client import request_jobs, usage
from distill_jax.teacher.store import cache, ledger

URL = "http://127.0.0.1:1/v1"
PRICE_IN, PRICE_OUT = 1e-6, 10e-6  # dollars per token, as in scripted.CLIENT_OPTIONS


class Bill:
  """A server that bills every request that reaches it, at `tokens_out` completion tokens."""

  def __init__(self, tokens_out=90):
    self.dollars, self._tokens_out = 0.0, tokens_out

  def reply(self, sent, **changes):
    tokens_in = sum(len(message["content"]) for message in sent.body["messages"])
    count = sent.body.get("n", 1)
    self.dollars += tokens_in * PRICE_IN + count * self._tokens_out * PRICE_OUT
    body = {
      "choices": [{"message": {"content": "Seven."}, "finish_reason": "stop"}] * count,
      "usage": {"prompt_tokens": tokens_in, "completion_tokens": count * self._tokens_out},
    }
    return httpx2.Response(200, json=body | changes)


def times_out(bill):
  async def answer(sent):
    response = bill.reply(sent)
    await asyncio.sleep(1000)
    return response

  return answer


def resets(bill):
  async def answer(sent):
    bill.reply(sent)
    raise virtual.reset()

  return answer


def cuts(bill):
  async def answer(sent):
    return httpx2.Response(200, content=bill.reply(sent).content[:20])

  return answer


def loses_the_upstream(bill):
  async def answer(sent):
    bill.reply(sent)
    return httpx2.Response(504, text="upstream request timeout")

  return answer


def reports_no_usage(bill):
  async def answer(sent):
    return bill.reply(sent, usage=None)

  return answer


@pytest.mark.parametrize("script", [times_out, resets, cuts, loses_the_upstream, reports_no_usage])
def test_the_cap_holds_against_a_server_that_bills_what_it_does_not_report(
  connect, monkeypatch, script
):
  bill, cap = Bill(), 0.02
  server = virtual.Server(script(bill))
  virtual.install(monkeypatch, server)
  teacher = connect("http://127.0.0.1:1/v1", max_dollars=cap, max_attempts=50, max_wait=1e6)
  teacher._answered = True
  with pytest.raises(errors.UserError) as error:
    ask(teacher, wanted(100, samples=2))
  assert error.value.code == errors.BUDGET and "estimated" in str(error.value)
  measured, estimated = teacher.ledger.total().dollars, teacher.ledger.unanswered().dollars
  assert bill.dollars <= measured + estimated <= cap and estimated > 0
  sent = len(server.sent)
  with pytest.raises(errors.UserError, match="estimated"):  # and after a restart
    ask(connect("http://127.0.0.1:1/v1", max_dollars=cap), wanted(100, samples=2))
  assert len(server.sent) == sent > 3


def test_a_request_that_never_left_and_one_that_was_refused_cost_nothing(connect, monkeypatch):
  answers = [virtual.refused(), 429, 500, 503, 400]
  bill = Bill()

  async def answer(sent):
    if sent.number >= len(answers):
      return bill.reply(sent)
    if isinstance(answers[sent.number], int):
      return httpx2.Response(answers[sent.number], json={"error": {"message": "no"}})
    raise answers[sent.number]

  virtual.install(monkeypatch, virtual.Server(answer))
  teacher = connect("http://127.0.0.1:1/v1", max_concurrency=1, max_attempts=9)
  ask(teacher, wanted(2))
  assert teacher.ledger.unanswered() == types.Unanswered()
  assert teacher.ledger.total().dollars == pytest.approx(bill.dollars)


KILLED = """
import asyncio, os, sys
sys.path[:0] = ["tests", "."]
import scripted
from distill_jax.teacher.client import client, transport
async def send(self, *_):
  os.kill(os.getpid(), 9)
transport.Transport.send = send
made = client.Client(base_url="http://127.0.0.1:1/v1", cache_path=sys.argv[1],
                     **scripted.CLIENT_OPTIONS)
scripted.ask(made, scripted.wanted(1, samples=3))
"""


def test_a_request_in_flight_at_a_kill_counts(tmp_path):
  path = tmp_path / "teacher.sqlite"
  assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == -9
  store = cache.ReplyCache(path)
  killed = store.unanswered("this run", 0, "s")
  assert killed.requests == 1 and killed.dollars >= 300 * PRICE_OUT
  assert store.requests_sent("this run") == 1
  store.close()


def test_requests_of_two_event_loops_share_one_budget(tmp_path):
  store = cache.ReplyCache(tmp_path / "teacher.sqlite")
  caps = {"max_dollars": 1.0, "max_requests": 9}
  with ledger.shared_budget(store, "r", **caps) as one:
    with (
      ledger.shared_budget(store, "r", **caps) as two,
      ledger.shared_budget(store, "other", **caps) as other,
    ):
      assert one is two and one is not other

    async def scenario():
      await one.reserve(0.9)
      waiting = asyncio.create_task(asyncio.to_thread(asyncio.run, one.reserve(0.9)))
      await asyncio.sleep(0.05)
      assert not waiting.done()
      one.release(0.9, sent=True, cost=0.05, estimate=0.02)
      await waiting

    asyncio.run(scenario())
    assert (one.spent, one.estimated, one.requests) == (pytest.approx(0.07), 0.02, 2)
  store.close()


SPELLINGS = {
  "OpenAI": (
    {
      "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
      "prompt_tokens_details": {"cached_tokens": 64},
      "completion_tokens_details": {"reasoning_tokens": 30},
    },
    (100, 50, 64, 30, 0),
  ),
  "DeepSeek": (
    {
      "prompt_tokens": 100, "completion_tokens": 50, "prompt_cache_hit_tokens": 60,
      "prompt_cache_miss_tokens": 40,
    },
    (100, 50, 60, 0, 0),
  ),
  "DeepSeek without prompt_tokens": (
    {"completion_tokens": 50, "prompt_cache_hit_tokens": 60, "prompt_cache_miss_tokens": 40},
    (100, 50, 60, 0, 0),
  ),
  "Anthropic": (
    {
      "input_tokens": 10, "output_tokens": 50, "cache_read_input_tokens": 60,
      "cache_creation_input_tokens": 30,
    },
    (100, 50, 60, 0, 30),
  ),
  "OpenAI's Responses": (
    {
      "input_tokens": 100, "output_tokens": 50,
      "output_tokens_details": {"reasoning_tokens": 30},
    },
    (100, 50, 0, 30, 0),
  ),
  "Gemini through OpenAI's API: thoughts only in the total": (
    {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 450},
    (100, 400 - 50, 0, 0, 0),
  ),
  "xAI: reasoning outside of the completion": (
    {
      "prompt_tokens": 100, "completion_tokens": 9,
      "completion_tokens_details": {"reasoning_tokens": 300}, "total_tokens": 409,
    },
    (100, 309, 0, 300, 0),
  ),
  "Moonshot": (
    {"prompt_tokens": 100, "completion_tokens": 50, "cached_tokens": 20}, (100, 50, 20, 0, 0)
  ),
  "floats": ({"prompt_tokens": 100.0, "completion_tokens": 50.0}, (100, 50, 0, 0, 0)),
  "only a total and a completion": (
    {"completion_tokens": 50, "total_tokens": 150}, (100, 50, 0, 0, 0)
  ),
  "null": ({"prompt_tokens": None, "completion_tokens": None}, (None, None, 0, 0, 0)),
  "strings": ({"prompt_tokens": "100", "completion_tokens": "50"}, (None, None, 0, 0, 0)),
  "negative": ({"prompt_tokens": -1, "completion_tokens": -5}, (None, None, 0, 0, 0)),
  "not a number": (
    {"prompt_tokens": float("nan"), "completion_tokens": 1e300}, (None, None, 0, 0, 0)
  ),
  "more cached than there are": (
    {
      "prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 99}
    },
    (10, 5, 10, 0, 0),
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_of_usage_is_read(name):
  fields, (tokens_in, tokens_out, cached, reasoning, written) = SPELLINGS[name]
  expected = usage.Usage(tokens_in, tokens_out, cached, reasoning, written)
  assert usage.read(json.loads(json.dumps({"usage": fields}))) == expected


TOKENS = {"prompt_tokens": 100, "completion_tokens": 50}
STATED = {
  "OpenRouter": ({"cost": 0.25, "is_byok": False}, 0.25),
  "OpenRouter with the vendor's key": (
    {"cost": 0.05, "is_byok": True, "cost_details": {"upstream_inference_cost": 1}},
    1.05,
  ),
  "OpenRouter without the vendor's bill": ({"cost": 0.05, "is_byok": True}, None),
  "Perplexity": ({"cost": {"request_cost": 0.005, "total_cost": 0.006}}, 0.006),
  "DeepInfra": ({"estimated_cost": 0.002}, 0.002),
  "xAI": ({"cost_in_usd_ticks": 37_756_000}, 0.0037756),
  "ticks beyond every number": ({"cost_in_usd_ticks": 10**400}, None),
  "zero": ({"cost": 0}, None),
  "negative": ({"cost": -1.0}, None),
  "a string": ({"cost": "0.1"}, None),
  "true": ({"cost": True}, None),
  "not a number": ({"cost": float("nan")}, None),
  "infinite": ({"cost": float("inf")}, None),
  "too much": ({"cost": 10**400}, None),
  "an empty object": ({"cost": {}}, None),
}


@pytest.mark.parametrize("name", STATED)
def test_every_spelling_of_a_stated_cost_is_read(name):
  fields, dollars = STATED[name]
  assert usage.read({"usage": TOKENS | fields}) == usage.Usage(100, 50, dollars=dollars)


@pytest.mark.parametrize("tokens", [TOKENS, {}])
def test_a_stated_cost_replaces_the_price_of_the_tokens(connect, monkeypatch, tokens):
  """A fee per request counts toward the cap, and the samples of a request share it."""
  bill, fee, cap = Bill(), 0.01, 0.1

  async def answer(sent):
    bill.reply(sent)
    choice = {"message": {"content": "Seven."}, "finish_reason": "stop"}
    if sent.number == 1:  # of no use, but billed
      choice = {"message": {"content": 7}}
    body = {"choices": [choice] * 2, "usage": {**tokens, "cost": {"total_cost": fee}}}
    return httpx2.Response(200, json=body)

  server = virtual.Server(answer)
  virtual.install(monkeypatch, server)
  teacher = connect(URL, max_dollars=cap, max_concurrency=1)
  with pytest.raises(errors.UserError, match="max_dollars"):
    ask(teacher, wanted(100, samples=2))
  assert cap - 2 * fee <= len(server.sent) * fee <= cap
  assert teacher.ledger.total().dollars == pytest.approx(len(server.sent) * fee)
  assert teacher.ledger.unanswered() == types.Unanswered()
  replies = [reply for row in ask(teacher, wanted(1, samples=2)) for reply in row]
  assert [reply.dollars for reply in replies] == [pytest.approx(fee / 2, rel=0.05)] * 2
  assert sum(reply.dollars for reply in replies) == pytest.approx(fee)


def test_requests_reserve_the_highest_cost_that_was_stated(connect, monkeypatch):
  """Once one reply has stated its cost, the cap holds even if the tokens cost nothing."""
  fee, cap = 0.001, 0.003

  async def answer(sent):
    if sent.number:
      await asyncio.sleep(1)
    choice = {"message": {"content": "Seven."}, "finish_reason": "stop"}
    return httpx2.Response(200, json={"choices": [choice], "usage": {**TOKENS, "cost": fee}})

  server = virtual.Server(answer)
  virtual.install(monkeypatch, server)
  teacher = connect(URL, max_dollars=cap, max_concurrency=8, prices=settings.Prices(0.0, 0.0))
  ask(teacher, wanted(1))
  with pytest.raises(errors.UserError, match="max_dollars"):
    ask(teacher, wanted(100))
  assert len(server.sent) * fee == pytest.approx(cap)
  assert teacher.ledger.total().dollars == pytest.approx(cap)


def test_replies_that_cost_more_at_once_raise_the_bound_once():
  bound = request_jobs.CostBound()
  for _ in range(5):
    bound.learn(0.01, 0.02)
  assert bound.of(0.01) == pytest.approx(0.02) and bound.of(0.0) == 0.0
  bound.learn(0.0, 0.5)
  bound.learn(0.0, 0.1)
  assert bound.of(0.0) == 0.5 and bound.of(0.03) == pytest.approx(0.06)


def test_geminis_own_spelling_of_usage_is_read():
  fields = {
    "promptTokenCount": 100, "candidatesTokenCount": 50, "thoughtsTokenCount": 300,
    "totalTokenCount": 450, "cachedContentTokenCount": 20,
  }  # fmt: skip
  assert usage.read({"usageMetadata": fields}) == usage.Usage(100, 350, 20, 300)


def test_what_is_written_to_a_vendors_cache_costs_more(connect, monkeypatch):
  bill = Bill()
  fields = {"input_tokens": 0, "output_tokens": 10, "cache_creation_input_tokens": 1000}

  async def answer(sent):
    return bill.reply(sent, usage=fields)

  virtual.install(monkeypatch, virtual.Server(answer))
  teacher = connect("http://127.0.0.1:1/v1")
  ask(teacher, wanted(1))
  assert teacher.ledger.total().dollars == pytest.approx(1250 * PRICE_IN + 10 * PRICE_OUT)


def test_a_server_that_bills_more_than_was_reserved_is_reserved_more(connect, monkeypatch):
  bill, cap = Bill(tokens_out=400), 0.05  # four times max_tokens

  async def answer(sent):
    return bill.reply(sent)

  virtual.install(monkeypatch, virtual.Server(answer))
  teacher = connect("http://127.0.0.1:1/v1", max_dollars=cap, max_concurrency=1)
  with pytest.raises(errors.UserError, match="max_dollars"):
    ask(teacher, wanted(100))
  assert 0.04 < bill.dollars <= cap
  assert bill.dollars == pytest.approx(teacher.ledger.total().dollars)


RESERVED = 115e-6 + 100e-5  # dollars reserved for one request, at least


def error_of(call, *args) -> BaseException:
  """The error that a call raises within ten seconds."""
  raised: list[BaseException] = []

  def work():
    try:
      call(*args)
    except BaseException as error:
      raised.append(error)

  thread = threading.Thread(target=work, daemon=True)
  thread.start()
  thread.join(10)
  assert not thread.is_alive(), "it hangs"
  return raised[0]


def test_a_cache_that_cannot_be_written_ends_requests_that_wait_for_the_budget(
  connect, monkeypatch
):
  bill, account = Bill(), cache.ReplyCache.account

  async def answer(sent):
    await asyncio.sleep(1 + 5 * sent.number)
    return bill.reply(sent)

  def full(self, run_phase, requests, answers=None, *, retries=0):
    if answers:
      raise errors.data("the disk is full")
    account(self, run_phase, requests, answers, retries=retries)

  server = virtual.Server(answer)
  virtual.install(monkeypatch, server)
  monkeypatch.setattr(cache.ReplyCache, "account", full)
  teacher = connect(URL, max_dollars=2.5 * RESERVED)
  assert "the disk is full" in str(error_of(ask, teacher, wanted(8)))
  assert len(server.sent) == 2


def test_a_stop_does_not_wait_for_another_teachers_requests(connect, monkeypatch):
  bill = Bill()

  async def answer(sent):
    return bill.reply(sent)

  server = virtual.Server(answer)
  virtual.install(monkeypatch, server)
  teacher = connect(URL, max_dollars=1.5 * RESERVED, deadline=0.2)
  with ledger.shared_budget(
    teacher._store, "this run", max_dollars=1.5 * RESERVED, max_requests=9
  ) as budget:
    asyncio.run(budget.reserve(RESERVED))  # and it stays in flight
    error = error_of(ask, teacher, wanted(3))
  assert isinstance(error, errors.UserError) and "deadline" in str(error)
  assert not server.sent and budget.requests == 1
