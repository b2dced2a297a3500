"""The directory of one phase: files of records, and a manifest that marks the phase as finished."""

import contextlib
import errno
import fcntl
import functools
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

from distill_jax import disk, errors, records, together
from distill_jax.run_dir import digests

MANIFEST = "manifest.json"
ATTEMPTS = "attempts.jsonl"
RATIONALES = "rationales.jsonl"
DROPPED = "dropped.jsonl"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)

Path = str | os.PathLike[str]


class PhaseDir:
  """The directory of a phase. It is created by the first write.

  Of several processes, process 0 alone reads and writes it (see `together`).
  """

  def __init__(self, path: Path):
    self.path = pathlib.Path(path)

  @functools.cached_property
  def _manifest(self) -> dict[str, Any] | None:
    file = self.path / MANIFEST
    if not file.exists():
      return None
    with report_os_errors(file):
      manifest = digests.decode(disk.read_bytes(file))
    if manifest is None:
      raise errors.data(f"{file} is damaged; {self._remedy()}")
    return manifest

  @property
  def finished(self) -> bool:
    """Whether there is a manifest.

    Raises:
      UserError: The manifest is damaged, or a listed file is missing or has another size.
    """
    return self._check(hashes=False)

  def verify(self) -> bool:
    """Returns `finished`, and also checks the hash of every listed file (see `digests`).

    Raises:
      UserError: As `finished`, or the content of a listed file has changed.
    """
    return self._check(hashes=True)

  @property
  @together.on_first
  def facts(self) -> dict[str, Any]:
    """The results stored in the manifest. Raises UserError if the phase is not finished."""
    if self._manifest is None:
      raise errors.data(f"{self.path} is not finished")
    return self._manifest["facts"]

  @together.on_first
  def write(self, name: str, rows: Iterable[records.Record]) -> None:
    """Replaces a file with these records, atomically."""
    write_bytes(self.path / name, _encode(rows))

  @together.on_first
  def append(self, name: str, rows: Iterable[records.Record]) -> None:
    """Appends records to a file and fsyncs it. A kill can leave a torn last line."""
    if lines := _encode(rows):
      append_bytes(self.path / name, lines)

  def rows(self, name: str, kind: type[records.R]) -> list[records.R]:
    """Reads the records of a file; a missing file has none.

    A torn last line (without a line end) is cut off and moved to NAME.torn.

    Raises:
      UserError: Any other line is invalid. The message names file:line.
    """
    file = self.path / name
    lines = self._complete_lines(name).split(b"\n")[:-1]
    return [
      records.load(kind, _decode(line, f"{file}:{n}"), f"{file}:{n}")
      for n, line in enumerate(lines, 1)
    ]

  @together.on_first
  def _complete_lines(self, name: str) -> bytes:
    """Returns the content of a file, without a torn last line, which is set aside."""
    file = self.path / name
    with report_os_errors(file):
      content = disk.read_bytes(file) if file.exists() else b""
    complete, end, torn = content.rpartition(b"\n")
    if torn:
      self._set_aside(name, len(complete + end), torn)
    return complete + end

  @together.on_first
  def finish(self, facts: dict[str, Any]) -> None:
    """Writes the manifest, which marks the phase as finished.

    The manifest stores `facts`, and the size and SHA-256 of each file in the directory.
    Subdirectories are not listed: they hold manifests of their own.
    """
    with report_os_errors(self.path):
      disk.make_private_dirs(self.path)
      files = {
        f.name: digests.entry(f)
        for f in self.path.iterdir()
        if f.is_file() and not _is_internal(f.name)
      }
    with _report_infinite(self.path / MANIFEST):
      content = digests.encode(facts, files)
    write_bytes(self.path / MANIFEST, content)
    self.__dict__.pop("_manifest", None)

  @together.on_first
  def discard(self) -> None:
    """Removes the directory; the manifest first, so that a kill leaves an unfinished phase."""
    with report_os_errors(self.path):
      (self.path / MANIFEST).unlink(missing_ok=True)
      if self.path.exists():
        disk.fsync(self.path)
        shutil.rmtree(self.path)
    self.__dict__.pop("_manifest", None)

  @together.on_first
  def _check(self, *, hashes: bool) -> bool:
    if self._manifest is None:
      return False
    for name, entry in self._manifest["files"].items():
      with report_os_errors(self.path / name):
        damage = digests.damage(self.path / name, entry, hashes=hashes)
      if damage:
        raise errors.data(f"{damage}; {self._remedy()}")
    return True

  def _remedy(self) -> str:
    return (
      f"restore it, or remove {self.path} and all later phases and re-run the same command: "
      "replies that were paid for are still in the teacher's cache"
    )

  def _set_aside(self, name: str, complete: int, torn: bytes) -> None:
    """Moves the torn end of a file to NAME.torn; the first `complete` bytes stay."""
    write_bytes(self.path / f"{name}.torn", torn)
    with report_os_errors(self.path / name):
      os.truncate(self.path / name, complete)


