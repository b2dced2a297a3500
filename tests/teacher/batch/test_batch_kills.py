"""Whoever asks in batches may be killed at any moment: nothing is submitted twice, nothing lost."""

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
  "written down": ["BatchRegistry", "make", "after", 1],
  "uploaded": ["BatchApi", "upload", "after", 1],
  "about to ask": ["BatchRegistry", "record_attempt", "after", 1],
  "asked, and its id not known": ["BatchApi", "create", "after", 1],
  "the second likewise": ["BatchApi", "create", "after", 2],
  "its id known": ["BatchRegistry", "record_submission", "after", 1],
  "waiting": ["BatchApi", "retrieve", "after", 2],
  "downloaded": ["BatchApi", "download", "after", 1],
  "half of it stored": ["ReplyCache", "store_many", "after", 1],
  "all of it stored": ["BatchRegistry", "close_batch", "before", 1],
  "all of the last stored": ["BatchRegistry", "close_batch", "before", 2],
  "over": ["BatchRegistry", "close_batch", "after", 1],
  "the second over": ["BatchRegistry", "close_batch", "after", 2],
}


@pytest.fixture(scope="module")
def victim():
  """victim(url, path, moment) -> how the process ended."""
  words = [sys.executable, str(VICTIM)]
  pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
  env = os.environ | {"PYTHONPATH": str(VICTIM.parents[1])}
  with subprocess.Popen(words, env=env, **pipes) as zygote:

    def play(url, path, moment) -> int:
      zygote.stdin.write(json.dumps({"url": url, "path": str(path), "moment": moment}) + "\n")
      zygote.stdin.flush()
      return int(zygote.stdout.readline())

    yield play


def checked(server, path, undisturbed) -> None:
  """Asks to the end, and holds what was found against a run that nobody killed."""
  with contextlib.closing(batched(server.url, path, batch_size=7, max_wait=30.0)) as teacher:
    found, totals = ask(teacher, REQUESTS), teacher.ledger.of(0)
    assert teacher.registry.pending() == []
  assert found == undisturbed[0] and totals == undisturbed[1]
  assert len(server.batches.batches) == 2 and server.stats.paid_twice == 0
  assert server.stats.completed == 24


@pytest.fixture
def undisturbed(serve, tmp_path):
  """(replies, totals) of a run that nobody kills."""
  server = serve(["refusal"])
  with contextlib.closing(batched(server.url, tmp_path / "whole.sqlite", batch_size=7)) as teacher:
    return ask(teacher, REQUESTS), teacher.ledger.of(0)


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())
def test_at_every_step_the_next_run_collects(serve, tmp_path, victim, undisturbed, moment):
  server, path = serve(["refusal"]), tmp_path / "teacher.sqlite"
  assert victim(server.url, path, moment) == -9
  checked(server, path, undisturbed)


def test_after_one_kill_upon_another_too(serve, tmp_path, victim, undisturbed):
  server, path = serve(["refusal"]), tmp_path / "teacher.sqlite"
  for moment in MOMENTS.values():
    victim(server.url, path, moment)
  checked(server, path, undisturbed)


def test_at_any_time(serve, tmp_path, victim, undisturbed):
  server, path = serve(["refusal"], latency=0.05), tmp_path / "teacher.sqlite"
  for seconds in np.random.Generator(np.random.PCG64(5)).uniform(0.0, 0.5, 6):
    victim(server.url, path, float(seconds))
  checked(server, path, undisturbed)


def test_a_batch_that_is_only_being_made_when_its_process_dies_is_waited_for(
  serve, tmp_path, monkeypatch
):
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
