"""A run stops before it pays for, or loses, more failures that are all alike."""

import itertools

import httpx2
import pytest
import virtual
from scripted import ask, wanted

from distill_jax import errors
from distill_jax.teacher import finish, types
from distill_jax.teacher.client import rate_limit

URL = "http://127.0.0.1:1/v1"


def choice(text, reason, **message):
  return {"message": {"content": text, **message}, "finish_reason": reason}


def reply(sent, text="Seven.", reason="stop", **message):
  choices = [choice(text, reason, **message)] * sent.body.get("n", 1)
  usage = {"prompt_tokens": 5, "completion_tokens": 90 * len(choices)}
  return httpx2.Response(200, json={"choices": choices, "usage": usage})


def refuse(http, message, **fields):
  return httpx2.Response(http, json={"error": {"message": message, **fields}})


def serve(monkeypatch, answer):
  async def answered(sent):
    return answer(sent)

  server = virtual.Server(answered)
  virtual.install(monkeypatch, server)
  return server


ALIKE = {
  "all tokens went into thinking": (("", "length"), r"max_tokens \(now 100.*reasoning_effort"),
  "only thinking comes": (("", "stop"), "reasoning_effort"),
  "the filter ends every reply": (("I", "content_filter"), "filter"),
  "every reply is refused": (("No.", "refusal"), "another config.teacher.model"),
  "an end that nobody documents": (("Seven", "model_length"), "model_length"),
}


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize("good", [0, 5])
def test_billed_failures_that_are_all_alike_stop_the_phase_after_a_dozen(
  connect, monkeypatch, name, good
):
  (text, reason), advice = ALIKE[name]
  server = serve(
    monkeypatch, lambda sent: reply(sent) if sent.number < good else reply(sent, text, reason)
  )
  with pytest.raises(errors.UserError, match=advice) as error:
    ask(connect(URL), wanted(300))
  assert error.value.code == errors.TEACHER
  assert good + 12 <= len(server.sent) < good + 12 + 4
  sent = len(server.sent)
  if not good:  # repeating the command pays for nothing more
    with pytest.raises(errors.UserError, match=advice):
      ask(connect(URL), wanted(300))
    assert len(server.sent) == sent


def test_failures_among_replies_do_not_stop_a_run(connect, monkeypatch):
  bad = lambda sent: sent.number % 10 < 5
  server = serve(monkeypatch, lambda sent: reply(sent, "", "length") if bad(sent) else reply(sent))
  rows = ask(connect(URL), wanted(80))
  assert len(server.sent) == 80 and sum(isinstance(r[0], types.Reply) for r in rows) == 40


NO_ANSWER = (("", "length"), ("", "stop"), ("<think>Hm", "stop"))


def test_billed_replies_without_an_answer_are_alike_for_whatever_reason(connect, monkeypatch):
  server = serve(monkeypatch, lambda sent: reply(sent, *NO_ANSWER[sent.number % len(NO_ANSWER)]))
  with pytest.raises(errors.UserError, match=r"max_tokens \(now 100.*reasoning_effort"):
    ask(connect(URL), wanted(300))
  assert len(server.sent) < 12 + 4


def test_questions_that_were_rejected_before_do_not_stop_the_resumed_run(connect, monkeypatch):
  rejected: set[str] = set()

  def answer(sent):
    question = sent.body["messages"][-1]["content"]
    if len(server.sent) <= 40 and sent.number % 4 == 3:
      rejected.add(question)
    return refuse(400, "This prompt was flagged.") if question in rejected else reply(sent)

  server = serve(monkeypatch, answer)
  for sent in (40, 50):  # only the ten rejected ones are asked again
    rows = ask(connect(URL), wanted(40))
    assert sum(isinstance(row[0], types.Reply) for row in rows) == 30
    assert len(server.sent) == sent and len(rejected) == 10


