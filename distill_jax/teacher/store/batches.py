"""Batches under way, recorded in the teacher cache: any process that opens it can collect them.

batches      one row per batch: name (ours), id (the server's, once known), phase, state
batch_lines  the lines of the batches under way: which samples of which request

A batch is recorded before it is sent, and its id as soon as it is known, so after a kill the next
process knows what to look for.
"""

import contextlib
import dataclasses
import datetime
import json
import math
import pathlib
import secrets
import sqlite3
import time
from collections.abc import Iterator

from distill_jax import errors
from distill_jax.teacher.store import cache

MADE, SENT = "made", "sent"  # states of batches under way; others are the server's statuses

_TABLES = (
  """create table if not exists batches(
  name text primary key, id text, file text, server text, run text, round integer, phase text,
  samples integer, dollars real, state text, tried real, time text)""",
  """create table if not exists batch_lines(
  batch text, line text, request text, keys text, most integer,
  primary key (batch, line)) without rowid""",
)
_sending: set[str] = set()  # names of the batches that threads of this process are creating
_COLUMNS = "name, id, file, run, round, phase, samples, dollars, tried"


@dataclasses.dataclass(frozen=True)
class BatchLine:
  """Consecutive samples of one request that are asked for together."""

  name: str  # custom_id: the cache key of the first sample
  request: str  # canonical JSON
  keys: dict[int, str]  # {sample: cache key}
  limit: int  # completion tokens of one reply


@dataclasses.dataclass(frozen=True)
class PendingBatch:
  """A batch under way."""

  name: str
  id: str  # "" until it is known
  file: str  # id of the uploaded file; "" until it is known
  run_phase: cache.RunPhase
  samples: int
  dollars: float  # highest possible cost
  tried: float  # Unix seconds of the last attempt to create it; 0 if there was none


