"""Servers of other projects: started as processes, and seen through a relay that counts."""

import contextlib
import dataclasses
import http.client
import http.server
import json
import pathlib
import select
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

START = 180.0  # seconds in which a server has to be ready


def free_port() -> int:
  with socket.create_server(("127.0.0.1", 0)) as free:
    return free.getsockname()[1]


@contextlib.contextmanager
def process(
  command: Sequence[str], health: str, log: pathlib.Path, env: Mapping[str, str] | None = None
) -> Iterator[None]:
  """Runs a server until the block ends.

  Args:
    command: Program and arguments.
    health: URL that answers with 200 once the server is ready.
    log: File for its output.
    env: Its environment; None for ours.
  """
  with open(log, "w") as out:
    server = subprocess.Popen(command, stdout=out, stderr=out, env=env)
  try:
    ready_by = time.monotonic() + START
    while not _is_up(health):
      assert server.poll() is None, log.read_text()[-3000:]
      assert time.monotonic() < ready_by, log.read_text()[-3000:]
      time.sleep(0.2)
    yield
  finally:
    end(server)


def end(process: subprocess.Popen[bytes]) -> None:
  """Asks a process to end, and kills it if it does not."""
  process.terminate()
  try:
    process.wait(30)
  except subprocess.TimeoutExpired:
    process.kill()
    process.wait()


def _is_up(url: str) -> bool:
  try:
    urllib.request.urlopen(url, timeout=5).close()
  except (OSError, http.client.HTTPException):
    return False
  return True


@dataclasses.dataclass(frozen=True)
class Exchange:
  """A request and its response.

  Attributes:
    body: The request's JSON object.
    key: Its Idempotency-Key.
    status: HTTP status of the response; 0 if the client left before it came.
    reply: The response's JSON value; None for anything else.
  """

  body: dict[str, Any]
  key: str
  status: int
  reply: Any

  @property
  def choices(self) -> int:
    """Number of samples in the response."""
    return len(self.reply["choices"]) if self.status == 200 else 0


class Relay:
  """Passes requests on to a server, and keeps what passes. A client that leaves is passed on too.

  Attributes:
    url: Base URL of the relay.
    exchanges: The requests that were answered, in the order of the responses.
  """

  def __init__(self, target: str):
    self.exchanges: list[Exchange] = []
    self._host, _, self._path = target.removeprefix("http://").partition("/")
    self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
    self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

  @contextlib.contextmanager
  def running(self) -> Iterator["Relay"]:
    thread = threading.Thread(target=self._server.serve_forever)
    thread.start()
    try:
      yield self
    finally:
      self._server.shutdown()
      thread.join()
      self._server.server_close()

  def choices(self) -> int:
    """Number of samples that the server has generated."""
    return sum(exchange.choices for exchange in self.exchanges)

  def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
    relay = self

    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"

      def do_POST(self) -> None:
        relay._pass_on(self)

      def log_message(self, format: str, *args: object) -> None:
        del format, args

    return Handler

  def _pass_on(self, handler: http.server.BaseHTTPRequestHandler) -> None:
    raw = handler.rfile.read(int(handler.headers["Content-Length"]))
    status, headers, content = 0, [], b""
    try:
      status, headers, content = self._forward(handler, raw)
    finally:
      key = handler.headers.get("Idempotency-Key", "")
      self.exchanges.append(Exchange(json.loads(raw), key, status, _parsed(content)))
    if not status:
      handler.close_connection = True
      return
    handler.send_response(status)
    for name, value in headers:
      if name.lower() not in ("connection", "content-length", "date", "server"):
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)

  def _forward(
    self, handler: http.server.BaseHTTPRequestHandler, raw: bytes
  ) -> tuple[int, list[tuple[str, str]], bytes]:
    connection = http.client.HTTPConnection(self._host, timeout=600)
    path = "/" + self._path + handler.path.removeprefix("/v1")
    names = ("Authorization", "Content-Type", "Idempotency-Key")
    headers = {name: handler.headers[name] for name in names if handler.headers[name]}
    try:
      connection.request("POST", path, raw, headers)
      if not _answers(connection.sock, before=handler.connection):
        return 0, [], b""
      response = connection.getresponse()
      kept = [(k, v) for k, v in response.getheaders() if k.lower() != "transfer-encoding"]
      return response.status, kept, response.read()
    finally:
      connection.close()


def _answers(server: socket.socket, before: socket.socket) -> bool:
  """Waits until a server answers; returns whether it does so before the client leaves."""
  while True:
    ready, _, _ = select.select([server, before], [], [])
    if server in ready:
      return True
    if not before.recv(1, socket.MSG_PEEK):
      return False
    time.sleep(0.05)  # bytes of the client's next request


def _parsed(content: bytes) -> Any:
  try:
    return json.loads(content)
  except ValueError:
    return None
