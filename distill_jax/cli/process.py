"""The process around a command: its arguments, its limit on open files, and its last line."""

import contextlib
import errno
import os
import resource
import sys
from collections.abc import Sequence

from distill_jax import errors

MIN_OPEN_FILES, WANTED_OPEN_FILES = 128, 4096


def check_text(words: Sequence[str]) -> None:
  """Checks that words are UTF-8; Python shows other bytes as lone surrogates.

  Raises:
    UserError: A word is not.
  """
  for word in words:
    try:
      word.encode()
    except UnicodeEncodeError:
      raise errors.usage(f"the argument {word!r} is not UTF-8; rename the file") from None


def raise_open_files() -> None:
  """Raises the limit on open files as far as the system allows.

  Raises:
    UserError: The limit is so low that a run would wait for files forever.
  """
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  wanted = WANTED_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_OPEN_FILES)
  if soft == resource.RLIM_INFINITY:
    return
  if soft < wanted:
    with contextlib.suppress(OSError, ValueError):
      resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
      soft = wanted
  if soft < MIN_OPEN_FILES:
    raise errors.data(
      f"only {soft} files may be open at a time, but at least {MIN_OPEN_FILES} are needed; run"
      " ulimit -n 1024 and try again"
    )


def report(error: errors.UserError) -> int:
  """Prints an error as one line and returns its exit code."""
  with contextlib.suppress(OSError):
    print(f"distill-jax: {error}", file=sys.stderr)
  return error.code


def os_error(error: OSError) -> errors.UserError:
  """Returns an error of the system in one line. Output that cannot be written is given up."""
  reason = error.strerror or str(error)
  try:
    sys.stdout.flush()
  except OSError:
    drop_output()
    return errors.data(f"standard output: {reason}")
  where = f"{error.filename}: " if error.filename else ""
  remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "fix this"
  return errors.data(
    f"{where}{reason}; no finished work is lost: {remedy} and re-run the same command"
  )


def drop_output() -> None:
  """Discards standard output; otherwise, Python would fail to flush it at exit and report that."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
