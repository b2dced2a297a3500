"""Files and directories: regular files, private ones, and the disks they are on.

Every function raises OSError with a message that fits in one line.
"""

import contextlib
import errno
import io
import os
import pathlib
import re
import sqlite3
import stat

PRIVATE_FILE, PRIVATE_DIR = 0o600, 0o700
# File systems that several machines can mount. SQLite's WAL needs memory shared by all users of a
# file, so they must be on one machine: https://sqlite.org/wal.html#overview, disadvantage 2.
NETWORK = re.compile(
  r"nfs\d*|cifs|smb\d*|smbfs|ncpfs|afs|coda|9p|virtiofs|vboxsf|vmhgfs|prl_fs|davfs|lustre|gpfs|"
  r"beegfs|ceph|glusterfs|ocfs2|gfs2|orangefs|pvfs2|panfs|wekafs|fuse|fuse\..*"
)
LFS = b"version https://git-lfs"  # begins a pointer to a large file
MOUNTS = "/proc/self/mountinfo"

_KINDS = (
  (stat.S_ISDIR, "a directory"),
  (stat.S_ISFIFO, "a FIFO"),
  (stat.S_ISSOCK, "a socket"),
  (stat.S_ISCHR, "a device"),
  (stat.S_ISBLK, "a device"),
)

Path = str | os.PathLike[str]


def check_regular(path: Path) -> None:
  """Checks that a path is a regular file, or a link to one.

  Reading anything else may never end: a FIFO waits for a writer, a device may have no end.

  Raises:
    OSError: There is no such file, it is a link to one that is missing, or it is something else.
  """
  try:
    mode = os.stat(path).st_mode
  except FileNotFoundError as error:
    if not os.path.islink(path):
      raise
    reason = f"is a link to {os.readlink(path)!r}, which is missing"
    raise FileNotFoundError(error.errno, reason, os.fspath(path)) from None
  if not stat.S_ISREG(mode):
    kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "a special file")
    code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
    raise OSError(code, f"is {kind}, not a regular file", os.fspath(path))


def open_regular(path: Path) -> io.BufferedReader:
  """Opens a regular file to read bytes. Raises OSError for anything else."""
  check_regular(path)
  return open(path, "rb")


def read_bytes(path: Path) -> bytes:
  """Returns the content of a regular file. Raises OSError for anything else."""
  with open_regular(path) as file:
    return file.read()


def read_text(path: Path, encoding: str = "utf-8") -> str:
  """Returns the text of a regular file, with line ends as `open` translates them.

  Raises:
    OSError: It cannot be read or is not a regular file.
    UnicodeDecodeError: It is not text in this encoding.
  """
  check_regular(path)
  return pathlib.Path(path).read_text(encoding=encoding)


def is_lfs_pointer(path: Path) -> bool:
  """Whether a regular file is what Git leaves in the place of a large file that is not fetched."""
  with open_regular(path) as file:
    return file.read(len(LFS)) == LFS


def unfinished(target: pathlib.Path) -> pathlib.Path:
  """Returns the directory in which `target` is written before it is renamed.

  A killed process may leave it behind; the next one removes it. Its name is one that nobody uses.
  """
  return target.with_name(f".{target.name}.distill_jax")


def make_private_dirs(path: Path) -> None:
  """Creates a directory and its parents, for their owner only; existing ones stay as they are.

  Raises:
    OSError: It cannot be created, or is not a directory.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    return
  if path.parent != path:
    make_private_dirs(path.parent)
  try:
    os.mkdir(path, PRIVATE_DIR)
  except FileExistsError:
    if not path.is_dir():  # another process may have been first
      raise NotADirectoryError(
        errno.ENOTDIR, "is a file, not a directory", os.fspath(path)
      ) from None


def check_can_be_dir(path: Path) -> None:
  """Checks that a directory exists, or could be created, without creating it.

  Raises:
    OSError: A part of the path is a file, too long, or in a directory that cannot be written.
  """
  path = pathlib.Path(path).absolute()
  for existing in (path, *path.parents):
    try:
      mode = os.stat(existing).st_mode
    except FileNotFoundError:
      if len(os.fsencode(existing.name)) > _name_limit(existing.parent):
        raise OSError(
          errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), os.fspath(existing)
        ) from None
      continue
    if not stat.S_ISDIR(mode):
      raise NotADirectoryError(errno.ENOTDIR, "is a file, not a directory", os.fspath(existing))
    if not os.access(existing, os.W_OK | os.X_OK):
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(existing))
    return


def _name_limit(path: pathlib.Path) -> int:
  """The longest name in a directory, in bytes; that of common file systems if it is unknown."""
  try:
    return os.pathconf(path, "PC_NAME_MAX")
  except (OSError, ValueError):
    return 255


def open_private(path: Path, flags: int) -> int:
  """Opens a file descriptor; a new file can be read by its owner only. An `opener` for `open`."""
  return os.open(path, flags | os.O_CLOEXEC, PRIVATE_FILE)


def create_private(path: Path) -> None:
  """Creates an empty file that only its owner can read; an existing one stays as it is."""
  os.close(open_private(path, os.O_WRONLY | os.O_CREAT))


def fsync(path: Path) -> None:
  """Flushes a file, or the entries of a directory, to the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def is_network(path: Path) -> bool:
  """Returns whether a path is on a file system that several machines can share.

  An unknown file system counts as local, and so does a system that does not list its mounts.
  """
  return bool(NETWORK.fullmatch(file_system(path)))


def identity(path: Path, *, network: bool) -> tuple[int, ...]:
  """Returns what tells a file from another one of the same name.

  Inode numbers of network file systems need not last: () for every file there.

  Raises:
    OSError: There is no such file.
  """
  status = os.stat(path)
  return () if network else (status.st_dev, status.st_ino)


def prepare_sqlite(db: sqlite3.Connection, path: Path) -> None:
  """Makes a new connection safe to use on the file system of its file; call it before any read.

  A file in WAL mode needs shared memory unless it is locked exclusively.
  """
  if is_network(path):
    db.execute("pragma locking_mode = exclusive")


def select_journal(db: sqlite3.Connection, path: Path) -> None:
  """Selects WAL where every user of the file is on this machine, else a rollback journal.

  What an earlier process left in the WAL moves to the file first: a full disk may have kept that
  process from it, and a WAL that only grows keeps the disk full.

  Raises:
    sqlite3.Error: Another process uses the file in another mode, or it cannot be written.
  """
  if not is_network(path):
    try:
      db.execute("pragma journal_mode = wal")
    except sqlite3.OperationalError:  # file systems without shared memory
      pass
    else:
      with contextlib.suppress(sqlite3.OperationalError):  # full: the next process goes on
        db.execute("pragma wal_checkpoint(passive)")
      return
  db.execute("pragma journal_mode = truncate")
  db.execute("pragma locking_mode = normal")
  db.execute("select count(*) from sqlite_master").fetchone()  # releases the exclusive lock


def file_system(path: Path) -> str:
  """Returns the type of the file system of a path, which need not exist; "" if it is unknown."""
  try:
    mounts = pathlib.Path(MOUNTS).read_text(encoding="utf-8", errors="surrogateescape")
  except OSError:
    return ""
  real, found, kind = os.path.realpath(path), "", ""
  for line in mounts.splitlines():
    before, _, after = line.partition(" - ")
    fields, types = before.split(" "), after.split(" ")
    if len(fields) < 5:
      continue
    mount = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
    # The longest mount point is the closest; of equal ones, the last hides the others.
    if os.path.commonpath([real, mount]) == mount and len(mount) >= len(found):
      found, kind = mount, types[0]
  return kind
