"""The connection of jax's client to process 0, through a relay in this process.

jax aborts a process, with a C++ stack trace, as soon as the connection of its client to process 0
breaks. The client accepts a handler, but fails to call it (std::bad_cast, up to jax 0.11.0). So it
connects to a relay, which reports the loss of process 0 and keeps the client's end open.

A connection that process 0 closes before it has sent anything is not a loss: the socket at which
the processes have met has the same port, and may still take it. The client then connects again.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable

CHUNK = 2**18  # bytes
RETRY_SECONDS = 0.1


def start(address: tuple[str, int], patience: float, on_loss: Callable[[], object]) -> str:
  """Starts a relay to an address.

  Args:
    address: Host and port of process 0.
    patience: Seconds until process 0 must accept a connection.
    on_loss: Called, in another thread, when process 0 has closed a connection on which it has sent
      something, or is gone. Not called if the client has closed it before.

  Returns:
    HOST:PORT of the relay, for the client.
  """
  server = socket.create_server(("127.0.0.1", 0))

  def serve() -> None:
    while True:
      client, _ = server.accept()
      arguments = (client, address, patience, on_loss)
      threading.Thread(target=_connect, args=arguments, daemon=True, name="relay").start()

  threading.Thread(target=serve, daemon=True, name="relay").start()
  return f"127.0.0.1:{server.getsockname()[1]}"


def _connect(
  client: socket.socket, address: tuple[str, int], patience: float, on_loss: Callable[[], object]
) -> None:
  """Connects a client of the relay to process 0, and copies what both send."""
  deadline = time.monotonic() + patience
  while True:
    try:
      first = socket.create_connection(address, timeout=max(deadline - time.monotonic(), 1.0))
      break
    except OSError:
      if time.monotonic() > deadline:
        client.close()
        return
      time.sleep(RETRY_SECONDS)
  first.settimeout(None)
  for connection in (client, first):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
  closed = threading.Event()  # by the client
  arguments = (client, first, closed)
  sender = threading.Thread(target=_copy_to_first, args=arguments, daemon=True, name="relay")
  sender.start()
  with client, first:
    if not _sends(first):
      _shut_down(client)
    elif _copy(first, client) and not closed.is_set():
      on_loss()
    sender.join()


def _copy_to_first(client: socket.socket, first: socket.socket, closed: threading.Event) -> None:
  if _copy(client, first):
    closed.set()
    _shut_down(first)


def _sends(source: socket.socket) -> bool:
  """Waits until something comes from a socket; returns False if it is closed before."""
  try:
    return bool(source.recv(1, socket.MSG_PEEK))
  except OSError:
    return False


def _shut_down(connection: socket.socket) -> None:
  with contextlib.suppress(OSError):
    connection.shutdown(socket.SHUT_RDWR)


def _copy(source: socket.socket, target: socket.socket) -> bool:
  """Copies until one of both is closed; returns whether it was the source."""
  while True:
    data = b""
    with contextlib.suppress(OSError):
      data = source.recv(CHUNK)
    if not data:
      return True
    try:
      target.sendall(data)
    except OSError:
      return False
