"""A slow server is given time: every sample gets one reply, and few requests are abandoned."""

import asyncio

import aiohttp
import httpx2
import pytest
import virtual
from scripted import ask, wanted

from distill_jax.teacher import types

URL = "http://127.0.0.1:1/v1"
DEFAULTS = {"max_concurrency": 16, "max_attempts": 6, "max_wait": 300.0}


def reply(sent):
  message = {"content": f"{sent.body['messages'][-1]['content']} #{sent.body['seed']}"}
  choices = [{"message": message, "finish_reason": "stop"}]
  usage = {"prompt_tokens": 1, "completion_tokens": 1}
  return httpx2.Response(200, json={"choices": choices, "usage": usage})


class Serial:
  """Handles `slots` requests at a time; may go on with those that were abandoned."""

  def __init__(self, seconds, slots=1, cancels=True):
    self.seconds, self.cancels, self.handled = seconds, cancels, 0
    self._slots = asyncio.Semaphore(slots)

  async def __call__(self, sent):
    if self.cancels:
      await self._handle()
    else:
      await asyncio.shield(asyncio.get_running_loop().create_task(self._handle()))
    return reply(sent)

  async def _handle(self):
    async with self._slots:
      await asyncio.sleep(self.seconds)
      self.handled += 1


def run(monkeypatch, connect, answer, count=24, **options):
  server = virtual.Server(answer)
  virtual.install(monkeypatch, server)
  rows = ask(connect(URL, **{**DEFAULTS, **options}), wanted(count))
  assert [row[0].text for row in rows if isinstance(row[0], types.Reply)] == [
    f"q{k} #0" for k in range(count)
  ]
  return server


@pytest.mark.parametrize("slots", [1, 4])
def test_a_server_with_a_queue_gets_every_request_once(monkeypatch, connect, slots):
  answer = Serial(0.6, slots, cancels=False)
  server = run(monkeypatch, connect, answer, timeout=3.0)
  assert len(server.sent) == answer.handled == 24


@pytest.mark.parametrize("cancels", [True, False])
def test_a_server_slower_than_the_timeout_answers_everything(monkeypatch, connect, cancels):
  server = run(monkeypatch, connect, Serial(5.0, cancels=cancels), timeout=3.0)
  assert len(server.sent) < 24 + 16


def test_a_timeout_cuts_the_limit_and_lengthens_the_next(monkeypatch, connect):
  began, ended = [], []

  async def answer(sent):
    began.append(asyncio.get_running_loop().time())
    try:
      await asyncio.sleep(1000 if len(began) < 4 else 0.1)
    finally:
      ended.append(asyncio.get_running_loop().time())
    return reply(sent)

  run(monkeypatch, connect, answer, count=1, timeout=2.0)
  waits = [end - start for start, end in zip(began, ended, strict=True)]
  assert 1.9 < waits[0] < 3.9 < waits[1] < 7.9 < waits[2] < 15 and waits[3] < 1.9


def test_one_request_that_hangs_does_not_hold_up_the_others(monkeypatch, connect):
  async def answer(sent):
    await asyncio.sleep(10_000 if sent.number == 2 else 0.5)
    return reply(sent)

  server = run(monkeypatch, connect, answer, count=60, timeout=5.0)
  assert len(server.sent) == 61 and server.sent[-1].at < 60


def test_blanks_keep_a_connection_open_while_the_model_thinks(monkeypatch, connect):
  class Slow(httpx2.AsyncByteStream):
    def __init__(self, content):
      self._content = content

    async def __aiter__(self):
      for _ in range(40):
        await asyncio.sleep(1.0)
        yield b"\n"
      yield self._content

  async def answer(sent):
    return httpx2.Response(200, stream=Slow(reply(sent).content))

  server = run(monkeypatch, connect, answer, count=2, timeout=3.0)
  assert len(server.sent) == 2


def test_a_host_that_cannot_be_reached_does_not_lengthen_the_wait_for_responses(
  monkeypatch, connect
):
  waits = []

  async def answer(sent):
    if sent.number < 3:
      await asyncio.sleep(1.0)
      raise aiohttp.ConnectionTimeoutError("no connection")
    if sent.number == 3:
      began = asyncio.get_running_loop().time()
      try:
        await asyncio.sleep(1000)
      finally:
        waits.append(asyncio.get_running_loop().time() - began)
    return reply(sent)

  run(monkeypatch, connect, answer, count=1, timeout=2.0)
  assert waits[0] < 3
