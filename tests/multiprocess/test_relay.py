"""The relay between jax and process 0."""

import queue
import socket
import threading

import pytest

from distill_jax.machine import relay


@pytest.fixture
def ends():
  """(the client's end, that of process 0, the queue that a loss is put into)."""
  lost: queue.Queue[str] = queue.Queue()
  with socket.create_server(("127.0.0.1", 0)) as server:
    address = relay.start(server.getsockname(), 5.0, lambda: lost.put("lost"))
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=5.0) as client:
      server.settimeout(5.0)
      first, _ = server.accept()
      first.settimeout(5.0)
      with first:
        yield client, first, lost


def test_it_copies_what_both_send(ends):
  client, first, _ = ends
  for source, target in ((client, first), (first, client)):
    sent = bytes(range(256)) * 8192
    thread = threading.Thread(target=source.sendall, args=(sent,))
    thread.start()
    received = b""
    while len(received) < len(sent):
      received += target.recv(65536)
    thread.join()
    assert received == sent


def test_the_client_does_not_see_that_process_0_is_gone(ends):
  client, first, lost = ends
  first.sendall(b"x")
  assert client.recv(1) == b"x"
  first.close()
  assert lost.get(timeout=5.0) == "lost"
  client.settimeout(0.2)
  with pytest.raises(TimeoutError):
    client.recv(1)


def test_a_connection_that_is_closed_before_anything_came_is_no_loss(ends):
  client, first, lost = ends
  client.sendall(b"x")
  assert first.recv(1) == b"x"
  first.close()
  assert client.recv(1) == b""  # so the client connects again
  with pytest.raises(queue.Empty):
    lost.get(timeout=0.2)


def test_a_client_that_closes_is_no_loss(ends):
  client, first, lost = ends
  client.close()
  assert first.recv(1) == b""
  with pytest.raises(queue.Empty):
    lost.get(timeout=0.2)


def test_process_0_may_listen_later():
  with socket.create_server(("127.0.0.1", 0)) as server:
    address = server.getsockname()
  host, port = relay.start(address, 5.0, lambda: None).split(":")
  with socket.create_connection((host, int(port)), timeout=5.0) as client:
    client.sendall(b"x")
    with socket.create_server(address) as server:
      server.settimeout(5.0)
      with server.accept()[0] as first:
        assert first.recv(1) == b"x"
