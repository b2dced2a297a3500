"""Additional request headers reach the server; their secrets appear nowhere else."""

import json

import pytest
from scripted import ask, wanted

from distill_jax import errors
from distill_jax.teacher.client import headers, patience, transport

SECRET = "Basic gateway-0123456789"


@pytest.fixture(autouse=True)
def planted(monkeypatch):
  monkeypatch.setenv("GATEWAY", SECRET)


def test_headers_are_sent_and_a_secret_one_is_shown_nowhere(serve, connect, tmp_path, caplog):
  made = headers.resolve('{"Authorization": "$GATEWAY", "OpenAI-Organization": "org-1"}')
  assert SECRET not in repr(made)
  server = serve(
    [f"500:say={SECRET}"], answer=lambda m, n, t, s: [f"You sent {SECRET} for {m[-1][1]}."] * n
  )
  replies = ask(connect(server.url, extra_headers=made), wanted(2))
  assert server.authorizations == {SECRET}
  assert replies[0][0].text == "You sent [key] for q0." and SECRET not in caplog.text
  assert not any(SECRET.encode() in file.read_bytes() for file in tmp_path.rglob("*"))


def test_a_header_replaces_that_of_the_key_in_any_case():
  sender = transport.Transport(
    *("http://localhost:1", "sk-1"),
    waits=patience.Patience(1.0, longest=1.0, total=1.0),
    connect_timeout=1.0,
    local=True,
    connections=1,
    redact=str,
    headers={"authorization": "x", "X-Project": "p"},
  )
  assert sender._headers == {
    "Content-Type": "application/json",
    "Authorization": "x",
    "X-Project": "p",
  }


@pytest.mark.parametrize(
  "text",
  [
    "{", "[]", '{"a": 1}', '{"Host": "x"}', '{"content-length": "1"}', '{"a b": "x"}', '{"": "x"}',
    '{"X-Api-Key": "sk-1234"}', '{"Authorization": "Bearer sk-1234"}', '{"a": "x\\r\\nb: c"}',
    '{"a": "\\u00e9"}', '{"X-Token": "$A B"}',
  ],
)  # fmt: skip
def test_other_headers_are_rejected_without_their_values(text):
  with pytest.raises(errors.UserError, match="extra_headers") as error:
    headers.parse(text)
  assert "sk-1234" not in str(error.value) and "\n" not in str(error.value)


def test_a_variable_that_is_not_set_is_named(monkeypatch):
  monkeypatch.delenv("GATEWAY")
  with pytest.raises(errors.UserError, match="environment variable GATEWAY is not set"):
    headers.resolve(json.dumps({"X-Api-Key": "$GATEWAY"}))
