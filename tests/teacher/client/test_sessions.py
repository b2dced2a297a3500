"""The environment's proxies, and what servers may do to the bytes of a response."""

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
import threading
import types as types_
from collections.abc import Iterator

import aiohttp
import pytest
from scripted import ask, wanted

from distill_jax import errors
from distill_jax.teacher import types
from distill_jax.teacher.client import sessions, transport

REPLY = json.dumps({"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}).encode()


@contextlib.contextmanager
def listening(*parts: bytes) -> Iterator[tuple[str, list[bytes]]]:
  """Answers every request with the same bytes; yields host:port and the requests."""
  requests: list[bytes] = []

  def answer(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
      while request := connection.recv(65536):
        requests.append(request)
        connection.sendall(b"".join(parts))

  def accept() -> None:
    with contextlib.suppress(OSError):
      while True:
        threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

  with socket.create_server(("127.0.0.1", 0)) as server:
    threading.Thread(target=accept, daemon=True).start()
    yield f"127.0.0.1:{server.getsockname()[1]}", requests


def response(body: bytes, *headers: bytes) -> bytes:
  return b"\r\n".join((b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers, b"", body))


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
  for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
    monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
  ("environment", "address", "proxy"),
  [
    ({}, "https://a.b/v1", None),
    ({"HTTPS_PROXY": "http://p:1"}, "https://a.b/v1", "http://p:1"),
    ({"https_proxy": "p:1"}, "HTTPS://a.b/v1", "http://p:1"),
    ({"HTTP_PROXY": "http://p:1"}, "https://a.b/v1", None),
    ({"ALL_PROXY": "https://p:1", "NO_PROXY": ".b, c"}, "https://a.b:8/v1", None),
    ({"ALL_PROXY": "http://p:1", "NO_PROXY": "a.b"}, "https://a.c/v1", "http://p:1"),
    ({"ALL_PROXY": "http://p:1", "NO_PROXY": "c, *"}, "https://a.b/v1", None),
    ({"ALL_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, "http://10.0.0.5/v1", None),
    ({"ALL_PROXY": "http://p:1", "NO_PROXY": "fd00::/8"}, "http://[fd00::5]/v1", None),
    ({"ALL_PROXY": "socks5://p:1", "HTTPS_PROXY": "http://p:1"}, "https://a.b/v1", "http://p:1"),
    ({"ALL_PROXY": "socks5://p:1", "NO_PROXY": "a.b"}, "https://a.b/v1", None),
  ],
)
def test_the_proxy_is_the_one_that_the_environment_names(monkeypatch, environment, address, proxy):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  found = sessions.proxy_for(address)
  assert (str(found.url) if found else None) == proxy
  made = sessions.openai_client(address, "k", 1.0, local=False, headers={})
  asyncio.run(made.close())


def test_a_request_goes_through_the_proxy_with_its_password(connect, monkeypatch):
  with listening(response(REPLY)) as (proxy, requests):
    monkeypatch.setenv("HTTP_PROXY", f"http://me:pass@{proxy}")
    teacher = connect("http://10.0.0.1/v1", insecure_http=True)
    assert ask(teacher, wanted(1))[0][0].text == "yes"
  head = requests[0].decode()
  assert head.startswith("POST http://10.0.0.1/v1/chat/completions HTTP/1.1\r\n")
  assert "Proxy-Authorization: Basic bWU6cGFzcw==\r\n" in head


def test_a_proxy_that_refuses_the_password_stops_the_run(connect, monkeypatch):
  with listening(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n") as (proxy, requests):
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:password@{proxy}")
    monkeypatch.setenv("KEY", "sk-1")
    with pytest.raises(errors.UserError, match="check HTTPS_PROXY") as error:
      ask(connect("https://10.0.0.1/v1", key_env="KEY"), wanted(1))
  assert len(requests) == 1 and "password@" not in str(error.value)


def test_a_proxy_that_refuses_costs_nothing_and_its_password_stays_secret(
  connect, monkeypatch, tmp_path
):
  status = b"403 Forbidden"
  with listening(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n") as (proxy, requests):
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:pass\\word@{proxy}")
    monkeypatch.setenv("KEY", "sk-1")
    teacher = connect("https://10.0.0.1/v1", key_env="KEY", max_attempts=1)
    teacher._answered = True
    ((failure,),) = ask(teacher, wanted(1))
  assert requests[0].startswith(b"CONNECT 10.0.0.1:443 ")
  assert isinstance(failure, types.Failure) and status[:3].decode() in failure.message
  assert teacher.ledger.unanswered() == types.Unanswered()
  stored = b"".join(file.read_bytes() for file in tmp_path.rglob("*"))
  assert "word" not in str(failure) and b"word" not in stored
  assert b"Proxy-Authorization: Basic bWU6cGFzc1x3b3Jk\r\n" in requests[0]


def test_an_error_in_another_encoding_than_it_says_keeps_its_status(connect):
  for encoding in (b"br", b"gzip"):
    body = b"HTTP/1.1 401 No\r\nContent-Length: 2\r\nContent-Encoding: " + encoding
    with listening(body + b"\r\n\r\n{}") as (server, requests):
      teacher = connect(f"http://{server}/v1")
      with pytest.raises(errors.UserError, match="HTTP 401"):
        ask(teacher, wanted(1))
    assert len(requests) == 1 and teacher.ledger.unanswered() == types.Unanswered()


def test_a_certificate_that_is_not_trusted_is_described_and_costs_nothing():
  place = types_.SimpleNamespace(host="a.b", port=443, ssl=True, is_ssl=True)
  error = aiohttp.ClientConnectorCertificateError(
    place, ssl.SSLCertVerificationError(1, "self-signed")
  )
  assert isinstance(error, transport.NEVER_LEFT)
  assert "a.b:443: " in transport.describe_error(error, str)
  assert "self-signed" in transport.describe_error(error, str)


def test_compressed_bodies_and_strange_headers_are_read(connect):
  odd = (b"x-request-id: \xe9\xff", b"Set-Cookie: a=1", b"Set-Cookie: b=2")
  packed = response(gzip.compress(REPLY), b"Content-Encoding: gzip", *odd)
  with listening(packed) as (server, requests):
    replies = ask(connect(f"http://{server}/v1", max_concurrency=1), wanted(2))
  assert [row[0].text for row in replies] == ["yes", "yes"]
  assert all(b"cookie" not in request.lower() for request in requests)
  assert all(b"User-Agent: distill_jax\r\n" in request for request in requests)


def test_a_body_that_cannot_be_unpacked_is_charged(connect):
  broken = response(b"\x1f\x8bnot gzip", b"Content-Encoding: gzip")
  with listening(broken) as (server, _):
    teacher = connect(f"http://{server}/v1", max_attempts=1)
    teacher._answered = True
    ((failure,),) = ask(teacher, wanted(1))
  assert isinstance(failure, types.Failure) and teacher.ledger.unanswered().requests == 1
