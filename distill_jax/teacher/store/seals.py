"""A digest in each row of the teacher cache, so that a damaged row is noticed instead of used.

The digest covers all other columns. `SealedTable` inserts it with the row; for all other statements
temporary triggers write it. These exist in this program's connections only, so the file has plain
tables that any SQLite tool can read. A row without a digest was written by an older version, and
gets one when the file is opened.
"""

import hashlib
import itertools
import sqlite3
from collections.abc import Iterable, Mapping

TABLES = ("replies", "asked", "failures", "failed_before", "sent", "pruned", "unanswered")
COLUMN = "digest"
_WITHOUT_ROWID = ("asked",)
_MAX_VALUES = 999  # in one statement: the limit of SQLite before version 3.32

Value = str | float | None


class SealedTable:
  """A table of one connection. Inserts many rows, with their digests, in one statement.

  One statement matters in a thread: Python's global lock is given up for each, and a busy event
  loop takes milliseconds to give it back.

  Args:
    db: The connection.
    table: Name of the table.
  """

  def __init__(self, db: sqlite3.Connection, table: str):
    self._db = db
    self._kinds = _kinds(db, table)
    names = ", ".join([*self._kinds, COLUMN])
    marks = ["cast(? as text)" if kind == "text" else "?" for kind in self._kinds.values()]
    self._row = f"({', '.join([*marks, '?'])})"
    self._insert = f"insert into {table}({names}) values "

  def insert(self, rows: Iterable[Mapping[str, Value]]) -> None:
    """Inserts rows, given as {column: value} with all columns, within a transaction."""
    sealed = [self._values(row) for row in rows]
    size = _MAX_VALUES // (len(self._kinds) + 1)
    for start in range(0, len(sealed), size):
      part = sealed[start : start + size]
      statement = self._insert + ", ".join([self._row] * len(part))
      self._db.execute(statement, list(itertools.chain.from_iterable(part)))

  def _values(self, row: Mapping[str, Value]) -> list[bytes | Value]:
    """The values of a row as SQLite stores them, text as bytes, and its digest."""
    values = [_stored(row[name], kind) for name, kind in self._kinds.items()]
    return [*values, _digest(*values)]


def encode(text: str) -> bytes:
  """UTF-8, with lone surrogates let through."""
  return text.encode("utf-8", "surrogatepass")


def _stored(value: Value, kind: str) -> bytes | Value:
  """A value as SQLite stores it in a column, which is what a digest covers; text as bytes."""
  if value is None:
    return None
  if isinstance(value, str):
    return encode(value)
  return float(value) if kind == "real" else int(value)


def prepare(db: sqlite3.Connection) -> None:
  """Makes a new connection able to compute digests; call it before anything else here."""
  db.create_function("row_digest", -1, _digest, deterministic=True)


def add(db: sqlite3.Connection, *, refresh: bool = False) -> None:
  """Adds the missing digests, within a transaction; with `refresh`, computes all of them anew.

  A migration that changes columns needs `refresh`.
  """
  for table in TABLES:
    if not _is_sealed(db, table):
      db.execute(f"alter table {table} add column {COLUMN} text")
    where = "" if refresh else f" where {COLUMN} is null"
    db.execute(f"update {table} set {COLUMN} = {_expression(db, table)}{where}")


def are_missing(db: sqlite3.Connection) -> bool:
  """Returns whether a table or a row has no digest."""
  return any(
    not _is_sealed(db, table)
    or db.execute(f"select 1 from {table} where {COLUMN} is null limit 1").fetchone()
    for table in TABLES
  )


def damage(db: sqlite3.Connection) -> str:
  """Returns an SQL condition that selects the first damaged row, as "TABLE where ..."; or ""."""
  for table in TABLES:
    if not _is_sealed(db, table):
      continue
    place = "hex(key)" if table in _WITHOUT_ROWID else "rowid"
    kinds = _kinds(db, table)
    # The digest covers the bytes of a text, so it is right if a changed byte makes them a blob.
    changed = [f"typeof({name}) = 'blob'" for name, kind in kinds.items() if kind == "text"]
    changed.append(f"{COLUMN} is not {_expression(db, table)}")
    differs = f"{COLUMN} is not null and ({' or '.join(changed)})"
    if row := db.execute(f"select {place} from {table} where {differs} limit 1").fetchone():
      return f"{table} where {place} = {row[0]!r}"
  return ""


def install_triggers(db: sqlite3.Connection) -> None:
  """Makes every later insert and update through this connection write the digest of its row."""
  for table in TABLES:
    names = list(_kinds(db, table))
    keys = names if table in _WITHOUT_ROWID else ["rowid"]
    row = " and ".join(f"{name} is new.{name}" for name in keys)
    body = f"begin update {table} set {COLUMN} = {_expression(db, table)} where {row}; end"
    for event in ("insert", f"update of {', '.join(names)}"):
      name = f"seal_{table}_{event[:6]}"
      when = f"when new.{COLUMN} is null " if event == "insert" else ""
      db.execute(f"create temp trigger {name} after {event} on main.{table} {when}{body}")


def _kinds(db: sqlite3.Connection, table: str) -> dict[str, str]:
  """{column: its type} of those that a digest covers, in the order in which it does."""
  info = db.execute(f"pragma table_info({table})")
  return {name: kind.lower() for _, name, kind, *_ in info if name != COLUMN}


def _is_sealed(db: sqlite3.Connection, table: str) -> bool:
  return any(row[1] == COLUMN for row in db.execute(f"pragma table_info({table})"))


def _expression(db: sqlite3.Connection, table: str) -> str:
  """SQL for the digest of a row. Text is passed as bytes: it may have lone surrogates."""
  values = [
    f"cast({name} as blob)" if kind == "text" else name for name, kind in _kinds(db, table).items()
  ]
  return f"row_digest({', '.join(values)})"


def _digest(*values: bytes | float | str | None) -> str:
  """Half of the SHA-256 of some values, in order, as 32 hex digits."""
  contents = [value if isinstance(value, bytes) else repr(value).encode() for value in values]
  sealed = b"".join(b"%d %b" % (len(content), content) for content in contents)
  return hashlib.sha256(sealed).hexdigest()[:32]
