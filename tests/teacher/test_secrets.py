"""The key leaves the process in one header, and is in no text that anyone keeps."""

import logging

import pytest
from scripted import ask, wanted

from distill_jax import errors

KEY = "sk-planted-0123456789abcdef"


@pytest.fixture(autouse=True)
def planted(monkeypatch):
  monkeypatch.setenv("PLANTED_KEY", KEY)


def test_the_key_is_sent_and_nothing_else_has_it(serve, connect, tmp_path, caplog, capfd):
  script = ["500", "cut", "429:retry_after=0.01", f"400:say=bad {KEY}", "refusal", "html", "close"]
  server = serve(script)
  with caplog.at_level(logging.DEBUG):
    ask(connect(server.url, key_env="PLANTED_KEY"), wanted(12))
  assert server.authorizations == {f"Bearer {KEY}"}
  assert caplog.records and not any(KEY in record.getMessage() for record in caplog.records)
  assert not any(KEY in str(record.args) for record in caplog.records)
  assert KEY not in "".join(capfd.readouterr())
  for file in tmp_path.rglob("*"):
    assert KEY.encode() not in file.read_bytes(), file


@pytest.mark.parametrize(
  "fault", ["401", "403", "429:code=insufficient_quota", "500", "429:retry_after=99"]
)
def test_no_refusal_shows_the_key(serve, connect, fault, caplog):
  server = serve([f"{fault}:say=the key {KEY} is bad"] * 99)
  teacher = connect(server.url, key_env="PLANTED_KEY")
  with caplog.at_level(logging.DEBUG), pytest.raises(errors.Refusal) as refusal:
    ask(teacher, wanted(3))
  assert KEY not in str(refusal.value) and "[key]" in str(refusal.value)
  assert refusal.value.__cause__ is None and KEY not in caplog.text


def test_a_server_on_this_machine_needs_no_key(serve, connect):
  server = serve()
  ask(connect(server.url, key_env="NO_SUCH_VARIABLE"), wanted(1))
  assert KEY not in str(server.authorizations)


def test_a_server_elsewhere_needs_a_key(connect):
  with pytest.raises(errors.Refusal, match="export NO_SUCH_VARIABLE=") as refusal:
    connect("https://example.com/v1", key_env="NO_SUCH_VARIABLE")
  assert refusal.value.code == errors.TEACHER


@pytest.mark.parametrize(
  "url",
  [
    "http://example.com/v1", "http://127.0.0.1.example.com/v1", "http://10.0.0.1/v1", "ftp://127.0.0.1/v1",
    "https://", "example.com/v1", "", "https://me:hunter2@example.com/v1", "http://[::1", "http://127.0.0.1:x/v1",
  ],
)  # fmt: skip
def test_an_address_that_would_give_the_key_away_or_is_none_is_refused(connect, url):
  with pytest.raises(errors.Refusal, match=r"config\.teacher\.base_url") as refusal:
    connect(url, key_env="PLANTED_KEY")
  assert KEY not in str(refusal.value) and "hunter2" not in str(refusal.value)


def test_a_key_that_cannot_be_one_is_refused_unseen(connect, monkeypatch):
  monkeypatch.setenv("PLANTED_KEY", "sk-two\nlines")
  with pytest.raises(errors.Refusal, match="PLANTED_KEY") as refusal:
    connect("https://example.com/v1", key_env="PLANTED_KEY")
  assert "sk-two" not in str(refusal.value)


def test_a_proxy_does_not_come_between_us_and_this_machine(serve, connect, monkeypatch):
  for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
    monkeypatch.setenv(name, "http://127.0.0.1:9")
  assert ask(connect(serve().url), wanted(1))[0][0].text == "q0 #0 at 0.5"
