"""The SQLite file of the teacher cache: opening, migration, transactions and their errors."""

import contextlib
import pathlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence

from distill_jax import disk, errors
from distill_jax.teacher.store import marker, seals, tables

LOCK_SECONDS = 120.0  # to wait for another process; a reply that cannot be stored was paid for
_OTHER_FILE = "name another file with --config.teacher.cache=FILE"


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
  """Copies a cache, also one that is in use or must not be written. Without a file, does nothing.

  Raises:
    errors.UserError: It cannot be read.
  """
  try:
    if not source.exists():
      return
    disk.check_regular(source)
  except OSError as error:
    raise errors.data(f"teacher cache {source} cannot be read ({error.strerror})") from None
  # A reader of a file that no process has open would leave an empty journal behind.
  idle = not source.with_name(f"{source.name}-wal").exists()
  address = f"{source.absolute().as_uri()}?{'immutable=1' if idle else 'mode=ro'}"
  try:
    with (
      contextlib.closing(sqlite3.connect(address, uri=True)) as old,
      contextlib.closing(sqlite3.connect(target)) as new,
    ):
      old.backup(new)
  except sqlite3.Error as error:
    raise errors.data(f"teacher cache {source} cannot be read ({error})") from None


class CacheFile:
  """An open cache file. Creates the file, or migrates an older version in place.

  Every method raises `errors.UserError` if the file cannot be read or written.

  Raises:
    errors.UserError: The file is damaged, belongs to another program, has a newer version, or is
      not writable.
  """

  def __init__(self, path: str | pathlib.Path):
    self.path = pathlib.Path(path)
    # Replies are written in a thread, over the same connection.
    self._transaction_lock = threading.RLock()
    try:
      disk.make_private_dirs(self.path.parent)
      if not self.path.exists():
        disk.create_private(self.path)  # SQLite gives its other files the same mode
      disk.check_regular(self.path)
      self._network = disk.is_network(self.path)
      self._file = disk.identity(self.path, network=self._network)
    except OSError as error:
      raise errors.data(
        f"teacher cache {self.path} cannot be created or opened ({error.strerror}); {_OTHER_FILE}"
      ) from None
    with self._sqlite_errors():
      self._db = sqlite3.connect(
        self.path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
      )
    try:
      self._prepare()
    except errors.UserError:
      self._db.close()
      raise

  def close(self) -> None:
    """Closes the file."""
    self._db.close()

  def _prepare(self) -> None:
    with self._sqlite_errors():
      self._db.text_factory = lambda raw: raw.decode("utf-8", "surrogatepass")
      disk.prepare_sqlite(self._db, self.path)
      seals.prepare(self._db)
      problem = self._db.execute("pragma integrity_check(1)").fetchone()[0]
      if problem != "ok":
        raise sqlite3.DatabaseError(problem)
      with self.reading():  # version and tables from one snapshot
        version = self._version()
      disk.select_journal(self._db, self.path)
      self._db.execute("pragma synchronous = full")
      if version:
        self._check_rows()
      if version != tables.VERSION:
        self._migrate()
      elif seals.are_missing(self._db):
        with self.transaction() as db:
          seals.add(db)
      seals.install_triggers(self._db)
      self._sealed = {table: seals.SealedTable(self._db, table) for table in seals.TABLES}

  def _check_rows(self) -> None:
    """Compares every row with its digest. Raises UserError if one is damaged."""
    if row := seals.damage(self._db):
      raise errors.data(
        f"teacher cache {self.path} is damaged: a row of {row} has changed since it was written;"
        f' restore a copy of the file, or run `sqlite3 {self.path} "delete from {row}"` and go on'
        " without this row"
      )

  def _version(self) -> int:
    """The version of the tables; 0 for an empty file. Raises UserError if the file is not ours."""
    version = self._db.execute("pragma user_version").fetchone()[0]
    existing = {
      row[0] for row in self._db.execute("select name from sqlite_master where type = 'table'")
    }
    ours = self._db.execute("pragma application_id").fetchone()[0] in (0, tables.APPLICATION)
    if version == 0:
      ours = ours and not existing
    else:
      ours = ours and {"replies", "asked", "failures"} <= existing
    if not ours:
      raise errors.data(
        f"teacher cache {self.path} is another program's SQLite file; {_OTHER_FILE}"
      )
    if version not in range(tables.VERSION + 1):
      raise errors.data(
        f"teacher cache {self.path} has version {version}, but this program reads versions up to"
        f" {tables.VERSION}; {_OTHER_FILE}"
      )
    return version

  def _migrate(self) -> None:
    """Creates the tables, or migrates an older version, in one transaction."""
    with self.transaction() as db:
      version = self._version()
      if version != tables.VERSION:  # else another process was first
        tables.migrate(db, version)
        seals.add(db, refresh=True)

  @contextlib.contextmanager
  def transaction(self) -> Iterator[sqlite3.Connection]:
    """Yields the connection; what is written in this context is committed whole or not at all."""
    with self._transaction_lock, self._sqlite_errors():
      self._db.execute("begin immediate")
      try:
        yield self._db
        self._db.execute("commit")
      finally:
        self._roll_back()
    self._check_present()

  def _check_present(self) -> None:
    """Checks that the open file still has its name: otherwise it is lost when it is closed."""
    try:
      present = disk.identity(self.path, network=self._network) == self._file
    except OSError:
      present = False
    if not present:
      raise marker.rescue(self._db, self.path)

  @contextlib.contextmanager
  def reading(self) -> Iterator[sqlite3.Connection]:
    """Yields the connection; everything read in this context is from one snapshot."""
    with self._transaction_lock, self._sqlite_errors():
      self._db.execute("begin")
      try:
        yield self._db
      finally:
        self._roll_back()

  def _roll_back(self) -> None:
    """Ends a transaction. SQLite has ended it by itself after some errors, as of a full disk."""
    if self._db.in_transaction:
      self._db.execute("rollback")

  @contextlib.contextmanager
  def _sqlite_errors(self) -> Iterator[None]:
    """Turns SQLite's errors into one-line user errors."""
    try:
      yield
    except sqlite3.OperationalError as error:
      raise errors.data(
        f"teacher cache {self.path} cannot be used ({error}); check the disk, its permissions and"
        f" whether another run holds it, or {_OTHER_FILE}"
      ) from None
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
      why = " ".join(str(error).split())
      raise errors.data(
        f"teacher cache {self.path} is damaged or not an SQLite file ({why}); save what you can"
        f" with `sqlite3 {self.path} .recover`, move it away and run again"
      ) from None

  def _one(self, sql: str, values: Sequence):
    with self._transaction_lock, self._sqlite_errors():
      return self._db.execute(sql, values).fetchone()

  def query(self, sql: str, values: Sequence = ()) -> list:
    """The rows that a query selects. Waits for a transaction of another thread to end."""
    with self._transaction_lock, self._sqlite_errors():
      return self._db.execute(sql, values).fetchall()

  @contextlib.contextmanager
  def unsynced(self) -> Iterator[sqlite3.Connection]:
    """A `transaction` that is safe from a kill of the process, but not from a power failure."""
    with self._transaction_lock:
      try:
        with self._sqlite_errors():
          self._db.execute("pragma synchronous = normal")
        with self.transaction() as db:
          yield db
      finally:
        with self._sqlite_errors():
          self._db.execute("pragma synchronous = full")
