"""Behaviors of vendors' servers: what is kept, what is sent, and the bill against the ledger."""

import asyncio

import behaviors
import httpx2
import pytest
import vendors
import virtual
from scripted import ask

from distill_jax import errors
from distill_jax.teacher import types

URL = "http://127.0.0.1:1/v1"
OPTIONS = {"max_concurrency": 2, "timeout": 5.0, "max_attempts": 5, "max_wait": 20.0}
ENOUGH = 100.0  # dollars


def requests(count):
  turns = lambda k: (("system", "Explain."), ("user", f"q{k}"))
  return [types.Request("annotate", f"q{k}", turns(k), 2) for k in range(count)]


def play(connect, monkeypatch, vendor, count, max_dollars):
  """Returns (outcomes or the error, server, bill, ledger in dollars)."""
  bill = behaviors.Bill()

  async def answer(sent) -> httpx2.Response:
    await asyncio.sleep(0.05)
    return await vendor.behavior(sent, bill)

  server = virtual.Server(answer)
  virtual.install(monkeypatch, server)
  teacher = connect(URL, max_dollars=max_dollars, **{**OPTIONS, **vendor.options})
  try:
    found = [outcome for row in ask(teacher, requests(count)) for outcome in row]
  except errors.UserError as error:
    found = error
  spent = teacher.ledger.total().dollars + teacher.ledger.unanswered().dollars
  kept = teacher.ledger.total().calls
  return found, server, bill.dollars, spent, kept


def test_there_are_at_least_sixty_behaviors_each_with_its_source():
  assert len(vendors.VENDORS) >= 60
  assert all("." in vendor.source for vendor in vendors.VENDORS.values())


@pytest.mark.parametrize("name", vendors.VENDORS)
def test_a_vendor(connect, monkeypatch, name):
  vendor = vendors.VENDORS[name]
  found, server, bill, spent, kept = play(connect, monkeypatch, vendor, 4, ENOUGH)
  stopped = isinstance(found, errors.UserError)
  assert stopped == vendor.stops, found
  assert not stopped or found.code == errors.TEACHER
  assert kept == vendor.kept
  assert len(server.sent) == vendor.sent
  assert spent >= bill - 1e-12


@pytest.mark.parametrize("name", vendors.VENDORS)
def test_the_cap_of_a_vendor(connect, monkeypatch, name):
  """The bill passes the cap by no more than the requests that were in flight."""
  cap = 0.0035  # less than two requests may cost
  _, server, bill, spent, _ = play(connect, monkeypatch, vendors.VENDORS[name], 6, cap)
  most = max((behaviors.prompt_tokens(sent) for sent in server.sent), default=0)
  one = most * behaviors.PRICE_IN + 2 * (behaviors.TOKENS_OUT + 300) * behaviors.PRICE_OUT
  assert spent >= bill - 1e-12
  assert bill <= cap + server.max_in_flight * one
