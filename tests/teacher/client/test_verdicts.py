"""Classification of HTTP responses, token shares, and the budget: the pure parts."""

import asyncio
import email.utils
import json

import pytest

from distill_jax import errors
from distill_jax.teacher import types
from distill_jax.teacher.client import request_jobs, verdicts, waits
from distill_jax.teacher.store import ledger

NOW = 1_700_000_000.0


def body(**message):
  return json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()


@pytest.mark.parametrize(
  ("headers", "seconds"),
  [
    ({"retry-after": "7"}, 7.0),
    ({"retry-after": "0.5"}, 0.5),
    ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
    ({"retry-after": email.utils.formatdate(NOW + 90, usegmt=True)}, 90.0),
    ({"retry-after": email.utils.formatdate(NOW - 90, usegmt=True)}, 0.0),
    ({"retry-after": "-3"}, 0.0),
    ({"llm_provider-retry-after": "60", "retry-after": "2"}, 2.0),
    ({"llm_provider-retry-after": "60"}, 60.0),
    ({"x-ms-retry-after-ms": "250"}, 0.25),
    ({"retry-after": "soon"}, None),
    ({"retry-after": "nan"}, None),
    ({"retry-after": "inf"}, None),
    ({}, None),
  ],
)
def test_every_spelling_of_retry_after_is_read(headers, seconds):
  assert waits.retry_after(headers, NOW) == seconds


@pytest.mark.parametrize(
  "raw",
  [
    b"", b"<html>", b"{}", b"[]", b"null", b'"text"', b'{"choices": null}', b'{"choices": {}}',
    b'{"choices": [1]}', b'{"choices": [{}]}', b'{"choices": [{"message": {"content": 7}}]}',
    b'{"error": {"message": "no"}}', b"\xff\xfe", b"[" * 100_000,
    b'{"choices": [{"message": {"content": "x"',
  ],
)  # fmt: skip
def test_a_malformed_body_is_retried(raw):
  verdict = verdicts.parse_body(raw, "m")
  assert (
    isinstance(verdict, verdicts.Retry) and len(verdict.reason) < 400 and "\n" not in verdict.reason
  )


def test_invalid_usage_is_ignored():
  for usage in (
    None,
    3,
    {},
    {"prompt_tokens": -1, "completion_tokens": "7"},
    {"prompt_tokens": True},
    {"prompt_tokens": 10**30, "completion_tokens": 1e30},
  ):
    raw = json.dumps(json.loads(body(content="x")) | {"usage": usage}).encode()
    answer = verdicts.parse_body(raw, "m")
    assert (answer.tokens_in, answer.tokens_out, answer.model) == (None, None, "m")


def test_a_servers_message_is_shown_on_one_printable_line():
  message = {"error": {"message": "bad\n\x1b[31m" + "x" * 10_000}}
  reason = verdicts.classify_status(400, {}, message, NOW).reason
  assert reason.isprintable() and len(reason) < 400


@pytest.mark.parametrize(
  ("total", "weights"), [(10, [1, 1, 1]), (0, [3, 2]), (7, [0, 0]), (5, [9, 0, 1])]
)
def test_shares_are_integers_and_sum_to_the_total(total, weights):
  parts = request_jobs.split_total(total, weights)
  assert sum(parts) == total and len(parts) == len(weights) and min(parts) >= 0


def test_a_reservation_waits_for_requests_in_flight_before_it_fails():
  async def scenario():
    budget = ledger.Budget(spent=0.0, requests=0, max_dollars=1.0, max_requests=10)
    await budget.reserve(0.7)
    second = asyncio.create_task(budget.reserve(0.7))
    await asyncio.sleep(0)
    assert not second.done()
    budget.release(0.7, sent=True)
    budget.spend(0.1)  # cheaper than reserved
    await second
    budget.release(0.7, sent=True)
    budget.spend(0.5)
    with pytest.raises(errors.UserError, match=r"\$0.7000.*\$0.6000 of \$1.00"):
      await budget.reserve(0.7)

  asyncio.run(scenario())


@pytest.mark.parametrize("finish", ["error", "abort"])
def test_a_reply_that_the_server_aborted_is_retried(finish):
  choice = {"message": {"content": "Half a re"}, "finish_reason": finish}
  assert isinstance(
    verdicts.parse_body(json.dumps({"choices": [choice]}).encode(), "m"), verdicts.Retry
  )
  assert types.incomplete_reason("Half a re", finish)


