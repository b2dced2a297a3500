"""Exports the teacher cache as JSON lines, and imports such a file.

The first line is a header with the version, the last one holds the number of rows; each line
between is one row of a table. Files are plain ASCII: other characters are escaped, lone surrogates
included.
"""

import contextlib
import json
import math
import os
import pathlib
import re
import sqlite3
from collections.abc import Iterator
from typing import IO

from distill_jax import disk, errors
from distill_jax.teacher import types
from distill_jax.teacher.store import cache, seals, tables

KIND = "teacher cache"
READABLE = (2, 3, 4, tables.VERSION)  # versions that `import_file` reads; see `_current_columns`
TABLES = ("replies", "asked", "failures", "failed_before", "sent", "pruned", "unanswered")

_ORDER = {
  "replies": "run, round, phase, key",
  "asked": "run, round, phase, key",
  "failures": "run, round, phase, key",
  "failed_before": "rowid",
  "sent": "run, round, phase",
  "pruned": "run, round, phase",
  "unanswered": "run, round, phase, id",
}
_KEY = re.compile(r"[0-9a-f]{64}")
_TYPES = {"text": str, "integer": int, "real": float}

Columns = dict[str, dict[str, type]]  # {table: {column: type}}


def export(store: cache.ReplyCache, out: IO[str]) -> int:
  """Writes all rows, from one snapshot, to an open text file. Returns the number of rows."""
  columns, count = _columns(store), 0
  out.write(_line({"distill_jax": KIND, "version": tables.VERSION}))
  with store.reading() as db:
    for table, types_ in columns.items():
      names = list(types_)
      for row in db.execute(f"select {', '.join(names)} from {table} order by {_ORDER[table]}"):
        out.write(_line({"table": table, **dict(zip(names, row, strict=True))}))
        count += 1
  out.write(_line({"rows": count}))
  return count


@contextlib.contextmanager
def new_file(path: str | pathlib.Path) -> Iterator[IO[str]]:
  """Yields a text file that appears under `path` when the context ends without an error.

  The file is written under a temporary name, fsynced and renamed. Only its owner can read it.

  Raises:
    errors.UserError: The file cannot be written.
  """
  part = _part(path)
  try:
    with open(part, "w", encoding="ascii", newline="\n", opener=disk.open_private) as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(part, path)
  except OSError as error:
    raise errors.data(
      f"{path} cannot be written ({error.strerror or error}); nothing is lost: free disk space or"
      " name another file"
    ) from None
  finally:
    if part.is_file():
      part.unlink()


def _part(path: str | pathlib.Path) -> pathlib.Path:
  """The temporary name of a file that is being written."""
  return pathlib.Path(f"{path}.part")


def import_file(store: cache.ReplyCache, path: str | pathlib.Path, run: str) -> tuple[int, int]:
  """Imports an exported file, whole or not at all. Rows that exist already stay as they are.

  Args:
    store: The cache that receives the rows.
    path: The file.
    run: New name of the runs in the file; "" keeps their names.

  Returns:
    (number of new rows, number of rows in the file).

  Raises:
    errors.UserError: The file is not an export, is damaged or incomplete, or cannot be read. The
      cache is unchanged.
  """
  columns = _columns(store)
  try:
    with disk.open_regular(path) as file, store.transaction() as db:
      new, count, ended, version = 0, 0, False, 0
      for number, line in enumerate(file, 1):
        where = f"{path}:{number}"
        row = _read_line(line, where, is_header=number == 1)
        if ended:
          raise errors.data(f"{where}: there are lines after the last one; nothing was imported")
        if number == 1:
          version = _version(row, path)
        elif set(row) == {"rows"}:
          ended = row["rows"] == count
          if not ended:
            raise errors.data(
              f"{where}: the file has {count} rows, but should have {row['rows']!r}; nothing was"
              " imported"
            )
        else:
          new += _insert(db, columns, _current_columns(row, version), where, run)
          count += 1
      if not ended:
        raise errors.data(
          f"{path} breaks off after {count} rows; nothing was imported: export it again"
        )
      return new, count
  except OSError as error:
    raise errors.data(f"{path} cannot be read ({error.strerror or error})") from None


