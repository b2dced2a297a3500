"""A process that asks in batches is killed at any moment: nothing is lost or submitted twice."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import openai
import pytest
from batch_scripted import batched
from batch_victim import REQUESTS
from scripted import ask, wanted

from distill_jax.teacher.batch import calls
from distill_jax.teacher.store import batches, cache

VICTIM = pathlib.Path(__file__).parents[2] / "batch_victim.py"
MOMENTS = {
  "recorded": ["BatchRegistry", "make", "after", 1],
  "uploaded": ["BatchApi", "upload", "after", 1],
  "about to request": ["BatchRegistry", "record_attempt", "after", 1],
  "requested, id unknown": ["BatchApi", "create", "after", 1],
  "the second requested, id unknown": ["BatchApi", "create", "after", 2],
  "id known": ["BatchRegistry", "record_submission", "after", 1],
  "waiting": ["BatchApi", "retrieve", "after", 2],
  "downloaded": ["BatchApi", "download", "after", 1],
  "partly stored": ["ReplyCache", "store_many", "after", 1],
  "all stored": ["BatchRegistry", "close_batch", "before", 1],
  "all of the second stored": ["BatchRegistry", "close_batch", "before", 2],
  "closed": ["BatchRegistry", "close_batch", "after", 1],
  "the second closed": ["BatchRegistry", "close_batch", "after", 2],
}


@pytest.fixture(scope="module")
def victim():
  """victim(url, path, moment) -> exit code of the process."""
  words = [sys.executable, str(VICTIM)]
  pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
  env = os.environ | {"PYTHONPATH": str(VICTIM.parents[1])}
  with subprocess.Popen(words, env=env, **pipes) as parent:

    def play(url, path, moment) -> int:
      parent.stdin.write(json.dumps({"url": url, "path": str(path), "moment": moment}) + "\n")
      parent.stdin.flush()
      return int(parent.stdout.readline())

    yield play


def check_resumed(server, path, undisturbed) -> None:
  """Asks to the end, and compares the results with those of a run that was not killed."""
  with contextlib.closing(batched(server.url, path, batch_size=7, max_wait=30.0)) as teacher:
    replies, totals = ask(teacher, REQUESTS), teacher.ledger.of(0)
    assert teacher.registry.pending() == []
  assert replies == undisturbed[0] and totals == undisturbed[1]
  assert len(server.batches.batches) == 2 and server.stats.paid_twice == 0
  assert server.stats.completed == 24


@pytest.fixture
def undisturbed(serve, tmp_path):
  """(replies, totals) of a run that is not killed."""
  server = serve(["refusal"])
  with contextlib.closing(batched(server.url, tmp_path / "whole.sqlite", batch_size=7)) as teacher:
    return ask(teacher, REQUESTS), teacher.ledger.of(0)


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())
def test_after_a_kill_at_any_step_the_next_run_collects(
  serve, tmp_path, victim, undisturbed, moment
):
  server, path = serve(["refusal"]), tmp_path / "teacher.sqlite"
  assert victim(server.url, path, moment) == -9
  check_resumed(server, path, undisturbed)


def test_after_several_kills_the_next_run_collects(serve, tmp_path, victim, undisturbed):
  server, path = serve(["refusal"]), tmp_path / "teacher.sqlite"
  for moment in MOMENTS.values():
    victim(server.url, path, moment)
  check_resumed(server, path, undisturbed)


def test_after_kills_at_any_time_the_next_run_collects(serve, tmp_path, victim, undisturbed):
  server, path = serve(["refusal"], latency=0.05), tmp_path / "teacher.sqlite"
  for seconds in np.random.Generator(np.random.PCG64(5)).uniform(0.0, 0.5, 6):
    victim(server.url, path, float(seconds))
  check_resumed(server, path, undisturbed)


def test_a_batch_that_appears_after_its_process_died_is_found(serve, tmp_path, monkeypatch):
  server, path = serve(), tmp_path / "teacher.sqlite"
  teacher = batched(server.url, path)
  monkeypatch.setattr(calls, "LISTING_DELAY", 2.0)
  key = cache.key(request := teacher._cache_keys(wanted(1)[0], 0.5)[0], 0)
  line = batches.BatchLine(key, request, {0: key}, 100)
  name = teacher.registry.make(cache.RunPhase("this run", 0, "s"), [line], 0.01)
  body = {"model": "m", "messages": [{"role": "user", "content": "q0"}], "temperature": 0.5}
  row = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
  http = openai.OpenAI(api_key="none", base_url=server.url, max_retries=0)
  file = http.files.create(file=("a.jsonl", json.dumps(row).encode()), purpose="batch").id
  teacher.registry.record_upload(name, file)
  teacher.registry.record_attempt(name)
  teacher.registry.sent(name)  # this process has not made it

  def late():
    time.sleep(0.3)
    http.batches.create(
      input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h"
    )

  thread = threading.Thread(target=late)
  thread.start()
  found = ask(teacher, wanted(1))
  thread.join()
  http.close()
  teacher.close()
  assert found[0][0].text == "q0 #0 at 0.5" and len(server.batches.batches) == 1
