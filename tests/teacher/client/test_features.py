"""What a server does not take is left out or replaced, after one refusal and with one warning."""

import json

import httpx2
import pytest
import virtual
from scripted import ask

from distill_jax import errors
from distill_jax.teacher import types
from distill_jax.teacher.client import credentials, refusals, request_body, streams
from distill_jax.teacher.prompts import schema

URL = "http://127.0.0.1:1/v1"


def requests(count=6, samples=3, kind="annotate"):
  turns = lambda k: (("system", "Explain."), ("user", f"q{k}"))
  return [types.Request(kind, f"q{k}", turns(k), samples) for k in range(count)]


def reply(sent, **message):
  seed = sent.body.get("seed", 0)
  choices = [
    {"message": {"content": f"{sent.body['messages'][-1]['content']} #{seed + k}"},
     "finish_reason": "stop", "index": k}
    for k in range(sent.body.get("n", 1))
  ]  # fmt: skip
  usage = {"prompt_tokens": 5, "completion_tokens": 7 * len(choices)}
  return httpx2.Response(200, json={"choices": choices, "usage": usage})


def error(status, message, **fields):
  return httpx2.Response(status, json={"error": {"message": message, **fields}})


def by(*rules):
  """Answers; `rules` are (condition on the body, response)."""

  async def answer(sent):
    return next((response for applies, response in rules if applies(sent.body)), reply(sent))

  return virtual.Server(answer)


def roles(body):
  return [message["role"] for message in body["messages"]]


REFUSALS = {
  "llama-server: n above its slots": (
    "n", lambda b: b.get("n", 1) > 1,
    error(400, "n_cmpl cannot be greater than the number of slots, please increase -np")),
  "llama-server, older": (
    "n", lambda b: b.get("n", 1) > 1, error(500, "Only one completion choice is allowed")),
  "Groq": ("n", lambda b: b.get("n", 1) > 1, error(400, "'n' : number must be at most 1")),
  "Anthropic": (
    "n", lambda b: b.get("n", 1) > 1,
    error(400, "n: Input should be less than or equal to 1", type="invalid_request_error")),
  "Cerebras": ("n", lambda b: b.get("n", 1) > 1, error(400, "property 'n' is unsupported")),
  "Gemini": (
    "n", lambda b: b.get("n", 1) > 1,
    httpx2.Response(400, json=[{"error": {
      "code": 400, "message": "Multiple candidates is not enabled for this model"}}])),
  "Moonshot: up to 2": ("n", lambda b: b.get("n", 1) > 2, error(400, "n must be at most 2")),
  "Mistral": (
    "seed", lambda b: "seed" in b,
    httpx2.Response(422, json={"detail": [{
      "type": "extra_forbidden", "loc": ["body", "seed"],
      "msg": "Extra inputs are not permitted"}]})),
  "Gemini: seed": (
    "seed", lambda b: "seed" in b,
    error(400, 'Invalid JSON payload received. Unknown name "seed": Cannot find field.')),
  "o3-mini": (
    "temperature", lambda b: "temperature" in b,
    error(400, "Unsupported parameter: 'temperature' is not supported with this model.",
          param="temperature", code="unsupported_parameter")),
  "o1: only the default": (
    "temperature", lambda b: "temperature" in b,
    error(400, "Unsupported value: 'temperature' does not support 0.5 with this model. Only the"
               " default (1) value is supported.", param="temperature", code="unsupported_value")),
  "Claude: temperature": (
    "temperature", lambda b: "temperature" in b,
    error(400, "`temperature` is deprecated for this model.")),
  "Claude: temperature and top_p": (
    "top_p", lambda b: "top_p" in b,
    error(400, "`temperature` and `top_p` cannot both be specified for this model.")),
  "Gemma 2 behind vLLM": (
    "system", lambda b: "system" in roles(b), error(400, "System role not supported")),
  "Gemma 3 at Google": (
    "system", lambda b: "system" in roles(b),
    error(400, "Developer instruction is not enabled for models/gemma-3-27b-it")),
  "o1-mini": (
    "system", lambda b: "system" in roles(b),
    error(400, "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
          param="messages[0].role", code="unsupported_value")),
  "Mistral behind vLLM": (
    "system", lambda b: "system" in roles(b),
    error(400, "Conversation roles must alternate user/assistant/user/assistant/...")),
  "OpenAI: the limit": (
    "max_tokens_field", lambda b: "max_tokens" in b,
    error(400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use"
               " 'max_completion_tokens' instead.", param="max_tokens",
          code="unsupported_parameter")),
  "QwQ at Alibaba": (
    "stream", lambda b: not b.get("stream"),
    error(400, "This model only support stream mode, please enable the stream parameter to access"
               " the model.")),
}  # fmt: skip


