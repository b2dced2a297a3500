"""Where the processes of a run find each other, before jax connects them.

Process 0 listens at the coordinator's address until all others have said hello, and then leaves the
port to jax. jax itself ends a process that waits in vain, or whose port is taken, by a signal and
without a message.
"""

import contextlib
import errno
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from distill_jax import errors

TELL_SECONDS = 30.0  # between two lines about who is missing
HELLO_SECONDS = 10.0  # to say hello once connected, and to answer it
MOST_BYTES = 4096  # of a hello or its answer
MAGIC = "distill_jax"

Say = Callable[[str], object]


def split_address(address: str) -> tuple[str, int]:
  """Returns host and port of HOST:PORT. Raises UserError if it is none."""
  host, _, port = address.rpartition(":")
  if not host or not port.isdecimal() or not 0 < int(port) < 65536:
    raise errors.usage(
      f"--coordinator={address} is not HOST:PORT, for example --coordinator=10.0.0.1:9876"
    )
  return host.strip("[]"), int(port)


def meet(count: int, index: int, address: str, patience: float, say: Say) -> None:
  """Waits until all processes are there.

  Args:
    count: The number of processes.
    index: The number of this one.
    address: HOST:PORT of process 0.
    patience: Seconds to wait.
    say: Shows a line about who is missing.

  Raises:
    UserError: The address is wrong or taken, a process is missing, or one has been interrupted.
    KeyboardInterrupt: This process has been interrupted. Those that are there end, too.
  """
  host, port = split_address(address)
  deadline = time.monotonic() + patience
  if index:
    _join(count, index, (host, port), deadline, patience, say)
    return
  try:
    server = _listen(port)
  except OSError as error:
    reason = "is taken by another process" if error.errno == errno.EADDRINUSE else str(error)
    raise errors.UserError(
      f"port {port} of --coordinator={address} {reason}; give another port to all processes",
      errors.CONFIG,
    ) from None
  with server:
    _host(server, count, deadline, patience, say)


def _listen(port: int) -> socket.socket:
  if socket.has_dualstack_ipv6():
    return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
  return socket.create_server(("", port))


def _host(server: socket.socket, count: int, deadline: float, patience: float, say: Say) -> None:
  """Process 0: waits for the hello of every other process, then lets them all go on."""
  here: dict[int, socket.socket] = {}
  with contextlib.ExitStack() as stack, _stop_on_interruption(here):
    told = time.monotonic()
    while len(here) < count - 1:
      now = time.monotonic()
      missing = ", ".join(str(n) for n in range(1, count) if n not in here)
      if now >= deadline:
        raise errors.LostError(
          f"process {missing} of {count} did not connect within {patience:g} s; start all"
          " processes, or wait longer with --patience=SECONDS"
        )
      if now - told >= TELL_SECONDS:
        say(f"waiting for process {missing} of {count}")
        told = now
      server.settimeout(min(1.0, deadline - now))
      connection = None
      with contextlib.suppress(TimeoutError):
        connection = stack.enter_context(server.accept()[0])
      _remove_gone(here)
      if connection and (number := _greet(connection, count, here)) is not None:
        here[number] = connection
    for connection in here.values():
      _send(connection, {MAGIC: "go"})
    for connection in here.values():  # they close first: then the port is free at once
      connection.settimeout(HELLO_SECONDS)
      with contextlib.suppress(OSError):
        connection.recv(1)


@contextlib.contextmanager
def _stop_on_interruption(here: dict[int, socket.socket]) -> Iterator[None]:
  try:
    yield
  except KeyboardInterrupt:
    _stop(here, 0)
    raise


def _remove_gone(here: dict[int, socket.socket]) -> None:
  """Removes the processes that are gone. Raises UserError if one has been interrupted."""
  for number, connection in list(here.items()):
    connection.setblocking(False)
    try:
      said = connection.recv(1)
    except BlockingIOError:  # it is waiting
      continue
    except OSError:
      said = b""
    del here[number]
    if said:  # all that it says while it is waiting is that it stops
      _stop(here, number)
      raise _interrupted(number)


