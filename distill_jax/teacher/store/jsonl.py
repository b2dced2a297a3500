"""The cache as JSON lines, for what is to be kept, read or moved elsewhere, and back again.

The first line says what it is, each other one is a row of a table, the last one how many there
were. Text is plain ASCII: what is not is escaped, lone surrogates included.
"""

import contextlib
import json
import math
import os
import pathlib
import re

from distill_jax import errors
from distill_jax.teacher import types as asking
from distill_jax.teacher.store import cache, tables

WHAT = "teacher cache"
READABLE = (2, tables.VERSION)  # versions that `read` understands; 2 says `stage` for `phase`
TABLES = ("replies", "asked", "failures", "failed_before", "sent", "pruned")
_KEY = re.compile(r"[0-9a-f]{64}")
_TYPES = {"text": str, "integer": int, "real": float}


def export(store: cache.ReplyCache, out) -> int:
  """Writes all rows to an open text file, those of one moment; how many there were."""
  columns, count = _columns(store), 0
  out.write(_line({"distill_jax": WHAT, "version": tables.VERSION}))
  with store.reading() as db:
    for table, types in columns.items():
      names = list(types)
      for row in db.execute(f"select {', '.join(names)} from {table} order by {_ORDER[table]}"):
        out.write(_line({"table": table, **dict(zip(names, row, strict=True))}))
        count += 1
  out.write(_line({"rows": count}))
  return count


@contextlib.contextmanager
def new_file(path):
  """A text file that gets its name when it is whole, and on the disk. Raises errors.UserError."""
  part = _part(path)
  try:
    with open(part, "w", encoding="ascii", newline="\n") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(part, path)
  except OSError as error:
    raise errors.data(
      f"{path} cannot be written ({error.strerror or error}); nothing is lost, make room or name"
      " another file"
    ) from None
  finally:
    if part.is_file():
      part.unlink()


def _part(path) -> pathlib.Path:
  """What it is called until then."""
  return pathlib.Path(f"{path}.part")


def import_file(store: cache.ReplyCache, path, run: str) -> tuple[int, int]:
  """(rows that were new, rows there were) of an exported file, all of it or nothing.

  `run`: what the runs in it are called from now on; "" as they were. A row that is there stays as
  it is. Raises errors.UserError, and changes nothing, for a file that is none, damaged or not whole.
  """
  columns = _columns(store)
  try:
    with open(path, "rb") as file, store.transaction() as db:
      before, count, ended, version = db.total_changes, 0, False, 0
      for number, line in enumerate(file, 1):
        where = f"{path}:{number}"
        row = _read_line(line, where, first=number == 1)
        if ended:
          raise errors.data(f"{where}: more lines than the file should have; nothing was imported")
        if number == 1:
          version = _version(row, path)
        elif set(row) == {"rows"}:
          ended = row["rows"] == count
          if not ended:
            raise errors.data(
              f"{where}: {count} rows, but there were {row['rows']!r}; nothing was imported"
            )
        else:
          _insert(db, columns, _renamed(row, version), where, run)
          count += 1
      if not ended:
        raise errors.data(
          f"{path} breaks off after {count} rows; nothing was imported, export it again"
        )
      return db.total_changes - before, count
  except OSError as error:
    raise errors.data(f"{path} cannot be read ({error.strerror or error})") from None


_ORDER = {
  "replies": "run, round, phase, key",
  "asked": "run, round, phase, key",
  "failures": "run, round, phase, key",
  "failed_before": "rowid",
  "sent": "run, round, phase",
  "pruned": "run, round, phase",
}


def _columns(store: cache.ReplyCache) -> dict[str, dict[str, type]]:
  """{table: {column: type}}"""
  return {
    table: {row[1]: _TYPES[row[2].lower()] for row in store.rows(f"pragma table_info({table})")}
    for table in TABLES
  }


def _line(fields: dict) -> str:
  return json.dumps(fields, ensure_ascii=True) + "\n"


def _read_line(line: bytes, where: str, *, first: bool) -> dict:
  try:
    row = json.loads(line.decode("ascii"))
  except (ValueError, RecursionError):
    row = None
  if isinstance(row, dict) and line.endswith(b"\n"):
    return row
  if first:
    raise _foreign(where.rpartition(":")[0])
  raise errors.data(f"{where}: the line is damaged; nothing was imported, mend or remove it")


def _version(row: dict, path) -> int:
  """The version that a header states. Raises UserError for one that cannot be read."""
  if set(row) != {"distill_jax", "version"} or row["distill_jax"] != WHAT:
    raise _foreign(path)
  if row["version"] not in READABLE:
    raise errors.data(
      f"{path} is of version {row['version']!r}, this program reads"
      f" {' and '.join(map(str, READABLE))}; nothing was imported"
    )
  return row["version"]


def _renamed(row: dict, version: int) -> dict:
  """A row with today's column names. Version 2 has `stage` for `phase`, and no `phase`."""
  if version > 2:
    return row
  today = {"stage": "phase", "phase": ""}  # "" is no column, so the row is rejected
  return {today.get(name, name): value for name, value in row.items()}


def _foreign(path) -> errors.UserError:
  return errors.data(
    f"{path} is no exported teacher cache; write one with `python -m distill_jax teacher cache"
    " export`"
  )


def _insert(db, columns, row: dict, where: str, run: str) -> None:
  """Adds a row that is not there yet."""
  table = row.pop("table", None)
  types = columns.get(table) if isinstance(table, str) else None
  if types is None or set(row) != set(types):
    raise errors.data(f"{where}: no row of a teacher cache; nothing was imported")
  for name, kind in types.items():
    if not _sound(name, row[name], kind):
      raise errors.data(
        f"{where}: {table}.{name} cannot be {_shown(row[name])}; nothing was imported"
      )
  if table == "replies":
    _check_reply(row, where)
  if run:
    row["run"] = run
  names = ", ".join(types)
  marks = ", ".join("cast(? as text)" if kind is str else "?" for kind in types.values())
  values = [_value(row[name]) for name in types]
  if table == "failed_before":  # has no key
    same = " and ".join(f"{n} is {m}" for n, m in zip(types, marks.split(", "), strict=True))
    db.execute(
      f"insert into {table}({names}) select {marks}"
      f" where not exists (select 1 from {table} where {same})",
      (*values, *values),
    )
  else:
    db.execute(f"insert or ignore into {table}({names}) values ({marks})", values)


def _check_reply(row: dict, where: str) -> None:
  """Raises UserError for what no teacher has said, or not to the end."""
  broken = asking.incomplete_reason(row["text"], row["finish"])
  if row["request"].startswith('{"client"') and row["key"] != cache.key(
    row["request"], row["sample"]
  ):
    broken = "its key is of another request"
  if broken:
    raise errors.data(f"{where}: no whole reply: {broken}; nothing was imported")


def _sound(name: str, value, kind: type) -> bool:
  if name == "key":
    return isinstance(value, str) and _KEY.fullmatch(value) is not None
  if kind is str:
    return isinstance(value, str)
  if kind is int:
    return type(value) is int and 0 <= value < 2**63
  return type(value) in (int, float) and math.isfinite(value) and value >= 0


def _value(value):
  return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value


def _shown(value) -> str:
  return repr(value)[:60]
