"""One phase's part of the run folder: records, written or appended whole; a manifest at the end."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import pathlib

from distill_jax import errors, records

MANIFEST = "manifest.json"
ATTEMPTS = "attempts.jsonl"
RATIONALES = "rationales.jsonl"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class PhaseDir:
  """The folder of a phase; made when it is first written to."""

  def __init__(self, path):
    self.path = pathlib.Path(path)

  @functools.cached_property
  def _manifest(self) -> dict | None:
    file = self.path / MANIFEST
    if not file.exists():
      return None
    manifest = read_json(file)
    if not isinstance(manifest, dict) or set(manifest) != {"facts", "files"}:
      raise errors.data(f"{file} is not a manifest; {self._again()}")
    return manifest

  @property
  def finished(self) -> bool:
    """Whether there is a manifest. Raises UserError if a listed file is missing or its size is
    off."""
    return self._check(hashes=False)

  def verify(self) -> bool:
    """As `finished`, and reads every file: UserError too if the content of one has changed."""
    return self._check(hashes=True)

  @property
  def facts(self) -> dict:
    """What the phase said of itself. Raises UserError if it is not finished."""
    if self._manifest is None:
      raise errors.data(f"{self.path} is not finished")
    return self._manifest["facts"]

  def write(self, name: str, rows) -> None:
    """Writes records as the whole of a file, or leaves what was there."""
    write_bytes(self.path / name, _lines(rows))

  def append(self, name: str, rows) -> None:
    """Adds records to a file; on the disk when this returns. A kill can leave a torn last line."""
    if not (lines := _lines(rows)):
      return
    file = self.path / name
    with report_os_errors(file):
      self.path.mkdir(parents=True, exist_ok=True)
      fresh = not file.exists()
      fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
      size = os.fstat(fd).st_size
      try:
        _write_all(fd, lines)
        os.fsync(fd)
      except OSError:
        os.ftruncate(fd, size)  # half of the lines would be the start of the next ones
        raise
      finally:
        os.close(fd)
      if fresh:
        _sync_folder(self.path)

  def rows(self, name: str, kind: type) -> list:
    """The records of a file, [] if there is none.

    A torn last line (no line end) is cut off and kept in NAME.torn. Raises UserError with
    file:line for any other broken one.
    """
    file = self.path / name
    with report_os_errors(file):
      content = file.read_bytes() if file.exists() else b""
    whole, end, torn = content.rpartition(b"\n")
    if torn:
      self._set_aside(name, len(whole + end), torn)
    lines = (whole + end).split(b"\n")[:-1]
    return [
      records.load(kind, _text(line, f"{file}:{n}"), f"{file}:{n}")
      for n, line in enumerate(lines, 1)
    ]

  def finish(self, facts: dict) -> None:
    """Writes the manifest, which makes the phase finished. Subfolders answer for themselves."""
    with report_os_errors(self.path):
      self.path.mkdir(parents=True, exist_ok=True)
      files = {
        f.name: {"bytes": f.stat().st_size, "sha256": _sha256(f)}
        for f in self.path.iterdir()
        if f.is_file() and not _is_ours_alone(f.name)
      }
    write_json(self.path / MANIFEST, {"facts": facts, "files": files})
    self.__dict__.pop("_manifest", None)

  def _check(self, *, hashes: bool) -> bool:
    if self._manifest is None:
      return False
    for name, known in self._manifest["files"].items():
      file = self.path / name
      if not file.exists():
        raise errors.data(f"{file} is missing; {self._again()}")
      if file.stat().st_size != known["bytes"]:
        raise errors.data(
          f"{file} has {file.stat().st_size} bytes, not the {known['bytes']} it was finished "
          f"with; {self._again()}"
        )
      if hashes and _sha256(file) != known["sha256"]:
        raise errors.data(f"{file} has changed since it was finished; {self._again()}")
    return True

  def _again(self) -> str:
    return f"put it back, or remove {self.path} and what was made after it, and run again"

  def _set_aside(self, name: str, whole: int, torn: bytes) -> None:
    write_bytes(self.path / f"{name}.torn", torn)
    with report_os_errors(self.path / name):
      os.truncate(self.path / name, whole)


def write_json(path, value) -> None:
  """Writes JSON, keys sorted, whole or not at all. Raises UserError on a full or forbidden disk."""
  write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def write_bytes(path, content: bytes) -> None:
  """Writes a whole file or leaves what was there; on the disk when this returns."""
  path = pathlib.Path(path)
  part = path.with_name(path.name + ".part")
  with report_os_errors(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
      _write_all(fd, content)
      os.fsync(fd)
    finally:
      os.close(fd)
    os.replace(part, path)
    _sync_folder(path.parent)


def read_json(path):
  """The value in a JSON file. Raises UserError if it cannot be read or is torn."""
  with report_os_errors(path):
    content = pathlib.Path(path).read_bytes()
  try:
    return json.loads(content)
  except ValueError as error:
    raise errors.data(
      f"{path} is torn or not JSON ({error}); put a good copy back, or give another --workdir"
    ) from None


@contextlib.contextmanager
def report_os_errors(path):
  """Turns a full disk, a missing permission and the like into a UserError that names `path`."""
  try:
    yield
  except OSError as error:
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in FULL:
      do = "nothing that was finished is lost: make room and run the same command again"
    elif error.errno in FORBIDDEN:
      do = "nothing that was finished is lost: allow writing there, or give another --workdir"
    else:
      do = "nothing that was finished is lost: run the same command again when this is mended"
    raise errors.data(f"{path}: {reason}; {do}") from error


def _lines(rows) -> bytes:
  return "".join(records.dump(row) + "\n" for row in rows).encode("ascii")


def _text(line: bytes, where: str) -> str:
  try:
    return line.decode("ascii")
  except UnicodeDecodeError:
    raise errors.data(
      f"{where}: not the plain ASCII that is written here; remove or mend this line"
    ) from None


def _write_all(fd: int, content: bytes) -> None:
  """One write; if the system takes less of it (a signal, a nearly full disk), the rest follows."""
  view = memoryview(content)
  while view:
    view = view[os.write(fd, view) :]


def _sync_folder(path) -> None:
  fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
  try:
    os.fsync(fd)
  finally:
    os.close(fd)


def _sha256(file) -> str:
  with open(file, "rb") as opened:
    return hashlib.file_digest(opened, "sha256").hexdigest()


def _is_ours_alone(name: str) -> bool:
  return name == MANIFEST or name.endswith((".part", ".torn"))