def _stop(here: dict[int, socket.socket], number: int) -> None:
  """Ends the processes that are there: process `number` has been interrupted."""
  for connection in here.values():
    _send(connection, {MAGIC: "stop", "process": number})


def _interrupted(number: object) -> errors.UserError:
  return errors.UserError(
    f"process {number} has been interrupted; re-run the same command to resume", errors.PREEMPTED
  )


def _greet(connection: socket.socket, count: int, here: dict[int, socket.socket]) -> int | None:
  """Reads a hello; returns the number of the process, or None if it cannot take part."""
  hello = _receive(connection)
  number = hello.get("process")
  if hello.get(MAGIC) != "hello" or not isinstance(number, int):
    return None  # somebody else
  fault = ""
  if hello.get("count") != count:
    fault = f"it was started with --processes={hello.get('count')}, process 0 with {count}"
  elif number in here:
    fault = f"another process is already number {number}"
  if fault:
    _send(connection, {MAGIC: "no", "fault": fault})
    return None
  return number


def _join(
  count: int, index: int, address: tuple[str, int], deadline: float, patience: float, say: Say
) -> None:
  """Another process: says hello to process 0 as soon as it listens, and waits for the others."""
  told = time.monotonic()
  where = f"{address[0]}:{address[1]}"
  while True:
    try:
      with socket.create_connection(address, timeout=5.0) as connection:
        _send(connection, {MAGIC: "hello", "process": index, "count": count})
        try:
          answer = _receive(connection, max(deadline - time.monotonic(), 1.0) + HELLO_SECONDS)
        except KeyboardInterrupt:
          _send(connection, {MAGIC: "stop"})
          raise
      if answer.get(MAGIC) == "stop":
        raise _interrupted(answer.get("process"))
      if answer.get(MAGIC) == "go":
        return
      if answer.get(MAGIC) == "no":
        raise errors.UserError(f"process {index}: {answer.get('fault')}", errors.CONFIG)
      missing = errors.UserError(
        f"process {index}: what answers at --coordinator={where} is not process 0 of a run;"
        " give its host and a free port there",
        errors.CONFIG,
      )
    except OSError as error:
      missing = _missing(index, where, patience, error)
    now = time.monotonic()
    if now >= deadline:
      raise missing
    if now - told >= TELL_SECONDS:
      say(f"process {index} is waiting for process 0 at {where}")
      told = now
    time.sleep(min(0.5, max(deadline - now, 0.0)))


def _missing(index: int, where: str, patience: float, error: OSError) -> errors.UserError:
  """Returns the error of a process that cannot reach process 0.

  A host that is down looks like an address that nobody has, so a launcher may try both again.
  """
  unknown = isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN
  if unknown:
    reason = "is a name that cannot be resolved"
  elif isinstance(error, ConnectionRefusedError | ConnectionResetError):
    reason = "is reached, but process 0 does not listen there"
  else:
    reason = f"cannot be reached ({error.strerror or error})"
  text = (
    f"process {index}: --coordinator={where} {reason}, after {patience:g} s; give the host of"
    " process 0 and a free port there, the same to all processes"
  )
  return errors.UserError(text, errors.CONFIG) if unknown else errors.LostError(text)


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
  with contextlib.suppress(OSError):
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket, seconds: float = HELLO_SECONDS) -> dict[str, Any]:
  """Reads a line of JSON; returns {} if something else comes, or nothing."""
  end, content = time.monotonic() + seconds, b""
  try:
    while not content.endswith(b"\n") and len(content) < MOST_BYTES:
      connection.settimeout(max(end - time.monotonic(), 0.01))
      part = connection.recv(MOST_BYTES, socket.MSG_PEEK)
      if not part:
        return {}
      content += connection.recv(part.find(b"\n") + 1 or len(part))
    message = json.loads(content)
  except (OSError, ValueError, RecursionError):
    return {}
  return message if isinstance(message, dict) else {}
