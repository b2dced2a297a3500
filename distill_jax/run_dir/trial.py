"""Tries whether a file system can hold run directories: appends, renames, locks and SQLite.

Locks between hosts cannot be tried from one host. They work on the file systems that keep a lock
on their server, and not on buckets that are mounted as directories.
"""

import fcntl
import os
import pathlib
import re
import sqlite3
import tempfile
from collections.abc import Callable

from distill_jax import disk

BUCKETS = re.compile(r"fuse\.(gcsfuse|s3fs|goofys|rclone|mount-?s3|mountpoint-s3|blobfuse2?|ossfs)")


def describe(directory: disk.Path) -> str:
  """Returns the type of the file system of a directory, and what follows from it."""
  kind = disk.file_system(directory) or "unknown"
  if BUCKETS.fullmatch(kind):
    return f"{kind}, a bucket: not for runs on several hosts"
  if disk.is_network(directory):
    return f"{kind}, shared by hosts: SQLite files get a rollback journal"
  return f"{kind}, local"


def faults(directory: disk.Path) -> list[str]:
  """Writes, locks and removes files in an existing directory.

  Returns:
    What a run needs and the file system does not do, one line each.
  """
  found = []
  try:
    with tempfile.TemporaryDirectory(dir=directory, prefix=".doctor-") as folder:
      for attempt in (_append, _replace, _lock, _sqlite):
        found += _complaint(attempt, pathlib.Path(folder))
  except OSError as error:
    found.append(f"files cannot be created and removed: {error.strerror or error}")
  return found


def _complaint(attempt: Callable[[pathlib.Path], str], folder: pathlib.Path) -> list[str]:
  try:
    text = attempt(folder)
  except (OSError, sqlite3.Error) as error:
    reason = getattr(error, "strerror", None) or str(error)
    text = f"{attempt.__name__.removeprefix('_')} fails: {reason}"
  return [text] if text else []


def _append(folder: pathlib.Path) -> str:
  file = folder / "appended"
  for line in (b"one\n", b"two\n"):
    with open(file, "ab", opener=disk.open_private) as opened:
      opened.write(line)
      opened.flush()
      os.fsync(opened.fileno())
  return "" if disk.read_bytes(file) == b"one\ntwo\n" else "appended lines are lost"


def _replace(folder: pathlib.Path) -> str:
  old, new = folder / "old", folder / "new"
  old.write_bytes(b"old")
  new.write_bytes(b"new")
  os.replace(new, old)
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
  replaced = disk.read_bytes(old) == b"new" and not new.exists()
  return "" if replaced else "a renamed file does not replace the old one"


def _lock(folder: pathlib.Path) -> str:
  first, second = (disk.open_private(folder / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
  try:
    fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
      fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      return ""
    return "locks have no effect: two processes could write to one run directory"
  finally:
    os.close(first)
    os.close(second)


def _sqlite(folder: pathlib.Path) -> str:
  file = folder / "trial.sqlite"
  first, second = (sqlite3.connect(file, timeout=0, isolation_level=None) for _ in range(2))
  try:
    disk.prepare_sqlite(first, file)
    disk.select_journal(first, file)
    first.execute("create table t(x)")
    first.execute("begin immediate")
    first.execute("insert into t values (1)")
    try:
      second.execute("begin immediate")
    except sqlite3.OperationalError:
      first.execute("commit")
      stored = second.execute("select count(*) from t").fetchone() == (1,)
      return "" if stored else "SQLite does not see what another connection has stored"
    return "SQLite's locks have no effect: two processes could damage the teacher's cache"
  finally:
    first.close()
    second.close()
