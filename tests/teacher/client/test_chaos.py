"""A server that misbehaves at random, in every way that is known, and in one run.

  python -m pytest -m heavy tests/teacher/client/test_chaos.py

Time is virtual. The server draws a behavior for each request, by seed: a reply, one of a vendor's
behaviors (`vendors`), or one of the faults of `teacher_faults`. A run that stops is resumed.
"""

import asyncio
import collections
import dataclasses
import json
import random
import sqlite3
from typing import Any

import behaviors
import httpx2
import pytest
import vendors
import virtual
from scripted import ask

from distill_jax import errors
from distill_jax.teacher import types
from distill_jax.teacher.client import client
from tests import teacher_faults

pytestmark = pytest.mark.heavy

URL = "http://127.0.0.1:1/v1"
QUESTIONS, SAMPLES = 150, 2
MAX_RUNS = 150
WELL, STOPPING = 0.5, 0.01  # shares of requests
OPTIONS = {"max_concurrency": 12, "timeout": 5.0, "max_attempts": 5, "max_wait": 40.0}
STATUSES = (400, 408, 409, 413, 425, 429, 500, 502, 503, 504, 520, 529)
BROKEN = ("cut", "torn", "html", "empty_object", "no_choices", "close", "hang", "drip", "double")
HIDDEN = 300  # the most tokens that a vendor adds to a reply


def transient() -> list[behaviors.Behavior]:
  return [vendor.behavior for vendor in vendors.VENDORS.values() if not vendor.stops]


def stopping() -> list[behaviors.Behavior]:
  return [vendor.behavior for vendor in vendors.VENDORS.values() if vendor.stops]


