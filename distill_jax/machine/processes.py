"""Several processes as one: start and end of jax.distributed, their messages, and a watch.

The only module that uses the client of jax's coordination service, which jax does not document. A
watch in every process notices within LOST_SECONDS that another one is gone; a relay notices at once
that process 0 is gone. Both end this process with an exit code after which it is started again; jax
would end it by a signal.
"""

import collections
import contextlib
import dataclasses
import json
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import jax
from jax._src import clusters, distributed

from distill_jax import errors, together
from distill_jax.machine import meeting, relay

LOST_SECONDS = 45.0  # without a sign of life
JAX_LOST_SECONDS = 120  # until jax's own watch ends all processes
START_SECONDS = 40.0  # to start jax once all processes have met
WATCH_SECONDS = 1.0
LEAVE_SECONDS = 10.0  # between the end of another process by an error, and the end of this one
END_SECONDS = 60.0  # to wait for the others at the end of a command
WAIT_MS = 1000  # of one wait for a message: signals are handled in between
PIECE = 2**20  # bytes of a message that are stored under one key
READ_EVERY = 64  # messages between two receipts
LOCAL_COUNTS = ("SLURM_STEP_TASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE")


@dataclasses.dataclass(frozen=True)
class Place:
  """The place of this process among those of the run.

  Attributes:
    count: The number of processes.
    index: The number of this one.
    address: HOST:PORT of process 0.
    devices: The local accelerators to use; None for all.
  """

  count: int
  index: int
  address: str
  devices: tuple[int, ...] | None = None


def detect(address: str) -> Place | None:
  """Returns the place that the launcher (SLURM, Open MPI, GKE, TPU) gives, None without one.

  Args:
    address: HOST:PORT of process 0; empty = the launcher's own.
  """
  address = address or os.environ.get("JAX_COORDINATOR_ADDRESS", "")
  found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
    address or None, None, None, None, None, 300
  )
  coordinator, count, index, devices = found
  if count is None or index is None or coordinator is None:
    return None
  if _alone_on_host():  # jax would give it one accelerator, whatever the host has
    devices = None
  return Place(count, index, coordinator, None if devices is None else tuple(devices))


def _alone_on_host() -> bool:
  """Whether the launcher says that it has started one process on this host."""
  counts = [os.environ[name] for name in LOCAL_COUNTS if name in os.environ]
  return bool(counts) and all(c.partition("(")[0] == "1" for c in counts)


def start(place: Place, patience: float) -> None:
  """Connects this process with the others; returns when all are there.

  After this, only process 0 has a standard output.

  Raises:
    UserError: The address is wrong, or a process is missing.
  """
  meeting.meet(place.count, place.index, place.address, patience, _say)
  link = _Link(place)
  _start_jax(place, link)
  _keep_output_clean(place.index)
  together.connect(link)
  link.begin(distributed.global_state.client)
  _check_devices(place.count)


def _start_jax(place: Place, link: "_Link") -> None:
  host, port = meeting.split_address(place.address)
  # gRPC would send the messages through a proxy.
  direct = [os.environ.get("no_grpc_proxy"), host, "127.0.0.1"]
  os.environ["no_grpc_proxy"] = ",".join(filter(None, direct))
  with contextlib.suppress(AttributeError):
    jax.config.update("jax_check_proxy_envs", False)
  address = place.address
  if place.index:
    address = relay.start((host, port), START_SECONDS, link.lose_first)
  handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
  # Signals wait until jax has started, and it would wait for a process that is gone.
  text = f"another process has gone within {START_SECONDS:.0f} s after all had met"
  limit = threading.Timer(START_SECONDS, _give_up, (place.index, text, errors.PREEMPTED))
  limit.daemon = True
  limit.start()
  jax.distributed.initialize(
    address,
    place.count,
    place.index,
    local_device_ids=place.devices,
    cluster_detection_method="deactivate",
    initialization_timeout=2 * int(START_SECONDS),
    heartbeat_timeout_seconds=JAX_LOST_SECONDS,
    shutdown_timeout_seconds=int(END_SECONDS),
  )
  limit.cancel()
  for number, handler in handlers.items():  # jax has replaced that of SIGTERM
    signal.signal(number, handler)


def _ended(n: int, code: int) -> str:
  return f"process {n} has ended with exit code {code}; its own output says why"


def loss() -> errors.UserError:
  """Returns the error of this process after a collective operation has failed."""
  link = together.link()
  assert isinstance(link, _Link)
  return link.loss()


def _say(text: str) -> None:
  """Bypasses sys.stderr, which may be in use."""
  with contextlib.suppress(OSError):
    os.write(2, f"distill-jax: {text}\n".encode())


