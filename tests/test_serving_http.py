"""The server's HTTP: strangers, limits and timeouts. No student is needed."""

import contextlib
import socket
import time

import pytest

from distill_jax.serving import api, engine, http
from tests import servers

NOTHING = engine.Served(students={}, task=None, stop=(), limit=1, longest=1)


@pytest.fixture(scope="module")
def port():
  with servers.running(NOTHING) as (server, _):
    yield server.port


def raw(port: int, request: bytes, timeout: float = 10) -> bytes:
  with socket.create_connection(("127.0.0.1", port), timeout) as connection:
    connection.sendall(request)
    connection.shutdown(socket.SHUT_WR)
    received = b""
    while part := connection.recv(65536):
      received += part
    return received


def raw_when_free(port: int, request: bytes) -> bytes:
  """Asks again while all connections are taken: closed ones linger for a moment."""
  for _ in range(50):
    received = raw(port, request)
    if b" 503 " not in received[:20]:
      return received
    time.sleep(0.1)
  return received


def head(path: str, *headers: str, method: str = "POST") -> bytes:
  return "\r\n".join([f"{method} {path} HTTP/1.1", *headers, "", ""]).encode()


@pytest.mark.parametrize(
  ("request_", "status"),
  [
    (head("/v1/completions", "Content-Length: 1000000000"), 413),
    (head("/v1/completions", "Transfer-Encoding: chunked"), 411),
    (head("/v1/completions", "Content-Length: -1"), 400),
    (head("/v1/models", "X: " + "x" * 20_000, method="GET"), 431),
    (head("/v1/models", "Host: evil.example", method="GET"), 403),
    (head("/v1/models", "Origin: http://evil.example", method="GET"), 403),
    (head("/v1/models", "Origin: http://[", method="GET"), 400),
    (head("//[", method="GET"), 400),
    (head("/v1/other", method="GET"), 404),
    (head("/v1/models"), 405),
    (head("/v1/completions", "Content-Length: 3") + b"{{{", 400),
    (b"\x16\x03\x01\r\n\r\n", 400),
    (head("/v1/models", "Host: localhost:1", method="GET"), 200),
  ],
)
def test_limits_and_strangers(port, request_, status):
  assert raw(port, request_).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_key_is_asked_for():
  get = head("/v1/models", method="GET")
  with servers.running(NOTHING, key="secret") as (server, _):
    assert raw(server.port, get).startswith(b"HTTP/1.1 401")
    wrong = head("/v1/models", "Authorization: Bearer secreT", method="GET")
    assert raw(server.port, wrong).startswith(b"HTTP/1.1 401")
    right = head("/v1/models", "Authorization: Bearer secret", method="GET")
    assert raw(server.port, right).startswith(b"HTTP/1.1 200")


def test_connections_are_limited_and_idle_ones_are_closed():
  get = head("/v1/models", method="GET")
  with servers.running(NOTHING, connections=2, idle=0.3) as (server, _):
    with contextlib.ExitStack() as stack:
      address = ("127.0.0.1", server.port)
      idle = [stack.enter_context(socket.create_connection(address, 10)) for _ in range(2)]
      time.sleep(0.1)
      assert raw(server.port, get).startswith(b"HTTP/1.1 503")
      assert [connection.recv(1) for connection in idle] == [b"", b""]  # closed by the server
    assert raw_when_free(server.port, get).startswith(b"HTTP/1.1 200")


def test_a_body_must_arrive_in_time(port, monkeypatch):
  monkeypatch.setattr(http, "READ", 0.2)
  with socket.create_connection(("127.0.0.1", port), 10) as connection:
    connection.sendall(head("/v1/completions", "Content-Length: 5") + b"{")
    assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_does_not_read_is_cut_off(monkeypatch):
  monkeypatch.setattr(http, "SEND", 0.2)
  monkeypatch.setattr(http, "LINGER", 0.2)
  monkeypatch.setattr(api.Api, "models", lambda _: {"data": "x" * 50_000_000})
  with servers.running(NOTHING) as (server, _):
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
      connection.sendall(head("/v1/models", method="GET"))
      servers.wait_for(lambda: server._open)
      servers.wait_for(lambda: not server._open)
      received = 0  # what the system had taken; the rest is dropped
      while part := connection.recv(2**20):
        received += len(part)
  assert 0 < received < 50_000_000


def test_a_client_that_sends_its_headers_slowly_is_cut_off():
  with servers.running(NOTHING, idle=0.3) as (server, _):
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
      with pytest.raises(OSError):
        for _ in range(200):
          connection.sendall(b"G")
          time.sleep(0.05)