async def fail(kind: str, made: httpx2.Response) -> httpx2.Response:
  """What becomes of a response that was billed, by a fault of `teacher_faults`."""
  body = made.json()
  if kind in teacher_faults.REPLY_FAULTS:
    teacher_faults.REPLY_FAULTS[kind](body)
    return httpx2.Response(200, json=body)
  if kind == "hang":
    await asyncio.sleep(teacher_faults.HANG)
  if kind in ("close", "hang", "cut", "drip"):
    raise virtual.reset()
  raw = {
    "html": b"<!doctype html><title>Bad gateway</title>",
    "empty_object": b"{}",
    "no_choices": json.dumps(body | {"choices": []}).encode(),
    "double": b'{"choices": [], ' + made.content[1:],
    "torn": made.content[: len(made.content) // 2],
  }[kind]
  return httpx2.Response(200, content=raw)


def status(rng: random.Random) -> httpx2.Response:
  waits = rng.choice([{}, {"retry-after": "2"}, {"retry-after-ms": "90"}, {"retry-after": "300"}])
  return behaviors.error(rng.choice(STATUSES), f"fault {rng.randrange(99)}", waits)


class Chaos:
  """A server; `draws` counts what its requests have met."""

  def __init__(self, seed: int):
    self.seed, self.bill = seed, behaviors.Bill()
    self.draws: collections.Counter[str] = collections.Counter()

  async def __call__(self, sent: virtual.Sent) -> httpx2.Response:
    rng = random.Random(f"{self.seed} {sent.number}")
    await asyncio.sleep(rng.uniform(0.02, 0.3))
    drawn = rng.random()
    if drawn < WELL:
      return behaviors.reply(sent, self.bill, text=f"Seven, says {sent.number}.")
    if drawn > 1 - STOPPING:
      self.draws["stop"] += 1
      return await rng.choice(stopping())(dataclasses.replace(sent, number=10**6), self.bill)
    family = rng.choice(["vendor", "fault", "status"])
    if family == "vendor":
      self.draws[family] += 1
      return await rng.choice(transient())(dataclasses.replace(sent, number=0), self.bill)
    if family == "status":
      self.draws[family] += 1
      return status(rng)
    kind = rng.choice([*BROKEN, *teacher_faults.REPLY_FAULTS])
    self.draws[kind] += 1
    return await fail(kind, behaviors.reply(sent, self.bill))


def requests() -> list[types.Request]:
  turns = lambda k: (("system", "Explain."), ("user", f"q{k}"))
  return [types.Request("annotate", f"q{k}", turns(k), SAMPLES) for k in range(QUESTIONS)]


def spent(teacher) -> float:
  return teacher.ledger.total().dollars + teacher.ledger.unanswered().dollars


def run_until(connect, max_dollars: float, wanted) -> tuple[Any, client.Client]:
  """Resumes a run until `wanted` accepts how it ends; returns (outcomes or error, teacher)."""
  for _ in range(MAX_RUNS):
    teacher = connect(URL, max_dollars=max_dollars, **OPTIONS)
    try:
      found = [outcome for row in ask(teacher, requests()) for outcome in row]
    except errors.UserError as error:
      assert error.code in (errors.TEACHER, errors.BUDGET)
      assert len(str(error).splitlines()) == 1
      found = error
    if wanted(found):
      return found, teacher
    teacher.close()
  raise AssertionError(f"after {MAX_RUNS} runs: {found}")


def is_complete(found) -> bool:
  if isinstance(found, errors.UserError):
    return False
  return all(isinstance(o, types.Reply) or o.kind in types.SETTLED for o in found)


@pytest.fixture
def start(monkeypatch):
  """start(seed) -> (a server in virtual time, its `Chaos`)."""

  def install(seed: int):
    chaos = Chaos(seed)
    server = virtual.Server(chaos)
    virtual.install(monkeypatch, server)
    return server, chaos

  return install


@pytest.mark.filterwarnings("ignore:the teacher's server")
@pytest.mark.parametrize("seed", range(6))
def test_every_sample_gets_one_reply_and_nothing_is_paid_twice(
  connect, start, tmp_path, caplog, seed
):
  server, chaos = start(seed)
  found, teacher = run_until(connect, 100.0, is_complete)
  assert len(found) == QUESTIONS * SAMPLES
  kept = [outcome for outcome in found if isinstance(outcome, types.Reply)]
  assert len(kept) == teacher.ledger.total().calls > len(found) / 2
  with sqlite3.connect(tmp_path / "teacher.sqlite") as db:
    stored = db.execute("select request, sample from replies").fetchall()
    assert len(set(stored)) == len(stored) == len(kept)
    assert db.execute("select count(*) from unanswered where reason = ''").fetchone() == (0,)
  assert spent(teacher) >= chaos.bill.dollars - 1e-12
  assert len(chaos.draws) > 12 and chaos.draws["stop"]
  sent, bill = len(server.sent), chaos.bill.dollars
  again, _ = run_until(connect, 100.0, is_complete)
  texts = lambda outcomes: [getattr(outcome, "text", "") for outcome in outcomes]
  assert texts(again) == texts(found)
  assert (len(server.sent), chaos.bill.dollars) == (sent, bill)
  assert not [record for record in caplog.records if record.name == "asyncio"]


@pytest.mark.filterwarnings("ignore:the teacher's server")
@pytest.mark.parametrize("seed", range(6, 10))
def test_the_bill_passes_the_cap_by_no_more_than_what_was_in_flight(connect, start, seed):
  server, chaos = start(seed)
  cap = 0.05
  _, teacher = run_until(connect, cap, lambda found: getattr(found, "code", None) == errors.BUDGET)
  most = max(behaviors.prompt_tokens(sent) for sent in server.sent)
  tokens_out = SAMPLES * (behaviors.TOKENS_OUT + HIDDEN)
  one = most * behaviors.PRICE_IN + tokens_out * behaviors.PRICE_OUT
  assert spent(teacher) >= chaos.bill.dollars - 1e-12
  assert chaos.bill.dollars <= cap + server.max_in_flight * one
  assert cap / 4 < spent(teacher)