def _give_up(index: int, text: str, code: int) -> NoReturn:
  """Ends this process with a line."""
  end = "; re-run the same command to resume" if code == errors.PREEMPTED else ""
  _say(f"process {index}: {text}{end}")
  os._exit(code)


def _keep_output_clean(index: int) -> None:
  """Keeps what C++ libraries print out of standard output, and has process 0 alone write there."""
  sys.stdout.flush()
  target = os.dup(1) if index == 0 else os.open(os.devnull, os.O_WRONLY)
  silent = os.open(os.devnull, os.O_WRONLY)
  os.dup2(silent, 1)
  os.close(silent)
  buffering = 1 if os.isatty(target) else -1
  sys.stdout = open(target, "w", buffering, encoding=sys.stdout.encoding, errors="strict")


def _check_devices(count: int) -> None:
  """Checks that all processes have equally many devices. Raises UserError if not."""
  counts = together.gather("local devices", [platform.node(), jax.local_device_count()])
  (_, first), *others = counts
  for number, (host, devices) in enumerate(others, 1):
    if devices != first:
      raise errors.UserError(
        f"process {number} ({host}) has {devices} devices, process 0 has {first}: start all"
        " processes with equally many",
        errors.CONFIG,
      )
  assert jax.device_count() == count * first


class _Link:
  """See together.Link: messages in the key-value store of jax's coordination service."""

  def __init__(self, place: Place):
    self.count, self.index = place.count, place.index
    self._client: Any = None
    self._sent: collections.deque[int] = collections.deque()  # numbers of stored messages
    self._stop_wanted = threading.Event()
    self._ended = threading.Event()
    self._left: int | None = None  # the code that this process leaves with
    self._report: Callable[[], object] = lambda: None  # says why
    self._thread = threading.Thread(target=self._watch, daemon=True, name="watch")
    self._answered_at = time.monotonic()  # when process 0 has last answered the watch
    self.all_left = False  # whether all processes have come to their ends

  def send(self, number: int, message: bytes) -> None:
    """See together.Link."""
    pieces = [message[n : n + PIECE] for n in range(0, len(message), PIECE)]
    for n, piece in enumerate(pieces[1:], 1):
      self._client.key_value_set_bytes(f"told/{number}/{n}", piece)
    first = f"{len(pieces)}\n".encode() + pieces[0]
    self._client.key_value_set_bytes(f"told/{number}/0", first)
    self._sent.append(number)
    if number % READ_EVERY == 0:
      self._delete_read()

  def _delete_read(self) -> None:
    """Deletes the messages that all processes have read."""
    read = self._client.key_value_dir_get("read/")
    if len(read) < self.count - 1:
      return
    last = min(int(number) for _, number in read)
    while self._sent and self._sent[0] <= last:
      self._client.key_value_delete(f"told/{self._sent.popleft()}/")

  def receive(self, number: int) -> bytes:
    """See together.Link."""
    count, _, first = self._wait_for(f"told/{number}/0").partition(b"\n")
    rest = [self._wait_for(f"told/{number}/{n}") for n in range(1, int(count))]
    if number % READ_EVERY == 0:
      self._client.key_value_set(f"read/{self.index}", str(number), True)
    return b"".join([first, *rest])

  def give(self, number: int, message: bytes) -> None:
    """See together.Link."""
    self._client.key_value_set_bytes(f"given/{number}/{self.index}", message)

  def collect(self, number: int, message: bytes) -> list[bytes]:
    """See together.Link."""
    others = [self._wait_for(f"given/{number}/{n}") for n in range(1, self.count)]
    self._client.key_value_delete(f"given/{number}/")
    return [message, *others]

  def _wait_for(self, key: str) -> bytes:
    """Waits for a value, without a limit: the watch notices a process that is gone."""
    while True:
      try:
        return self._client.blocking_key_value_get_bytes(key, WAIT_MS)
      except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
          raise

  def request_stop(self) -> None:
    """See together.Link."""
    self._stop_wanted.set()

  def begin(self, client: Any) -> None:
    """Starts the watch, with the client that jax has connected."""
    self._client, self._answered_at = client, time.monotonic()
    self._thread.start()
    threading.Thread(target=self._watch_answers, daemon=True, name="watch answers").start()

  def _watch_answers(self) -> None:
    """Ends this process if process 0 falls silent: the calls to it have no time limit."""
    while not self._ended.wait(WATCH_SECONDS):
      silent = time.monotonic() - self._answered_at
      if silent > LOST_SECONDS and self._left is not None:
        os._exit(self._left)
      if silent > LOST_SECONDS:
        self._give_up_silent(0, silent)

  def lose_first(self) -> None:
    """Ends this process: the connection to process 0 has broken."""
    if self._left is None:
      self._give_up("process 0 is gone", errors.PREEMPTED)
    if not self._ended.is_set():
      self._report()
      os._exit(self._left)

  def _watch(self) -> None:
    beats: dict[int, tuple[str, float]] = {}  # process -> (its last sign of life, when it changed)
    left_at: dict[int, float] = {}
    number, failures, stopping = 0, 0, False
    while not self._ended.wait(WATCH_SECONDS * max(1.0, self.count / 32)):
      number += 1
      try:
        self._client.key_value_set(f"watch/beat/{self.index}", str(number), True)
        if self._stop_wanted.is_set() and not stopping:
          self._client.key_value_set(f"watch/stop/{self.index}", "", True)
          stopping = True
        entries = {k.removeprefix("watch/"): v for k, v in self._client.key_value_dir_get("watch/")}
        self._answered_at, failures = time.monotonic(), 0
      except jax.errors.JaxRuntimeError:
        failures += 1
        if failures > 2 and not self._ended.is_set():
          self._give_up("process 0 is gone", errors.PREEMPTED)
        continue
      if self.index == 0 and not stopping and any(k.startswith("stop/") for k in entries):
        stopping = True
        # Launchers signal all processes. Theirs must not count as a second signal to this one.
        if not isinstance(signal.getsignal(signal.SIGTERM), errors.SecondSignal):
          os.kill(os.getpid(), signal.SIGTERM)  # whatever handles it now handles theirs
      now = time.monotonic()
      for n in range(self.count):
        beat = entries.get(f"beat/{n}", "")
        if n not in beats or beats[n][0] != beat:
          beats[n] = beat, now
        self._judge(n, entries.get(f"left/{n}"), now - beats[n][1], left_at, now)

  def _judge(
    self, n: int, left: str | None, silent: float, left_at: dict[int, float], now: float
  ) -> None:
    """Ends this process if another one is gone."""
    if n == self.index or self._left is not None:
      return
    if left is None:
      if silent > LOST_SECONDS:
        self._give_up_silent(n, silent)
      return
    code = json.loads(left)["code"]
    since = now - left_at.setdefault(n, now)
    if code and since > LEAVE_SECONDS:
      self._give_up(_ended(n, code), code)

  def loss(self) -> errors.UserError:
    """Returns the error of a process that has lost another one: that one's own, if it had any."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      for name, left in self._client.key_value_dir_get("watch/left/"):
        if code := json.loads(left)["code"]:
          return errors.UserError(_ended(int(name.rpartition("/")[2]), code), code)
    return errors.LostError("another process is gone; re-run the same command to resume")

  def _give_up_silent(self, n: int, seconds: float) -> NoReturn:
    text = f"process {n} has given no sign of life for {seconds:.0f} s"
    self._give_up(text, errors.PREEMPTED)

  def _give_up(self, text: str, code: int) -> NoReturn:
    _give_up(self.index, text, code)

  def leave(self, code: int, text: str, report: Callable[[], object]) -> dict[str, Any] | None:
    """Waits for the other processes to end.

    Returns:
      {"code", "text"} that process 0 ends with; None if it has not come to its end in time.
    """
    self._report, self._left = report, code
    entries: dict[str, str] = {}
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      self._client.key_value_set(
        f"watch/left/{self.index}", json.dumps({"code": code, "text": text})
      )
      # The watch of another process ends it only after LEAVE_SECONDS; process 0 outlasts that.
      failed = LEAVE_SECONDS if self.index else 2.5 * LEAVE_SECONDS
      deadline = time.monotonic() + (failed if code else END_SECONDS)
      while time.monotonic() < deadline:
        entries = dict(self._client.key_value_dir_get("watch/left/"))
        if len(entries) == self.count:
          break
        time.sleep(0.05)
    self._ended.set()
    self._thread.join(5 * WATCH_SECONDS)
    self.all_left = len(entries) == self.count
    first = entries.get("watch/left/0")
    return None if first is None else json.loads(first)


def leave(code: int, text: str, report: Callable[[], object]) -> int:
  """Ends this process together with the others, process 0 last.

  Args:
    code: The exit code.
    text: What this process has to say; empty if it has succeeded.
    report: Says it. Not called if process 0 says the same.

  Returns:
    The exit code, if all processes have ended; otherwise the function does not return.
  """
  link = together.link()
  assert isinstance(link, _Link)
  first = link.leave(code, text, report)
  if text and (link.index == 0 or first is None or first["text"] != text):
    report()
  together.connect(None)
  sys.stdout.flush()
  sys.stderr.flush()
  if not link.all_left:
    os._exit(code)
  jax.distributed.shutdown()
  return code
