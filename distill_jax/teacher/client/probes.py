"""Finds out by small requests what a server takes: n, seed, temperature, system role, ..."""

import asyncio
import os
from typing import Any, NamedTuple

from distill_jax.settings import Teacher
from distill_jax.teacher.client import credentials, headers, patience, refusals, transport, verdicts
from distill_jax.teacher.prompts import schema
from distill_jax.teacher.store import ledger

MAX_TOKENS = 32  # of a reply

TAKEN, IGNORED, REFUSED, UNKNOWN = "taken", "ignored", "refused", "unknown"


class Finding(NamedTuple):
  """What a server does with a feature.

  Attributes:
    feature: The feature.
    state: TAKEN, IGNORED, REFUSED or UNKNOWN.
    note: Details; "" for none.
  """

  feature: str
  state: str
  note: str


class Report(NamedTuple):
  """The findings, and what the probes have cost in dollars."""

  findings: tuple[Finding, ...]
  dollars: float


def probe(teacher: Teacher) -> Report:
  """Sends a few requests with short replies; `teacher` is complete and of kind openai."""
  return asyncio.run(_probe(teacher))


def _bodies(teacher: Teacher) -> dict[str, dict[str, Any]]:
  """{feature: body of the request that uses it}; the first one uses none."""
  question = {"role": "user", "content": "Reply with one word: yes."}
  field = teacher.max_tokens_field
  plain = {"model": teacher.model, "messages": [question], field: MAX_TOKENS}
  other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}[field]
  with_other = {name: value for name, value in plain.items() if name != field}
  instructed = [{"role": "system", "content": "You are brief."}, question]
  return {
    field: plain,
    other: with_other | {other: MAX_TOKENS},
    "system role": plain | {"messages": instructed},
    f"temperature={teacher.temperature:g}": plain | {"temperature": teacher.temperature},
    "seed": plain | {"seed": 1},
    "n=2": plain | {"n": 2},
    "response_format": plain | {"response_format": schema.response_format("annotate")},
  }


async def _probe(teacher: Teacher) -> Report:
  key = credentials.key(teacher.base_url, key_env=teacher.key_env, key_file=teacher.key_file)
  extra = headers.resolve(teacher.extra_headers)
  http = transport.Transport(
    teacher.base_url,
    key,
    waits=patience.Patience(teacher.timeout, longest=teacher.timeout, total=teacher.timeout),
    connect_timeout=teacher.timeout,
    local=credentials.is_local(teacher.base_url),
    connections=1,
    redact=credentials.redactor(key, *extra.secrets),
    headers=extra.values,
  )
  findings: list[Finding] = []
  cost = 0.0
  async with http:
    for feature, body in _bodies(teacher).items():
      response = await http.send(body, teacher.model, os.urandom(16).hex())
      findings.append(_finding(feature, response, wanted=body.get("n", 1)))
      if isinstance(response.verdict, verdicts.Completed):
        tokens_in, tokens_out = response.verdict.tokens_in, response.verdict.tokens_out
        priced = ledger.dollars(teacher.prices, tokens_in or 0, tokens_out or MAX_TOKENS)
        cost += priced if response.verdict.dollars is None else response.verdict.dollars
      elif len(findings) == 1 and findings[0].state == UNKNOWN:
        break  # the server does not reply at all
  return Report(tuple(findings), max(cost, 0.0))


def _finding(feature: str, response: transport.Response, wanted: int) -> Finding:
  verdict = response.verdict
  if isinstance(verdict, verdicts.Completed):
    count = len(verdict.choices)
    if count < wanted:
      return Finding(feature, IGNORED, f"{count} reply")
    return Finding(feature, TAKEN, "")
  if response.status == 200:
    return Finding(feature, TAKEN, "")
  state = REFUSED if response.status in refusals.STATUSES else UNKNOWN
  return Finding(feature, state, verdict.reason)
