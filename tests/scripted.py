"""Requests and client options that many tests share, and a scripted teacher's replies."""

import dataclasses
import pathlib
import warnings
from typing import Any

from distill_jax import settings
from distill_jax.teacher import types

CLIENT_OPTIONS = {  # options of client.Client
  "model": "m",
  "key_env": "",
  "max_tokens": 100,
  "max_tokens_field": "max_tokens",
  "max_concurrency": 4,
  "timeout": 5.0,
  "max_attempts": 4,
  "max_wait": 5.0,
  "prices": settings.Prices(input=1.0, output=10.0, cached=-1.0),
  "max_dollars": 1.0,
  "max_requests": 10_000,
  "run": "this run",
  "identity": "",
  "send_seed": True,
}


@dataclasses.dataclass
class Run:
  """A `teacher.RunLike` whose teacher is not a student."""

  settings: settings.Settings
  workdir: pathlib.Path
  task: Any = None

  def warn(self, text):
    warnings.warn(text, stacklevel=2)

  def student_teacher(self, settings, name):
    raise NotImplementedError


def echo(messages, n, temperature, seed):
  """Replies that repeat the request: the last message, the sample's number, the temperature."""
  return [f"{messages[-1][1]} #{(seed or 0) + k} at {temperature}" for k in range(n)]


def wanted(count, samples=1, first=0):
  """Requests for `count` different questions."""
  return [
    types.Request("annotate", f"q{k}", (("user", f"q{k}"),), samples, first) for k in range(count)
  ]


def ask(teacher, requests, *, round=0, phase="s", temperature=0.5, on_progress=None):
  """Teacher.ask with defaults."""
  return teacher.ask(
    requests, round=round, phase=phase, temperature=temperature, on_progress=on_progress
  )
