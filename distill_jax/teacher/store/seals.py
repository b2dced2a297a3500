"""A digest in each row of the teacher cache, so that a damaged row is noticed instead of used.

The digest covers all other columns. Temporary triggers write it: they exist in this program's
connections only, so the file has plain tables that any SQLite tool can read. A row without a digest
was written by an older version, and gets one when the file is opened.
"""

import hashlib
import sqlite3

TABLES = ("replies", "asked", "failures", "failed_before", "sent", "pruned", "unanswered")
COLUMN = "digest"
_WITHOUT_ROWID = ("asked",)


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
    differs = f"{COLUMN} is not null and {COLUMN} is not {_expression(db, table)}"
    if row := db.execute(f"select {place} from {table} where {differs} limit 1").fetchone():
      return f"{table} where {place} = {row[0]!r}"
  return ""


def install_triggers(db: sqlite3.Connection) -> None:
  """Makes every later insert and update through this connection write the digest of its row."""
  for table in TABLES:
    names = _columns(db, table)
    keys = names if table in _WITHOUT_ROWID else ["rowid"]
    row = " and ".join(f"{name} is new.{name}" for name in keys)
    body = f"begin update {table} set {COLUMN} = {_expression(db, table)} where {row}; end"
    for event in ("insert", f"update of {', '.join(names)}"):
      name = f"seal_{table}_{event[:6]}"
      db.execute(f"create temp trigger {name} after {event} on main.{table} {body}")


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
  """The columns that a digest covers."""
  return [row[1] for row in db.execute(f"pragma table_info({table})") if row[1] != COLUMN]


def _is_sealed(db: sqlite3.Connection, table: str) -> bool:
  return any(row[1] == COLUMN for row in db.execute(f"pragma table_info({table})"))


def _expression(db: sqlite3.Connection, table: str) -> str:
  """SQL for the digest of a row. Text is passed as bytes: it may have lone surrogates."""
  kinds = {row[1]: row[2].lower() for row in db.execute(f"pragma table_info({table})")}
  values = [
    f"cast({name} as blob)" if kinds[name] == "text" else name for name in _columns(db, table)
  ]
  return f"row_digest({', '.join(values)})"


def _digest(*values: bytes | float | str | None) -> str:
  """Half of the SHA-256 of some values, in order, as 32 hex digits."""
  total = hashlib.sha256()
  for value in values:
    content = value if isinstance(value, bytes) else repr(value).encode()
    total.update(b"%d " % len(content))
    total.update(content)
  return total.hexdigest()[:32]
