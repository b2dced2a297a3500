"""Remembers which teacher cache a run stores its replies in, so that a lost one is noticed.

The run directory gets a small file, teacher.json:

  {"cache": "", "salt": "5E0C..."}    "" = teacher.sqlite in the run directory, else a shared file

Without it, SQLite would silently create a new, empty cache in place of one that was deleted, and
the run would pay for its replies again.
"""

import contextlib
import json
import os
import pathlib
import sqlite3
from collections.abc import Iterator

from distill_jax import disk, errors
from distill_jax.teacher.store import tables

MARKER = "teacher.json"

Path = str | os.PathLike[str]


def check(workdir: Path, cache_path: Path) -> None:
  """Checks that the cache of a run still exists, if the run has stored replies.

  Args:
    workdir: The run directory.
    cache_path: The cache that the run is about to use.

  Raises:
    errors.UserError: There is none although the run had one, or the marker cannot be read.
  """
  if _read(workdir) is None:
    return
  path = pathlib.Path(cache_path)
  with _report_errors(path):
    lost = not path.exists() or path.stat().st_size == 0  # SQLite takes an empty file for a new one
  if lost:
    raise errors.data(
      f"{path} is missing: it held every reply that {workdir} has received from its teacher; "
      f"restore it, or remove {_marker(workdir)} to resume with an empty cache, which pays again "
      "for what unfinished phases need"
    )


def record(workdir: Path, cache_path: Path) -> None:
  """Records that a run uses an open cache; call it before the first request.

  Raises:
    errors.UserError: The run has used another file before, wherever it was, or the marker cannot be
      written.
  """
  local = os.path.realpath(cache_path) == os.path.realpath(pathlib.Path(workdir) / "teacher.sqlite")
  shown = "" if local else os.path.realpath(cache_path)
  try:
    with contextlib.closing(sqlite3.connect(cache_path, timeout=30.0)) as db, db:
      marker = {"cache": shown, "salt": tables.salt(db)}
  except sqlite3.Error as error:
    raise errors.data(f"teacher cache {cache_path} cannot be used ({error})") from None
  stored = _read(workdir)
  if stored == marker:
    return
  if stored is not None and stored["salt"] != marker["salt"]:
    raise errors.data(
      f"{cache_path} is not the file that {workdir} stored its replies in; restore that file, or "
      f"remove {_marker(workdir)} to resume with this one, which pays again for what it lacks"
    )
  _write(_marker(workdir), json.dumps(marker, sort_keys=True) + "\n")


def recorded(workdir: Path) -> pathlib.Path | None:
  """The shared cache that a run used last; None if it has its own, or has used none yet.

  Raises:
    errors.UserError: The marker cannot be read.
  """
  found = _read(workdir)
  return pathlib.Path(found["cache"]) if found and found["cache"] else None


def rescue(db: sqlite3.Connection, path: pathlib.Path) -> errors.UserError:
  """Saves the content of an open cache whose file is gone; returns the error that says where."""
  saved = path.with_name(f"{path.name}.saved")
  gone = f"teacher cache {path} was removed or replaced during the run"
  try:
    saved.unlink(missing_ok=True)
    disk.create_private(saved)
    db.execute("vacuum into ?", (os.fspath(saved),))
  except (OSError, sqlite3.Error) as error:
    return errors.data(
      f"{gone}, and its replies could not be saved ({error}): they are lost; restore a copy of the"
      " file, or run again to pay for them again"
    )
  return errors.data(
    f"{gone}; its replies are saved in {saved}: rename it to {path.name} and run again"
  )


def _marker(workdir: Path) -> pathlib.Path:
  return pathlib.Path(workdir) / MARKER


def _read(workdir: Path) -> dict[str, str] | None:
  file = _marker(workdir)
  with _report_errors(file):
    if not file.exists():
      return None
    content = disk.read_bytes(file)
  try:
    marker = json.loads(content)
    return {name: marker[name] for name in ("cache", "salt")}
  except (ValueError, KeyError, TypeError, RecursionError):
    raise errors.data(
      f"{file} is damaged; remove it if the teacher cache of this run is still there"
    ) from None


def _write(file: pathlib.Path, text: str) -> None:
  part = file.with_name(f"{file.name}.part")
  with _report_errors(file):
    disk.make_private_dirs(file.parent)
    with open(part, "w", encoding="ascii", opener=disk.open_private) as opened:
      opened.write(text)
      opened.flush()
      os.fsync(opened.fileno())
    os.replace(part, file)


@contextlib.contextmanager
def _report_errors(file: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise errors.data(
      f"{file}: {error.strerror or error}; no finished work is lost: fix this and re-run the same "
      "command"
    ) from None