MONEY = {
  "Anthropic": (400, "Your credit balance is too low to access the Anthropic API.", {}),
  "OpenAI": (429, "You exceeded your current quota, please check your plan and billing details.",
             {"code": "insufficient_quota"}),
  "DeepSeek": (402, "Insufficient Balance", {}),
  "OpenRouter": (402, "This request requires more credits, or fewer max_tokens.", {"code": 402}),
  "xAI": (403, "Your team has either used all available credits or reached its spending limit.",
          {}),
  "Alibaba": (400, "Access denied, please make sure your account is in good standing.",
              {"code": "Arrearage"}),
  "Groq, a model that was taken down": (
    400, "The model `llama-3.1-70b` has been decommissioned and is no longer supported.",
    {"code": "model_decommissioned"}),
  "OpenAI, a deprecated model": (404, "The model `gpt-4-32k` has been deprecated",
                                 {"code": "model_not_found"}),
  "Gemini, a quota per day": (429, "You exceeded your current quota.",
    {"status": "RESOURCE_EXHAUSTED", "details": [
      {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},
      {"retryDelay": "17s"}]}),
  "Fireworks": (412, "Account a is suspended, possibly due to reaching the monthly spending limit",
                {}),
  "a uniform 400 that says little": (400, "Bad request 17", {}),
  "a uniform 422": (422, "Unprocessable", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", MONEY)
def test_refusals_after_a_good_start_stop_the_run_and_the_rest_is_asked_on_resume(
  connect, monkeypatch, name
):
  status, message, fields = MONEY[name]
  broken = True
  server = serve(
    monkeypatch,
    lambda sent: refuse(status, message, **fields) if broken and sent.number >= 30 else reply(sent),
  )
  with pytest.raises(errors.UserError) as error:
    ask(connect(URL), wanted(60))
  assert error.value.code == errors.TEACHER and "re-run the same command" in str(error.value)
  noticed = 8 if name.startswith("a uniform") else 1  # refusals until the run stops
  assert 30 < len(server.sent) <= 30 + noticed + 4
  broken, before = False, len(server.sent)
  rows = ask(connect(URL), wanted(60))
  assert all(isinstance(row[0], types.Reply) for row in rows)
  assert len(server.sent) - before == 30  # what is missing, and nothing else


def test_prompts_that_are_too_long_do_not_stop_a_run(connect, monkeypatch):
  message = "This model's maximum context length is 8192 tokens."
  server = serve(monkeypatch, lambda sent: reply(sent) if sent.number < 5 else refuse(400, message))
  rows = ask(connect(URL), wanted(50))
  assert len(server.sent) == 50 and sum(isinstance(r[0], types.Failure) for r in rows) == 45


FINISHES = {
  **dict.fromkeys(["stop", "STOP", "end_turn", "eos", "stop_sequence", "COMPLETE"], ""),
  **dict.fromkeys(["length", "max_tokens", "MAX_TOKENS"], "length"),
  **dict.fromkeys(["content_filter", "SAFETY", "RECITATION", "sensitive"], "filtered"),
  **dict.fromkeys(["model_length", "model_context_window_exceeded", "tool_calls", "function_call",
                   "pause_turn", "unknown", "", None, 7], "cut"),
  "refusal": "refusal",
}  # fmt: skip


@pytest.mark.parametrize("reason", FINISHES)
def test_only_known_ends_are_whole(connect, monkeypatch, reason):
  serve(monkeypatch, lambda sent: reply(sent, "It is 12 and then", reason))
  ((got,),) = ask(connect(URL), wanted(1))
  assert (got.kind if isinstance(got, types.Failure) else "") == FINISHES[reason]


@pytest.mark.parametrize("reason", finish.ABORTED)
def test_a_server_that_failed_amid_a_reply_is_asked_again(connect, monkeypatch, reason):
  server = serve(
    monkeypatch, lambda sent: reply(sent, "It is", reason) if not sent.number else reply(sent)
  )
  ((got,),) = ask(connect(URL), wanted(1))
  assert got.text == "Seven." and len(server.sent) == 2


EMBEDDED = {
  "OpenRouter": ({"error": {"code": 429, "message": "Rate limited"}}, "retried"),
  "OpenRouter, in a choice": (
    {"choices": [{"message": {"content": "Sev"}, "finish_reason": "error",
                  "error": {"code": 502, "message": "Upstream"}}]}, "retried"),
  "beside the choices": (
    {"choices": [{"message": {"content": "Half"}, "finish_reason": "stop"}],
     "error": {"code": 504, "message": "Upstream idle timeout"}}, "retried"),
  "a text beside the choices": (
    {"choices": [{"message": {"content": "Half"}, "finish_reason": "stop"}],
     "error": "upstream closed the connection"}, "retried"),
  "a text in a choice": (
    {"choices": [{"message": {"content": "Half"}, "finish_reason": "stop",
                  "error": "rate limit exceeded"}]}, "retried"),
  "MiniMax, its filter": (
    {"base_resp": {"status_code": 1027, "status_msg": "output new_sensitive"}}, "skipped"),
  "a code in a text": ({"error": {"code": "503", "message": "Overloaded"}}, "retried"),
  "Anthropic": ({"type": "error", "error": {"type": "overloaded_error"}}, "retried"),
  "vLLM": ({"object": "error", "message": "oops", "code": 500}, "retried"),
  "no credit": ({"error": {"message": "Insufficient credits", "code": 402}}, "stops"),
  "no key": ({"error": {"type": "authentication_error", "message": "invalid x-api-key"}}, "stops"),
  "MiniMax, a rate": ({"base_resp": {"status_code": 1002, "status_msg": "rate limit"}}, "retried"),
  "MiniMax, no balance": (
    {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, "stops"),
  "a bad request": ({"error": {"type": "invalid_request_error", "message": "no"}}, "skipped"),
}  # fmt: skip


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_error_in_a_200_is_the_code_it_names(connect, monkeypatch, name):
  body, end = EMBEDDED[name]
  server = serve(
    monkeypatch, lambda sent: httpx2.Response(200, json=body) if not sent.number else reply(sent)
  )
  if end == "stops":
    with pytest.raises(errors.UserError) as error:
      ask(connect(URL, max_concurrency=1), wanted(2))
    assert error.value.code == errors.TEACHER and len(server.sent) == 1
    return
  rows = ask(connect(URL, max_concurrency=1), wanted(2))
  assert isinstance(rows[1][0], types.Reply)
  if end == "retried":
    assert rows[0][0].text == "Seven."
  else:
    assert isinstance(rows[0][0], types.Failure)


PAGES = {
  "Cloudflare": "<!DOCTYPE html>\n<html lang='en'><head><title>Attention Required! | Cloudflare"
  "</title></head><body>Add billing to your account</body></html>",
  "AWS": "<html>\r\n<head><title>403 Forbidden</title></head>",
  "a comment before it": "<!-- blocked --><HTML><HEAD><TITLE class='x'>Blocked</TITLE></HEAD>",
  "no title": "<html><body>Blocked</body></html>",
}


@pytest.mark.parametrize("status", [400, 403, 406])
@pytest.mark.parametrize("page", PAGES)
def test_a_firewalls_page_is_no_refusal(connect, monkeypatch, page, status):
  blocked = httpx2.Response(status, text=PAGES[page], headers={"server": "Some firewall"})
  server = serve(monkeypatch, lambda sent: reply(sent) if sent.number % 2 else blocked)
  rows = ask(connect(URL, max_concurrency=1), wanted(3))
  assert [row[0].text for row in rows] == ["Seven."] * 3 and len(server.sent) == 6


def test_a_firewall_that_blocks_every_request_stops_the_run(connect, monkeypatch):
  blocked = httpx2.Response(403, text=PAGES["Cloudflare"], headers={"server": "cloudflare"})
  for answered in (0, 2):
    server = serve(
      monkeypatch, lambda sent, n=answered: reply(sent) if sent.number < n else blocked
    )
    with pytest.raises(errors.UserError) as error:
      ask(connect(URL, max_concurrency=1), wanted(40))
    assert error.value.code == errors.TEACHER and len(server.sent) <= answered + 4 * 8
    for words in (URL, "cloudflare", "Attention Required!", "web page"):
      assert words in str(error.value)


def test_a_403_of_the_api_stops_the_run_at_once(connect, monkeypatch):
  server = serve(monkeypatch, lambda sent: refuse(403, "<html> is not allowed for this key"))
  with pytest.raises(errors.UserError, match="may not use"):
    ask(connect(URL, max_concurrency=1), wanted(4))
  assert len(server.sent) == 1


@pytest.mark.parametrize("nothing", [None, "", {}, False, 0])
def test_an_empty_error_beside_a_reply_is_none(connect, monkeypatch, nothing):
  said = lambda sent: {**reply(sent).json(), "error": nothing}
  server = serve(monkeypatch, lambda sent: httpx2.Response(200, json=said(sent)))
  ((got,),) = ask(connect(URL), wanted(1))
  assert got.text == "Seven." and len(server.sent) == 1


def test_an_error_in_a_200_may_ask_for_a_wait_in_a_header(connect, monkeypatch):
  body, wait = {"error": {"code": 429, "message": "Rate limited"}}, {"retry-after": "4"}
  server = serve(
    monkeypatch,
    lambda sent: reply(sent) if sent.number else httpx2.Response(200, json=body, headers=wait),
  )
  ((got,),) = ask(connect(URL), wanted(1))
  assert isinstance(got, types.Reply) and 4 <= server.sent[1].at < 5


@pytest.mark.parametrize("asked", ["0", "1", "4"])
def test_a_wait_that_is_too_short_does_not_use_up_the_attempts(connect, monkeypatch, asked):
  """Attempts are at least as far apart as the client's own backoff, and as the server asks."""
  monkeypatch.setattr(rate_limit, "backoff", lambda attempt: 2.0 * attempt)
  down = httpx2.Response(503, text="busy", headers={"retry-after": asked})
  server = serve(monkeypatch, lambda sent: reply(sent) if sent.at >= 10 else down)
  ((got,),) = ask(connect(URL, max_attempts=5, max_wait=60.0), wanted(1))
  assert got.text == "Seven."
  times = [sent.at for sent in server.sent]
  waits = [after - before for before, after in itertools.pairwise(times)]
  least = [max(2.0 * attempt, float(asked)) for attempt in range(1, len(times))]
  assert waits == pytest.approx(least, abs=0.5)