def _columns(store: cache.ReplyCache) -> Columns:
  return {
    table: {
      row[1]: _TYPES[row[2].lower()]
      for row in store.query(f"pragma table_info({table})")
      if row[1] != seals.COLUMN
    }
    for table in TABLES
  }


def _line(fields: dict) -> str:
  return json.dumps(fields, ensure_ascii=True) + "\n"


def _read_line(line: bytes, where: str, *, is_header: bool) -> dict:
  try:
    row = json.loads(line.decode("ascii"))
  except (ValueError, RecursionError):
    row = None
  if isinstance(row, dict) and line.endswith(b"\n"):
    return row
  if is_header:
    raise _not_an_export(where.rpartition(":")[0])
  raise errors.data(f"{where}: the line is damaged; nothing was imported: repair or remove it")


def _version(header: dict, path: str | pathlib.Path) -> int:
  """The version that a header states. Raises UserError if it cannot be read."""
  if set(header) != {"distill_jax", "version"} or header["distill_jax"] != KIND:
    raise _not_an_export(path)
  if header["version"] not in READABLE:
    raise errors.data(
      f"{path} has version {header['version']!r}, but this program reads versions"
      f" {', '.join(map(str, READABLE))}; nothing was imported"
    )
  return header["version"]


def _current_columns(row: dict, version: int) -> dict:
  """The row with the current columns. Version 2 has `stage` for `phase`; 3 has no `thinking`."""
  if version < 4 and row.get("table") == "replies":
    row = {**row, "thinking": "" if "thinking" not in row else None}  # None is rejected
  if version > 2:
    return row
  current = {"stage": "phase", "phase": ""}  # "" is no column, so the row is rejected
  return {current.get(name, name): value for name, value in row.items()}


def _not_an_export(path: str | pathlib.Path) -> errors.UserError:
  return errors.data(
    f"{path} is not an exported teacher cache; make one with `python -m distill_jax teacher cache"
    " export`"
  )


def _insert(db: sqlite3.Connection, columns: Columns, row: dict, where: str, run: str) -> int:
  """Inserts a row unless it exists; returns the number of new rows.

  Raises:
    UserError: The row is invalid.
  """
  table = row.pop("table", None)
  types_ = columns.get(table) if isinstance(table, str) else None
  if types_ is None or set(row) != set(types_):
    raise errors.data(f"{where}: not a row of a teacher cache; nothing was imported")
  for name, kind in types_.items():
    if not _is_valid(name, row[name], kind):
      raise errors.data(
        f"{where}: {table}.{name} cannot be {repr(row[name])[:60]}; nothing was imported"
      )
  if table == "replies":
    _check_reply(row, where)
  if run:
    row["run"] = run
  names = ", ".join(types_)
  marks = ["cast(? as text)" if kind is str else "?" for kind in types_.values()]
  values = [_bindable(row[name]) for name in types_]
  if table == "failed_before":  # has no primary key
    same = " and ".join(f"{n} is {mark}" for n, mark in zip(types_, marks, strict=True))
    return db.execute(
      f"insert into {table}({names}) select {', '.join(marks)}"
      f" where not exists (select 1 from {table} where {same})",
      (*values, *values),
    ).rowcount
  insert = f"insert or ignore into {table}({names}) values ({', '.join(marks)})"
  return db.execute(insert, values).rowcount


def _check_reply(row: dict, where: str) -> None:
  """Raises UserError unless the reply is complete and belongs to its key."""
  problem = types.incomplete_reason(row["text"], row["finish"])
  ours = row["request"].startswith('{"client"')
  if ours and row["key"] != cache.key(row["request"], row["sample"]):
    problem = "its key is of another request"
  if problem:
    raise errors.data(f"{where}: not a complete reply: {problem}; nothing was imported")


def _is_valid(name: str, value: object, kind: type) -> bool:
  if name == "key":
    return isinstance(value, str) and _KEY.fullmatch(value) is not None
  if kind is str:
    return isinstance(value, str)
  if kind is int:
    return type(value) is int and 0 <= value < 2**63
  if isinstance(value, bool) or not isinstance(value, int | float):
    return False
  return math.isfinite(value) and value >= 0


def _bindable(value: str | float) -> bytes | float:
  return seals.encode(value) if isinstance(value, str) else value
