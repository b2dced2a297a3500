"""What the tests ask and on what terms."""

import types

from distill_jax.teacher import types as asking

TERMS = {
  "model": "m",
  "key_env": "",
  "max_tokens": 100,
  "max_tokens_field": "max_tokens",
  "max_concurrency": 4,
  "timeout": 5.0,
  "max_attempts": 4,
  "max_wait": 5.0,
  "prices": types.SimpleNamespace(input=1.0, output=10.0, cached=-1.0),
  "max_dollars": 1.0,
  "max_requests": 10_000,
  "run": "this run",
  "identity": "",
  "send_seed": True,
}


def echo(messages, n, temperature, seed):
  """Texts that tell what was asked: the last message, the sample's number, the temperature."""
  return [f"{messages[-1][1]} #{(seed or 0) + k} at {temperature}" for k in range(n)]


def wanted(count, samples=1, first=0):
  """So many different questions."""
  return [
    asking.Request("annotate", f"q{k}", (("user", f"q{k}"),), samples, first) for k in range(count)
  ]


def ask(teacher, requests, *, round=0, phase="s", temperature=0.5, on_progress=None):
  return teacher.ask(
    requests, round=round, phase=phase, temperature=temperature, on_progress=on_progress
  )