def write_json(path: Path, value: object) -> None:
  """Writes a JSON file with sorted keys, atomically. Raises UserError if it cannot."""
  with _report_infinite(path):
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False)
  write_bytes(path, (text + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
  """Writes a file atomically: under a temporary name, fsynced, renamed.

  Raises:
    UserError: The file cannot be written. A previous version stays as it was.
  """
  path = pathlib.Path(path)
  part = path.with_name(path.name + ".part")
  with report_os_errors(path):
    disk.make_private_dirs(path.parent)
    fd = disk.open_private(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
      _write_all(fd, content)
      os.fsync(fd)
    finally:
      os.close(fd)
    os.replace(part, path)
    disk.fsync(path.parent)


def append_bytes(path: Path, lines: bytes) -> None:
  """Appends lines to a file and fsyncs it. Raises UserError if it cannot; no part is left then."""
  path = pathlib.Path(path)
  with report_os_errors(path):
    disk.make_private_dirs(path.parent)
    is_new = not path.exists()
    fd = disk.open_private(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    size = os.fstat(fd).st_size
    try:
      _write_all(fd, lines)
      os.fsync(fd)
    except OSError:
      os.ftruncate(fd, size)  # else the next append would continue a partial line
      raise
    finally:
      os.close(fd)
    if is_new:
      disk.fsync(path.parent)


def read_json(path: Path) -> Any:
  """Reads a JSON file. Raises UserError if it is unreadable or not JSON."""
  with report_os_errors(path):
    content = disk.read_bytes(path)
  try:
    return json.loads(content)
  except (ValueError, RecursionError) as error:
    raise errors.data(
      f"{path} is truncated or not JSON ({error}); restore it, or give another --workdir"
    ) from None


@contextlib.contextmanager
def report_os_errors(path: Path) -> Iterator[None]:
  """Converts an OSError (disk full, no permission, ...) into a UserError that names `path`."""
  try:
    yield
  except OSError as error:
    reason = error.strerror or str(error)
    if error.errno in DISK_FULL:
      remedy = "free some space and re-run the same command"
    elif error.errno in NO_PERMISSION:
      remedy = "make it readable and writable, or give another --workdir"
    else:
      remedy = "fix this and re-run the same command"
    raise errors.data(f"{path}: {reason}; no finished work is lost: {remedy}") from error


def lock(descriptor: int, path: Path, held: str) -> None:
  """Locks an open file for this process, until it is closed.

  Args:
    descriptor: The file.
    path: What it protects.
    held: What is wrong with `path`, and what to do, if another process has the lock.

  Raises:
    UserError: Another process has it, or the file system has no locks.
  """
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    raise errors.data(f"{path} {held}") from None
  except OSError as error:
    reason = error.strerror or str(error)
    raise errors.data(
      f"{path} cannot be locked ({reason}); give a --workdir on a file system with locks"
    ) from None


@contextlib.contextmanager
def _report_infinite(path: Path) -> Iterator[None]:
  """Turns the error of a number that JSON does not have into a UserError."""
  try:
    yield
  except ValueError as error:
    if "not JSON compliant" not in str(error):
      raise
    raise errors.data(
      f"{path}: a number is non-finite, so training diverged; lower the learning rate and use a new"
      " --workdir"
    ) from None


def _encode(rows: Iterable[records.Record]) -> bytes:
  return "".join(records.dump(row) + "\n" for row in rows).encode("ascii")


def _decode(line: bytes, where: str) -> str:
  try:
    return line.decode("ascii")
  except UnicodeDecodeError:
    raise errors.data(f"{where}: not ASCII; remove or repair this line") from None


def _write_all(fd: int, content: bytes) -> None:
  """Writes all bytes, also if the system accepts only a part of them per call."""
  view = memoryview(content)
  while view:
    view = view[os.write(fd, view) :]


def _is_internal(name: str) -> bool:
  """Whether a file is the manifest or a leftover, which no manifest lists."""
  return name == MANIFEST or name.endswith((".part", ".torn"))
