"""One run on several processes: what process 0 does alone, and what the others learn of it.

All processes run the same program. Process 0 alone looks at files, clock, network and terminal;
`once` runs such code there and gives its result to all. All processes compute on the devices.

With one process, everything here is a plain call. `machine/processes.py` starts several processes
and provides the link between them.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, ParamSpec, Protocol, TypeVar, cast

from distill_jax import errors

P = ParamSpec("P")
T = TypeVar("T")

# Words in what a collective operation reports when a process that takes part in it is gone.
_LOST = ("gloo", "nccl", "connection closed", "connection reset", "coordination service")


class Link(Protocol):
  """Messages between the processes.

  Attributes:
    count: The number of processes.
    index: The number of this one, from 0.
  """

  count: int
  index: int

  def send(self, number: int, message: bytes) -> None:
    """Sends a message to all other processes; called by process 0."""
    ...

  def receive(self, number: int) -> bytes:
    """Waits for a message of process 0."""
    ...

  def give(self, number: int, message: bytes) -> None:
    """Sends a message to process 0."""
    ...

  def collect(self, number: int, message: bytes) -> list[bytes]:
    """Waits for a message of every process; called by process 0, whose own is `message`."""
    ...

  def request_stop(self) -> None:
    """Asks process 0 to stop the run; safe in a signal handler."""
    ...


class ToldError(errors.UserError):
  """An error that was raised on process 0, which reports it."""


class _State:
  link: Link | None = None
  alone = False  # whether this process runs code whose calls concern no other process
  leading = False  # whether it is process 0, in `once`
  stopping = False  # whether process 0 has been asked to stop
  number = 0  # of the last message


_state = _State()
_handlers: dict[str, Callable[..., Any]] = {}


def connect(link: Link | None) -> None:
  """Sets the link to the other processes; None: there are none."""
  _state.link, _state.alone, _state.leading = link, False, False
  _state.stopping, _state.number = False, 0
  _handlers.clear()


def count() -> int:
  """Returns the number of processes."""
  return 1 if _state.link is None else _state.link.count


def index() -> int:
  """Returns the number of this process, from 0."""
  return 0 if _state.link is None else _state.link.index


def link() -> Link | None:
  """Returns the link to the other processes."""
  return _state.link


def is_first() -> bool:
  """Whether this is process 0, which alone looks at files, clock, network and terminal."""
  return _state.link is None or _state.link.index == 0


def once(what: str, f: Callable[[], T]) -> T:
  """Runs `f` on process 0 alone; all processes get its value.

  All processes call this at the same place. Calls inside `f` are plain calls.

  Args:
    what: Names the call; processes that are at different places notice.
    f: Returns bytes, or a value that JSON can hold. Other processes get tuples as lists.

  Raises:
    UserError: `f` raised it; on all processes.
    KeyboardInterrupt: The run was asked to stop; on all processes.
  """
  if _state.link is None or _state.alone:
    return f()
  if _state.link.index == 0:
    return _lead(_state.link, what, f)
  return cast(T, _follow(_state.link, what))


def on_first(f: Callable[P, T]) -> Callable[P, T]:
  """Decorates a function that `once` runs."""
  name = f.__qualname__

  @functools.wraps(f)
  def call(*args: P.args, **kwargs: P.kwargs) -> T:
    return once(name, lambda: f(*args, **kwargs))

  return call


def only_first(f: Callable[P, None]) -> Callable[P, None]:
  """Decorates a function that process 0 runs and the others leave out.

  No process waits for another, so it may be called where an error has been raised.
  """

  @functools.wraps(f)
  def call(*args: P.args, **kwargs: P.kwargs) -> None:
    if is_first():
      with separately():
        f(*args, **kwargs)

  return call


class CachedProperty(functools.cached_property[T]):
  """A cached property that all processes compute at the same place.

  What process 0 computes in `once` is not kept: the others do not have it.
  """

  def __get__(self, instance: Any, owner: Any = None) -> Any:
    if instance is None or not _state.leading:
      return super().__get__(instance, owner)
    name = self.attrname
    return instance.__dict__[name] if name in instance.__dict__ else self.func(instance)


def told(what: str, value: T) -> T:
  """Returns the value that process 0 has."""
  return once(what, lambda: value)


@contextlib.contextmanager
def separately() -> Iterator[None]:
  """Within this context every process runs all code itself, on files of its own."""
  before, _state.alone = _state.alone, True
  try:
    yield
  finally:
    _state.alone = before


def gather(what: str, value: object) -> list[Any]:
  """Returns the values of all processes, which JSON can hold, in the order of their numbers."""
  link = _state.link
  if link is None or _state.alone:
    return [value]
  _state.number += 1
  message = json.dumps(value).encode()
  if link.index:
    link.give(_state.number, message)
    return once(what, list[Any])
  given = link.collect(_state.number, message)
  return once(what, lambda: [json.loads(part) for part in given])


def register(name: str, handler: Callable[..., Any]) -> None:
  """Sets the function that this process runs when process 0 calls `on_all` with this name."""
  if _state.link is not None:
    _handlers[name] = handler


def on_all(name: str, handler: Callable[..., T], *args: Any) -> T:
  """Runs a function on all processes; may be called inside `once`, where the others wait.

  Args:
    name: What the other processes have registered their function as. It may use the devices.
    handler: The function of this process.
    *args: Arguments that JSON can hold. Other processes get tuples as lists.

  Returns:
    The result of this process.
  """
  link = _state.link
  if link is None or not _state.leading:
    return handler(*args)
  _send(link, {"kind": "call", "what": name, "args": args})
  _state.alone = _state.leading = False
  try:
    return handler(*args)
  finally:
    _state.alone = _state.leading = True


def request_stop() -> bool:
  """Asks all processes to stop at their next message; safe in a signal handler.

  Returns:
    Whether they will. If not, this process does something of its own, which the caller may end.
  """
  link = _state.link
  if link is None or (_state.alone and link.index == 0):
    return False
  if link.index:
    link.request_stop()
  else:
    _state.stopping = True
  return True


def is_loss(error: BaseException) -> bool:
  """Whether an error says that another process is gone, and is not one of ours (of a server)."""
  if _state.link is None or isinstance(error, errors.UserError):
    return False
  return any(x in str(error).lower() for x in _LOST)


def _lead(link: Link, what: str, f: Callable[[], T]) -> T:
  """Process 0: runs `f` and sends what comes of it."""
  try:
    if _state.stopping:
      _state.stopping = False
      raise KeyboardInterrupt
    _state.alone = _state.leading = True
    try:
      value = f()
    finally:
      _state.alone = _state.leading = False
  except errors.UserError as error:
    _send(link, {"kind": "error", "what": what, "text": str(error), "code": error.code})
    raise
  except KeyboardInterrupt:
    _send(link, {"kind": "stop", "what": what})
    raise
  except BaseException as error:
    _send(link, {"kind": "error", "what": what, "text": type(error).__name__, "code": 1})
    raise
  if isinstance(value, bytes):
    _send(link, {"kind": "bytes", "what": what}, value)
  else:
    _send(link, {"kind": "value", "what": what, "value": value})
  return value


def _send(link: Link, header: dict[str, Any], content: bytes = b"") -> None:
  message = json.dumps(header).encode() + b"\n" + content
  _state.number += 1
  link.send(_state.number, message)


def _follow(link: Link, what: str) -> object:
  """Another process: returns what process 0 has sent, and takes part in what it asks for."""
  while True:
    _state.number += 1
    line, _, content = link.receive(_state.number).partition(b"\n")
    header = json.loads(line)
    if header["kind"] == "call":
      # An error that process 0 has told is also in its next message.
      with contextlib.suppress(ToldError, KeyboardInterrupt):
        _handlers[header["what"]](*header["args"])
      continue
    if header["what"] != what:
      _raise_apart(link, what, header["what"])
    if header["kind"] == "error":
      raise ToldError(header["text"], header["code"])
    if header["kind"] == "stop":
      raise KeyboardInterrupt
    return content if header["kind"] == "bytes" else header["value"]


def _raise_apart(link: Link, wanted: str, sent: str) -> NoReturn:
  raise RuntimeError(
    f"process {link.index} waits for {wanted!r}, but process 0 has sent {sent!r}: they run "
    "different programs or read different data"
  )