class BatchRegistry:
  """The batches of one server in a teacher cache.

  Every method raises `errors.UserError` if the file cannot be read or written.
  """

  def __init__(self, path: str | pathlib.Path, server: str):
    self._path, self._server = path, server
    with self._sqlite_errors():
      self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
      self._db.execute("pragma synchronous = full")
      for table in _TABLES:
        self._db.execute(table)

  def pending(self) -> list[PendingBatch]:
    """The batches under way, of all runs, in the order in which they were made."""
    with self._sqlite_errors():
      found = self._db.execute(
        f"select {_COLUMNS} from batches where server = ? and state in (?, ?) order by rowid",
        (self._server, MADE, SENT),
      ).fetchall()
    return [
      PendingBatch(
        name, id or "", file or "", cache.RunPhase(run, round, phase), samples, dollars, tried
      )
      for name, id, file, run, round, phase, samples, dollars, tried in found
    ]

  def lines(self, batch: str) -> list[BatchLine]:
    """The lines of a batch under way."""
    with self._sqlite_errors():
      found = self._db.execute(
        "select line, request, keys, most from batch_lines where batch = ?", (batch,)
      ).fetchall()
    return [
      BatchLine(name, request, {int(n): key for n, key in json.loads(keys).items()}, limit)
      for name, request, keys, limit in found
    ]

  def claimed(self) -> dict[str, str]:
    """{cache key: name of the batch} of every sample under way."""
    return {key: batch.name for batch in self.pending() for key in self._keys(batch.name)}

  def make(self, run_phase: cache.RunPhase, lines: list[BatchLine], dollars: float) -> str | None:
    """Records a new batch. Call `sent` once the server has it, or not.

    Args:
      run_phase: The phase it is for.
      lines: Its lines.
      dollars: Its highest possible cost.

    Returns:
      The name of the batch; None if another process has claimed one of the samples.
    """
    name = f"distill-{secrets.token_hex(8)}"
    now = datetime.datetime.now(datetime.UTC).isoformat("T", "seconds")
    samples = sum(len(line.keys) for line in lines)
    _sending.add(name)  # before another thread can see it
    with self._transaction():
      claimed = self.claimed()
      if any(key in claimed for line in lines for key in line.keys.values()):
        return None
      self._db.execute(
        "insert into batches values (?, null, null, ?, ?, ?, ?, ?, ?, ?, 0, ?)",
        (name, self._server, *run_phase.columns(), samples, dollars, MADE, now),
      )
      self._db.executemany(
        "insert into batch_lines values (?, ?, ?, ?, ?)",
        [(name, line.name, line.request, json.dumps(line.keys), line.limit) for line in lines],
      )
    return name

  def sent(self, batch: str) -> None:
    """This process no longer tries to create a batch."""
    _sending.discard(batch)

  def orphans(self, run: str) -> list[PendingBatch]:
    """The batches of a run that have no id, and that no thread of this process is creating."""
    orphaned = [batch for batch in self.pending() if batch.run_phase.run == run and not batch.id]
    return [batch for batch in orphaned if batch.name not in _sending]

  def record_upload(self, batch: str, file: str) -> None:
    """Records the id of the uploaded file."""
    self._update(batch, file=file)

  def record_attempt(self, batch: str) -> None:
    """Records that the server is being asked to create the batch now."""
    self._update(batch, tried=time.time())

  def record_submission(self, batch: str, id: str) -> None:
    """Records the server's id of the batch."""
    self._update(batch, id=id, state=SENT)

  def close_batch(self, batch: str, state: str) -> None:
    """Ends a batch whose results are stored. Samples without an outcome can be asked for again."""
    with self._transaction():
      self._db.execute("update batches set state = ? where name = ?", (state, batch))
      self._db.execute("delete from batch_lines where batch = ?", (batch,))

  def close(self) -> None:
    """Closes the file."""
    self._db.close()

  def _keys(self, batch: str) -> list[str]:
    return [key for line in self.lines(batch) for key in line.keys.values()]

  def _update(self, batch: str, **columns: object) -> None:
    assignments = ", ".join(f"{column} = ?" for column in columns)
    with self._sqlite_errors():
      self._db.execute(
        f"update batches set {assignments} where name = ?", (*columns.values(), batch)
      )

  @contextlib.contextmanager
  def _transaction(self) -> Iterator[None]:
    with self._sqlite_errors():
      self._db.execute("begin immediate")
      try:
        yield
        self._db.execute("commit")
      finally:
        if self._db.in_transaction:  # SQLite has ended it by itself after some errors
          self._db.execute("rollback")

  @contextlib.contextmanager
  def _sqlite_errors(self) -> Iterator[None]:
    """Turns SQLite's errors into one-line user errors."""
    try:
      yield
    except sqlite3.Error as error:
      why = " ".join(str(error).split())
      raise errors.data(
        f"teacher cache {self._path}: its batches cannot be read or written ({why}); check the"
        " disk, its permissions and whether another run holds it"
      ) from None


def check_not_pending(path: str | pathlib.Path, run: str, keys: set[str]) -> None:
  """Checks that no batch of a run is under way with any of these samples.

  Asking for them one by one would pay for the same replies twice.

  Args:
    path: The teacher cache.
    run: The run.
    keys: Cache keys of the samples.

  Raises:
    errors.UserError: Such a batch is under way.
  """
  found = _of_run(
    path,
    "select id, keys from batches join batch_lines on batch = name"
    " where run = ? and state in (?, ?) order by batches.rowid",
    run,
  )
  pending = [id for id, line in found if not keys.isdisjoint(json.loads(line).values())]
  if pending:
    raise errors.teacher(
      f"{len(pending)} requests of this run are under way in batches"
      f" ({pending[0] or 'one without an id yet'}); collect them first: run with batch=api for the"
      " teacher that they were sent to"
    )


def pending_dollars(path: str | pathlib.Path, run: str) -> float:
  """The highest possible cost of a run's batches under way, at all servers."""
  found = _of_run(path, "select dollars from batches where run = ? and state in (?, ?)", run)
  return math.fsum(dollars for (dollars,) in found)


def _of_run(path: str | pathlib.Path, query: str, run: str) -> list[tuple]:
  """The rows that a query finds for a run and the states of batches under way."""
  with contextlib.closing(sqlite3.connect(path, timeout=30.0)) as db:
    try:
      return db.execute(query, (run, MADE, SENT)).fetchall()
    except sqlite3.Error:  # there are no batches; ReplyCache reports other errors of the file
      return []