def test_a_model_that_loads_is_waited_for_as_long_as_it_says():
  hub = {"error": "Model m is currently loading", "estimated_time": 20.0}
  llama = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
  for body, seconds in ((hub, 20.0), (llama, verdicts.LOADING_WAIT)):
    verdict = verdicts.classify_status(503, {}, body, NOW)
    assert isinstance(verdict, verdicts.Retry)
    assert verdict.loading and verdict.wait == seconds
  busy = verdicts.classify_status(503, {}, {"error": "The engine is overloaded"}, NOW)
  assert isinstance(busy, verdicts.Retry) and not busy.loading


@pytest.mark.parametrize(
  ("status", "error"),
  [
    (
      400,
      {"message": "OpenAIException - Azure OpenAI's content management policy.", "code": "400"},
    ),
    (400, {"message": "Content Exists Risk", "code": "invalid_request_error"}),
    (400, {"message": "Input data may be unfit.", "code": "data_inspection_failed"}),
    (403, {"message": "Content violates usage guidelines."}),
  ],
)
def test_a_filtered_question_is_no_bad_request(status, error):
  """Many of them in a row do not stop a run."""
  verdict = verdicts.classify_status(status, {}, {"error": error}, NOW)
  assert isinstance(verdict, verdicts.Skip) and verdict.kind == "filtered"


@pytest.mark.parametrize(
  ("status", "message", "advice"),
  [
    (403, "Your account was disabled for violating our content policy.", "may not use"),
    (400, "Invalid model name passed in model=m.", "another model"),
    (400, "m is not a valid model ID", "another model"),
    (422, "Budget has been exceeded! Current cost: 2.0, Max budget: 1.0", "credit or quota"),
    (403, "Your project exceeded budget.", "credit or quota"),
    (422, "API key expired. Please renew the API key.", "key is missing or wrong"),
  ],
)
def test_a_refusal_that_holds_for_every_question_stops_the_run(status, message, advice):
  verdict = verdicts.classify_status(status, {}, {"error": {"message": message}}, NOW)
  assert isinstance(verdict, verdicts.Abort) and advice in verdict.advice


@pytest.mark.parametrize(
  "message",
  [
    "Invalid model parameter: k",
    "Unsupported model option",
    "budget_tokens is not a budget",
    "Invalid token limit",
  ],
)
def test_a_refused_field_is_no_unknown_model_and_no_spent_budget(message):
  verdict = verdicts.classify_status(400, {}, {"error": {"message": message}}, NOW)
  assert isinstance(verdict, verdicts.Skip) and verdict.kind == "bad_request"


@pytest.mark.parametrize(
  ("status", "raw", "verdict"),
  [
    (400, {"error": {"message": "The model has been deprecated"}}, verdicts.Abort),
    (400, {"error": {"code": "content_filter", "message": "no"}}, verdicts.Skip),
    (400, "Your input was flagged", verdicts.Skip),
    (429, {"error": {"message": "You exceeded your current quota"}}, verdicts.Retry),
    (400, {"error": {"message": "Incorrect API key provided"}}, verdicts.Skip),
    (400, None, verdicts.Skip),
    (400, 7, verdicts.Skip),
  ],
)
@pytest.mark.parametrize("quote", [json.dumps, lambda raw: raw])
def test_a_router_quotes_the_error_of_a_vendor(status, raw, verdict, quote):
  """What a vendor says of the router's own account does not stop the run."""
  error = {"code": status, "message": "Provider returned error", "metadata": {"raw": quote(raw)}}
  found = verdicts.classify_status(status, {}, {"error": error}, NOW)
  assert type(found) is verdict
  message = raw["error"]["message"] if isinstance(raw, dict) else raw or ""
  assert "Provider returned error" in found.reason and str(message) in found.reason


def test_zero_tokens_count_as_not_reported():
  usage = {"prompt_tokens": 0, "completion_tokens": 0}
  body = {"choices": [{"message": {"content": "Seven."}}], "usage": usage}
  answer = verdicts.parse_body(json.dumps(body).encode(), "m")
  assert (answer.tokens_in, answer.tokens_out) == (None, None)


def test_a_rejected_request_returns_all_of_its_tokens():
  rejections = [
    verdicts.Skip("bad_request", "no"),
    verdicts.Unsupported("n", "1", "no"),
    verdicts.Retry("slow down", rate_limited=True),
  ]
  assert [request_jobs.unused_tokens(verdict, 30, 100) for verdict in rejections] == [130] * 3
  assert request_jobs.unused_tokens(verdicts.Retry("it broke"), 30, 100) == 0