def through_a_router(response):
  """The error that a router answers, which quotes the one of the vendor behind it."""
  metadata = {"raw": response.text, "provider_name": "A vendor"}
  return error(response.status_code, "Provider returned error", code=400, metadata=metadata)


REFUSALS |= {
  f"{name}, through OpenRouter": (feature, applies, through_a_router(response))
  for name, (feature, applies, response) in REFUSALS.items()
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refused_feature_costs_one_warning_and_no_reply(connect, monkeypatch, name):
  feature, applies, response = REFUSALS[name]
  server, warnings = by((applies, response)), []
  virtual.install(monkeypatch, server)
  extra = '{"top_p": 0.9}' if feature == "top_p" else ""
  shaper = request_body.RequestShaper(extra=extra, structured=False, warn=warnings.append)
  rows = ask(connect(URL, shaper=shaper), requests())
  texts = [[reply.text.split()[-2:] for reply in row] for row in rows]
  if feature != "seed":
    assert texts == [[[f"q{k}", f"#{n}"] for n in range(3)] for k in range(6)]
  assert [len(row) for row in texts] == [3] * 6 and len(warnings) == 1
  refused = sum(applies(sent.body) for sent in server.sent)
  assert 1 <= refused <= 4  # those in flight
  each = 12 if name.startswith("Moonshot: up to 2") else 18 if feature == "n" else 6
  assert len(server.sent) - refused == each
  again = ask(connect(URL, shaper=shaper), requests(9))  # a later process knows
  assert len(again) == 9 and len(warnings) == 1
  assert sum(applies(sent.body) for sent in server.sent) == refused


def test_the_system_text_is_put_into_the_users_turn(connect, monkeypatch):
  server = by()
  virtual.install(monkeypatch, server)
  ask(connect(URL, unsupported=("system", "temperature", "n", "seed")), requests(1))
  assert [sent.body["messages"] for sent in server.sent] == [
    [{"role": "user", "content": "Explain.\n\nq0"}]
  ] * 3
  assert not {"temperature", "n", "seed"} & set(server.sent[0].body)


def test_an_unknown_feature_is_a_clear_error(connect):
  with pytest.raises(errors.UserError, match=r"teacher\.unsupported.*temperature"):
    connect(URL, unsupported=("warmth",))


NOT_A_FEATURE = {
  "too long": "This model's maximum context length is 8192 tokens. However, you requested 9000"
  " tokens (8000 in the messages, 1000 in the completion). Please reduce the length of the messages"
  " or completion (n, max_tokens).",
  "the limit is too large": "'max_tokens' or 'max_completion_tokens' is too large: 4096. This model"
  " supports at most 2048 completion tokens.",
  "out of range": "temperature must be between 0 and 1",
  "out of an open range": "'temperature' must be in the range (0.0, 2.0)",
  "a limit that may not be exceeded": "max_tokens cannot exceed 4096",
  "a limit below another": "`max_tokens` must be greater than `thinking.budget_tokens`",
  "something else": "The request is invalid.",
  "in other words": "An unexpected notion: cannot be seeded in system engineering.",
}


@pytest.mark.parametrize("name", NOT_A_FEATURE)
def test_other_refusals_are_not_taken_for_a_feature(name):
  sent = {"n": 3, "seed": 0, "temperature": 0.5, "max_tokens": 9, "messages": [{"role": "system"}]}
  assert refusals.feature(400, {"error": {"message": NOT_A_FEATURE[name]}}, sent) is None


def test_a_server_that_refuses_both_names_of_the_limit_is_not_asked_forever(connect, monkeypatch):
  async def answer(sent):
    name = "max_tokens" if "max_tokens" in sent.body else "max_completion_tokens"
    other = {"max_tokens": "max_completion_tokens"}.get(name, "max_tokens")
    return error(400, f"Unsupported parameter: '{name}'. Use '{other}' instead.", param=name)

  server = virtual.Server(answer)
  virtual.install(monkeypatch, server)
  with pytest.raises(errors.UserError, match="has rejected the first"):
    ask(connect(URL), requests(50))
  assert len(server.sent) < 30


JSON_REFUSALS = {
  "500": error(500, "Failed to parse input"),
  "501": error(501, "Unsupported param: response_format"),
  "OpenRouter": error(404, "No endpoints found that can handle the requested parameters."),
  "DeepSeek": error(400, "This response_format type is unavailable now"),
}


@pytest.mark.parametrize("name", JSON_REFUSALS)
def test_a_refused_schema_is_left_out_whatever_the_status(connect, monkeypatch, name):
  kind = next(iter(schema.SCHEMAS))
  server = by((lambda body: "response_format" in body, JSON_REFUSALS[name]))
  virtual.install(monkeypatch, server)
  warnings = []
  for _ in range(2):
    shaper = request_body.RequestShaper(extra="", structured=True, warn=warnings.append)
    rows = ask(connect(URL, shaper=shaper), requests(4, 1, kind))
    assert all(isinstance(row[0], types.Reply) for row in rows)
  assert len(warnings) == 1


def structured(warnings):
  return request_body.RequestShaper(extra="", structured=True, warn=warnings.append)


def test_a_request_that_fails_with_a_schema_that_has_worked_says_nothing_about_schemas(
  connect, monkeypatch
):
  kind, warnings = next(iter(schema.SCHEMAS)), []
  picky = lambda body: "response_format" in body and "q2" in body["messages"][-1]["content"]
  server = by((picky, error(400, "Failed to produce valid output for the request.")))
  virtual.install(monkeypatch, server)
  for count in (4, 8):
    rows = ask(
      connect(URL, shaper=structured(warnings), max_concurrency=1), requests(count, 1, kind)
    )
    assert all(isinstance(row[0], types.Reply) for row in rows)
  plain = [sent.body for sent in server.sent if "response_format" not in sent.body]
  assert len(plain) == 1 and len(server.sent) == 9 and not warnings


INVALID = error(
  400, "Generated JSON does not match the expected json_schema: 'answer' is required. See"
  " 'failed_generation' for more details.", type="invalid_request_error",
  code="json_validate_failed", failed_generation='{"answr": 7}')  # fmt: skip


@pytest.mark.parametrize("response", [INVALID, through_a_router(INVALID)])
def test_one_reply_that_does_not_match_its_schema_is_asked_for_again(
  connect, monkeypatch, response
):
  kind, warnings = next(iter(schema.SCHEMAS)), []
  failed = set()

  async def answer(sent):
    question = sent.body["messages"][-1]["content"]
    if question in failed:
      return reply(sent)
    failed.add(question)
    return response

  server = virtual.Server(answer)
  virtual.install(monkeypatch, server)
  rows = ask(connect(URL, shaper=structured(warnings)), requests(4, 1, kind))
  assert all(isinstance(row[0], types.Reply) for row in rows)
  assert len(server.sent) == 8 and not warnings
  assert all("response_format" in sent.body for sent in server.sent)
  assert len({sent.headers["idempotency-key"] for sent in server.sent}) == 8


def test_a_reply_that_never_matches_its_schema_is_asked_for_without_it(connect, monkeypatch):
  kind, warnings = next(iter(schema.SCHEMAS)), []
  picky = lambda body: "response_format" in body and "q2" in body["messages"][-1]["content"]
  server = by((picky, INVALID))
  virtual.install(monkeypatch, server)
  rows = ask(connect(URL, shaper=structured(warnings), max_concurrency=1), requests(4, 1, kind))
  assert all(isinstance(row[0], types.Reply) for row in rows)
  assert len(server.sent) == 4 + 2 and not warnings


def test_a_model_that_never_matches_a_schema_is_asked_without_one(connect, monkeypatch):
  kind, warnings = next(iter(schema.SCHEMAS)), []
  server = by((lambda body: "response_format" in body, INVALID))
  virtual.install(monkeypatch, server)
  rows = ask(connect(URL, shaper=structured(warnings), max_concurrency=1), requests(4, 1, kind))
  assert all(isinstance(row[0], types.Reply) for row in rows)
  assert len(server.sent) == 2 + 4 and len(warnings) == 1


def test_a_prompt_that_is_too_long_is_not_sent_again_without_the_schema(connect, monkeypatch):
  kind, warnings = next(iter(schema.SCHEMAS)), []
  server = by((lambda body: True, error(400, NOT_A_FEATURE["too long"])))
  virtual.install(monkeypatch, server)
  rows = ask(connect(URL, shaper=structured(warnings)), requests(2, 1, kind))
  assert [row[0].kind for row in rows] == ["bad_request"] * 2
  assert len(server.sent) == 2 and not warnings


def test_a_concurrency_that_the_server_names_is_kept(connect, monkeypatch):
  async def answer(sent):
    if sent.in_flight > 3:
      return error(429, "Your account reached max organization concurrency: 3, please try again"
                        " after 1 seconds")  # fmt: skip
    await virtual.asyncio.sleep(0.2)
    return reply(sent)

  server = virtual.Server(answer)
  virtual.install(monkeypatch, server)
  warnings = []
  shaper = request_body.RequestShaper(extra="", structured=False, warn=warnings.append)
  ask(connect(URL, shaper=shaper, max_concurrency=16), requests(20, 1))
  assert len(warnings) == 1 and connect(URL).limiter.limit == 3


def stream(*chunks, end="data: [DONE]\n\n"):
  return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end


def delta(text, finish=None, index=0, **fields):
  return {
    "choices": [{"index": index, "delta": {"content": text, **fields}, "finish_reason": finish}]
  }


STREAMS = {
  "OpenAI": stream(delta("", role="assistant"), delta("Sev"), delta("en."), delta("", "stop"),
                   {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}),
  "OpenRouter's comments":
    ": OPENROUTER PROCESSING\n\n" + stream(delta("Seven."), delta("", "stop")),
  "Windows line ends": stream(delta("Seven."), delta("", "stop")).replace("\n", "\r\n"),
  "no blank after the colon": stream(delta("Seven."), delta("", "stop")).replace("data: ", "data:"),
  "no [DONE]": stream(delta("Seven."), delta("", "stop"), end=""),
  "parts (Mistral)": stream(
    delta([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]),
    delta([{"type": "text", "text": "Sev"}]), delta([{"type": "text", "text": "en."}], "stop")),
  "thinking apart": stream(delta(None, reasoning_content="hm"), delta("Seven."), delta("", "stop")),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_a_server_that_always_streams_is_read(connect, monkeypatch, name):
  async def answer(sent):
    return httpx2.Response(
      200, text=STREAMS[name], headers={"content-type": "text/event-stream; charset=utf-8"}
    )

  server = virtual.Server(answer)
  virtual.install(monkeypatch, server)
  ((got,),) = ask(connect(URL), requests(1, 1))
  assert got.text == "Seven." and len(server.sent) == 1


def test_a_stream_that_breaks_off_is_asked_for_again(connect, monkeypatch):
  async def answer(sent):
    text = stream(delta("Sev"), end="") if sent.number == 0 else STREAMS["OpenAI"]
    if sent.number == 1:
      text = stream(delta("Sev"), {"error": {"code": 502, "message": "lost"}}, end="")
    return httpx2.Response(200, text=text)

  server = virtual.Server(answer)
  virtual.install(monkeypatch, server)
  ((got,),) = ask(connect(URL), requests(1, 1))
  assert got.text == "Seven." and len(server.sent) == 3


def test_samples_of_a_stream_are_told_apart():
  text = stream(delta("a"), delta("b", index=1), delta("c", "stop", 1), delta("d", "stop"))
  body = json.loads(streams.assemble(text.encode()))
  assert [choice["message"]["content"] for choice in body["choices"]] == ["ad", "bc"]


def chunk(id, text, finish=None, index=0):
  return {"id": id, **delta(text, finish, index)}


def contents(*chunks, samples):
  body = json.loads(streams.assemble(stream(*chunks).encode(), samples))
  if body["choices"] == streams.MIXED:
    return None
  return [choice["message"]["content"] for choice in body["choices"]]


def test_samples_of_a_stream_that_share_an_index_are_told_apart_or_not_used():
  a, b = chunk("1", "a"), chunk("2", "b")
  a_end, b_end = chunk("1", "c", "stop"), chunk("2", "d", "stop")
  for order in ([a, b, a_end, b_end], [a, a_end, b, b_end], [a, b, b_end, a_end]):
    assert contents(*order, samples=2) == ["ac", "bd"]
    same = [part | {"id": "1"} for part in order]
    assert contents(*same, samples=2) is None
    assert len(contents(*same, samples=1)) == 1
  assert contents(a_end, b_end | {"id": "1"}, samples=2) == ["c", "d"]
  assert contents(a, b, a_end, samples=2) is None  # one has no end
  assert contents(a, b, a_end, samples=1) == ["abc"]
  assert contents(a, a_end, samples=2) == ["ac"]  # `n` was ignored
  assert contents(a, chunk("1", "x", "stop", 1), a_end, samples=2) == ["ac", "x"]


def test_a_server_that_mixes_samples_up_is_asked_for_one_at_a_time(connect, monkeypatch):
  usage = {"prompt_tokens": 5, "completion_tokens": 3}

  async def answer(sent):
    n = sent.body.get("n", 1)
    parts = [delta(text, end) for text, end in (("Sev", None), ("en.", "stop")) for _ in range(n)]
    return httpx2.Response(200, text=stream(*parts, {"choices": [], "usage": usage}))

  server, warnings = virtual.Server(answer), []
  virtual.install(monkeypatch, server)
  shaper = request_body.RequestShaper(extra="", structured=False, warn=warnings.append)
  teacher = connect(URL, shaper=shaper, max_concurrency=1)
  rows = ask(teacher, requests(2, 3))
  assert [reply.text for row in rows for reply in row] == ["Seven."] * 6
  assert [sent.body.get("n", 1) for sent in server.sent] == [3] + [1] * 6
  assert len(warnings) == 1 and "told apart" in warnings[0]
  totals = teacher.ledger.total()
  assert (totals.tokens_in, totals.tokens_out) == (7 * 5, 7 * 3)


def test_an_address_of_all_interfaces_is_this_machine():
  for address in ("http://0.0.0.0:8000/v1", "http://[::]:8000/v1"):
    assert credentials.is_local(address)
    credentials.check_address(address, insecure_http=False)


def test_a_feature_is_named_as_a_word_of_its_own():
  for text, named in [("'n' is", True), ("n", True), ("don't", False), ("gpt-n", False)]:
    assert refusals._mentions(text, "n") == named


@pytest.mark.parametrize(
  ("text", "limit"),
  [
    ("Too many concurrent requests (limit 4)", 4),
    ("max concurrency: 2, please slow down", 2),
    ("Too many concurrent requests! Please retry in 1 seconds", None),
    ("Too many concurrent requests - try again in 2 s", None),
    ("concurrency limit of 3 RPM", None),
  ],
)
def test_a_time_or_a_rate_is_no_number_of_requests_at_once(text, limit):
  assert refusals.concurrency({"error": {"message": text}}) == limit


def test_an_estimate_counts_the_requests_that_a_server_without_n_takes(connect):
  asked = [types.Request("annotate", "q", (("user", "q" * 3000),), 8)]
  several, one = (
    connect(URL, unsupported=names, send_seed=False).estimate(
      asked, round=0, phase="s", temperature=0.5
    )
    for names in ((), ("n",))
  )
  assert (several.requests, one.requests, one.replies) == (1, 8, 8)
  assert one.tokens_in == 8 * several.tokens_in
