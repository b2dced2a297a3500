"""The exception for errors that the user can fix, and its exit codes."""

import contextlib
import os
from typing import NoReturn

USAGE, CONFIG, DATA, TEACHER, BUDGET, PREEMPTED = 2, 3, 4, 5, 6, 75


class UserError(Exception):
  """An error that the user can fix. Shown as one line, without a traceback.

  The message says what is wrong, where, and what to do. It may quote text from a teacher, a
  student or a file: every unprintable character, line breaks included, becomes a space.

  `code` is the exit code of the process:

    ====  =========  ======================================================
    code  constant   meaning
    ====  =========  ======================================================
    2     USAGE      wrong command or argument
    3     CONFIG     invalid config, or a missing API key
    4     DATA       missing, damaged or unwritable files or data
    5     TEACHER    rejected credentials, quota or the teacher's server
    6     BUDGET     a limit on requests, tokens, dollars or time is reached
    75    PREEMPTED  interrupted: re-run the same command to resume
    ====  =========  ======================================================
  """

  def __init__(self, message: str, code: int):
    super().__init__("".join(c if c.isprintable() else " " for c in message))
    self.code = code


class LostError(UserError):
  """Another process of the run is missing or gone."""

  def __init__(self, message: str):
    super().__init__(message, PREEMPTED)


def usage(message: str) -> UserError:
  """Returns the error for a wrong command or argument."""
  return UserError(message, USAGE)


def missing(option: str, example: str) -> UserError:
  """Returns the error for an option that a command needs."""
  return usage(f"--{option} is missing, for example --{option}={example}")


def config(field: str, value: object, allowed: str, do: str = "") -> UserError:
  """Returns the error for an invalid setting: its name, its value, what is allowed, what to try."""
  tail = f"; try {do}" if do else ""
  return UserError(f"config.{field} is {value!r}, but must be {allowed}{tail}", CONFIG)


def data(message: str) -> UserError:
  """Returns the error for missing, damaged or unwritable files or data."""
  return UserError(message, DATA)


def teacher(message: str) -> UserError:
  """Returns the error for a problem with credentials, quota or the teacher's server."""
  return UserError(message, TEACHER)


def budget(message: str) -> UserError:
  """Returns the error for a limit that is reached."""
  return UserError(message, BUDGET)


class SecondSignal:
  """Handles a signal to a process that is stopping already: ends it at once.

  Args:
    text: What to say on standard error; "" = nothing.
  """

  def __init__(self, text: str = ""):
    self._text = text

  def __call__(self, *_: object) -> NoReturn:
    """Exits with PREEMPTED."""
    if self._text:
      with contextlib.suppress(OSError):  # not sys.stderr, which may be in use
        os.write(2, f"distill-jax: {self._text}\n".encode())
    os._exit(PREEMPTED)
