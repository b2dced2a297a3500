"""Which batches are under way, in the cache's own file: whoever finds them there collects them.

  batches      a row for each: its name (ours), id (the server's, once it is known), for whom, state
  batch_lines  the lines of those that are not over: which samples of which request

A batch is written down before it is sent, and its id as soon as it is known; so a process that was
killed in between knows what to look for.
"""

import contextlib
import dataclasses
import datetime
import json
import secrets
import sqlite3
import time

from distill_jax import errors
from distill_jax.teacher.store import cache

MADE, SENT = "made", "sent"  # states of a batch that is not over; others are the server's words

_TABLES = (
  """create table if not exists batches(
  name text primary key, id text, file text, server text, run text, round integer, phase text,
  samples integer, dollars real, state text, tried real, time text)""",
  """create table if not exists batch_lines(
  batch text, line text, request text, keys text, most integer,
  primary key (batch, line)) without rowid""",
)
_ROW = "name, id, file, run, round, phase, samples, dollars, tried"


@dataclasses.dataclass(frozen=True)
class BatchLine:
  """Samples of one request that are asked together; they follow each other without a gap."""

  name: str  # custom_id: the cache key of the first of them
  request: str  # canonical JSON
  keys: dict[int, str]  # {sample: cache key}
  limit: int  # completion tokens of one reply


@dataclasses.dataclass(frozen=True)
class PendingBatch:
  name: str
  id: str  # "" as long as it is not known
  file: str  # id of the uploaded file; "" likewise
  place: cache.RunPhase
  samples: int
  dollars: float  # that it may cost
  tried: float  # Unix seconds of the last attempt to create it; 0 if there was none


class BatchRegistry:
  """The batches of one server in a cache file. Raises errors.UserError if it cannot be used."""

  def __init__(self, path, server: str):
    self._path, self._server = path, server
    with self._clear():
      self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
      self._db.execute("pragma synchronous = full")
      for table in _TABLES:
        self._db.execute(table)

  def open(self) -> list[PendingBatch]:
    """The batches that are not over, of whatever run, in the order in which they were made."""
    with self._clear():
      rows = self._db.execute(
        f"select {_ROW} from batches where server = ? and state in (?, ?) order by rowid",
        (self._server, MADE, SENT),
      ).fetchall()
    return [
      PendingBatch(name, id or "", file or "", cache.RunPhase(run, round, phase), samples, dollars, tried)
      for name, id, file, run, round, phase, samples, dollars, tried in rows
    ]

  def lines(self, batch: str) -> list[BatchLine]:
    """The lines of a batch that is not over."""
    with self._clear():
      rows = self._db.execute(
        "select line, request, keys, most from batch_lines where batch = ?", (batch,)
      ).fetchall()
    return [
      BatchLine(name, request, {int(sample): key for sample, key in json.loads(keys).items()}, limit)
      for name, request, keys, limit in rows
    ]

  def claimed(self) -> dict[str, str]:
    """{cache key: batch} of everything that is under way."""
    return {key: batch.name for batch in self.open() for key in self._keys(batch.name)}

  def make(self, place: cache.RunPhase, lines: list[BatchLine], dollars: float) -> str | None:
    """The name of a new batch of these lines; None if another process has taken one of them."""
    name = f"distill-{secrets.token_hex(8)}"
    now = datetime.datetime.now(datetime.UTC).isoformat("T", "seconds")
    samples = sum(len(line.keys) for line in lines)
    with self._transaction():
      taken = self.claimed()
      if any(key in taken for line in lines for key in line.keys.values()):
        return None
      self._db.execute(
        "insert into batches values (?, null, null, ?, ?, ?, ?, ?, ?, ?, 0, ?)",
        (name, self._server, *dataclasses.astuple(place), samples, dollars, MADE, now),
      )
      self._db.executemany(
        "insert into batch_lines values (?, ?, ?, ?, ?)",
        [(name, ln.name, ln.request, json.dumps(ln.keys), ln.limit) for ln in lines],
      )
    return name

  def uploaded(self, batch: str, file: str) -> None:
    self._set(batch, file=file)

  def trying(self, batch: str) -> None:
    """Notes that the server is asked for the batch now."""
    self._set(batch, tried=time.time())

  def submitted(self, batch: str, id: str) -> None:
    self._set(batch, id=id, state=SENT)

  def close_batch(self, batch: str, state: str) -> None:
    """The batch is over: what came of it is stored elsewhere, its lines are free again."""
    with self._transaction():
      self._db.execute("update batches set state = ? where name = ?", (state, batch))
      self._db.execute("delete from batch_lines where batch = ?", (batch,))

  def close(self) -> None:
    self._db.close()

  def _keys(self, batch: str) -> list[str]:
    return [key for line in self.lines(batch) for key in line.keys.values()]

  def _set(self, batch: str, **columns) -> None:
    pairs = ", ".join(f"{column} = ?" for column in columns)
    with self._clear():
      self._db.execute(f"update batches set {pairs} where name = ?", (*columns.values(), batch))

  @contextlib.contextmanager
  def _transaction(self):
    with self._clear():
      self._db.execute("begin immediate")
      try:
        yield
      except BaseException:
        self._db.execute("rollback")
        raise
      self._db.execute("commit")

  @contextlib.contextmanager
  def _clear(self):
    """Turns what SQLite says into one line."""
    try:
      yield
    except sqlite3.Error as error:
      why = " ".join(str(error).split())
      raise errors.data(
        f"teacher cache {self._path}: its batches cannot be read or written ({why}); check the"
        " disk, its permissions and whether another run holds it"
      ) from None


def check_not_pending(path, run: str, keys: set[str]) -> None:
  """Raises errors.UserError if a run has batches under way with some of these samples: whoever asks
  in another way than they were asked would pay for the same replies again."""
  with contextlib.closing(sqlite3.connect(path, timeout=30.0)) as db:
    try:
      found = db.execute(
        "select id, keys from batches join batch_lines on batch = name"
        " where run = ? and state in (?, ?) order by batches.rowid",
        (run, MADE, SENT),
      ).fetchall()
    except sqlite3.Error:  # no batches yet; what is wrong with the file, its owner will say
      return
  taken = [id for id, line in found if not keys.isdisjoint(json.loads(line).values())]
  if taken:
    raise errors.teacher(
      f"{len(taken)} requests of this run are under way in batches"
      f" ({taken[0] or 'one without an id yet'}); collect them first, with batch=api for the"
      " teacher that they were put to"
    )
