"""Every reply ever paid for, in one SQLite file that any SQLite tool can read: see cache_tables.

A row is on the disk before its reply is handed on. Text is UTF-8, with lone surrogates let through.
"""

import collections
import contextlib
import dataclasses
import datetime
import hashlib
import json
import math
import pathlib
import sqlite3

from distill_jax import errors
from distill_jax.teacher import types
from distill_jax.teacher.store import tables

KEY_VERSION = 1  # what is in a key, and so which replies are found again
LOOKED_UP = 500  # keys in one query


@dataclasses.dataclass(frozen=True)
class RunPhase:
  """Where in which run something is asked."""

  run: str
  round: int
  phase: str


def request_text(identity: str, model: str, messages, sampling: dict) -> str:
  """The canonical JSON of a request; what is not in it cannot change a cached reply."""
  fields = {
    "endpoint": "chat.completions",
    "identity": identity,
    "model": model,
    "messages": [list(message) for message in messages],
    "sampling": sampling,
    "client": KEY_VERSION,
  }
  return json.dumps(fields, sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def key(request: str, sample: int) -> str:
  """The cache key of one sample of a request (its canonical JSON): 64 hex digits."""
  return hashlib.sha256(f"{request}#{sample}".encode()).hexdigest()


class ReplyCache:
  """Opens or makes the file. Raises errors.UserError if it is damaged, foreign or not writable."""

  def __init__(self, path):
    self.path = pathlib.Path(path)
    try:
      self.path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise errors.data(f"teacher cache {self.path}: {error.strerror}; choose another") from None
    with self._clear():
      self._db = sqlite3.connect(
        self.path, timeout=30.0, isolation_level=None, check_same_thread=False
      )
    try:
      self._prepare()
    except errors.UserError:
      self._db.close()
      raise

  def get(self, key: str, place: RunPhase) -> types.Reply | None:
    """The stored reply, told from the point of view of `place`."""
    row = self._one(f"select {tables.REPLY}, run, round, phase from replies where key = ?", (key,))
    return row and _reply(row, place)

  def failure(self, key: str, place: RunPhase) -> types.Failure | None:
    """The failure that was recorded for this sample at this place."""
    row = self._one(
      f"select {tables.FAILURE} from failures"
      " where run = ? and round = ? and phase = ? and key = ?",
      (*dataclasses.astuple(place), key),
    )
    return types.Failure(*row) if row else None

  def lookup(self, keys, place: RunPhase) -> dict[str, types.Reply | types.Failure]:
    """{key: what get, or else failure, would say} of the keys that either knows."""
    keys, where, found = list(dict.fromkeys(keys)), dataclasses.astuple(place), {}
    for start in range(0, len(keys), LOOKED_UP):
      part = keys[start : start + LOOKED_UP]
      marks = ", ".join("?" * len(part))
      failed = self.rows(
        f"select {tables.FAILURE}, key from failures where run = ? and round = ? and phase = ?"
        f" and key in ({marks})",
        (*where, *part),
      )
      found |= {row[-1]: types.Failure(*row[:-1]) for row in failed}
      replied = self.rows(
        f"select {tables.REPLY}, run, round, phase, key from replies where key in ({marks})", part
      )
      found |= {row[-1]: _reply(row[:-1], place) for row in replied}
    return found

  def failure_counts(self, place: RunPhase) -> collections.Counter:
    """How often each sample was answered with what is no reply, so that asking for it at `place` is
    asking anew, by key. (One that was cut there is asked for with more room instead.)"""
    rows = self.rows(
      "select key from failed_before union all select key from failures where kind in"
      " ('refusal', 'filtered', 'empty') or (kind = 'length' and (run, round, phase) is not"
      " (?, ?, ?))",
      dataclasses.astuple(place),
    )
    return collections.Counter(key for (key,) in rows)

  def salt(self) -> str:
    """What tells this file's requests from those of other files."""
    with self.transaction() as db:
      db.execute("create table if not exists salt(text text)")
      db.execute(
        "insert into salt select hex(randomblob(16)) where not exists (select * from salt)"
      )
      return db.execute("select text from salt").fetchone()[0]

  def record_asked(self, keys, place: RunPhase) -> None:
    """Notes that `place` wants these replies."""
    where = dataclasses.astuple(place)
    with self.transaction() as db:
      db.executemany("insert or ignore into asked values (?, ?, ?, ?)", [(*where, k) for k in keys])

  def store(self, request: str, outcomes: dict, place: RunPhase) -> None:
    """Keeps what one call brought: see store_many."""
    self.store_many([(request, outcomes, place)])

  def store_many(self, calls) -> None:
    """Keeps what calls brought, [(request, {(sample, key): Reply | Failure}, place), ...], all of
    it or nothing.

    A reply that another process stored meanwhile is left as it is, and what this one cost is kept.
    A failure that was there before is kept as well.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat("T", "seconds")
    with self.transaction() as db:
      for request, outcomes, place in calls:
        where = dataclasses.astuple(place)
        for (sample, name), outcome in outcomes.items():
          _set_failure_aside(db, (*where, name))
          if isinstance(outcome, types.Failure):
            _insert_failure(db, outcome, (*where, name), now)
          else:
            _insert_reply(db, outcome, (name, request, sample), where, now)

  def record_sent(self, place: RunPhase, requests: int = 1, retries: int = 0) -> None:
    """Counts HTTP requests that are about to be sent; `retries` of them were sent before."""
    with self.transaction() as db:
      db.execute(
        "insert into sent values (?, ?, ?, ?, ?) on conflict do update set"
        " requests = requests + excluded.requests, retries = retries + excluded.retries",
        (*dataclasses.astuple(place), requests, retries),
      )

  def requests_sent(self, run: str) -> int:
    """HTTP requests this run has sent."""
    return self._one("select coalesce(sum(requests), 0) from sent where run = ?", (run,))[0]

  def totals(self, run: str, round: int | None = None, phase: str | None = None) -> types.Totals:
    """Sums over the stored facts; independent of the order in which they were stored."""
    pinned = [
      (n, v) for n, v in (("run", run), ("round", round), ("phase", phase)) if v is not None
    ]
    where, values = " and ".join(f"t.{n} = ?" for n, _ in pinned), [v for _, v in pinned]
    rows = lambda columns, table: self.rows(
      f"select {columns} from {table} t where {where}", values
    )
    paid, failed = rows(tables.SPENT, "replies"), rows(tables.SPENT, "failures")
    gone = rows(f"replies, {tables.SPENT}", "pruned")
    charged = [*paid, *failed, *rows(tables.SPENT, "failed_before"), *(row[1:] for row in gone)]
    tokens_in, cached, reasoning, out, dollars = zip(*charged, (0, 0, 0, 0, 0.0), strict=True)
    hits = self._one(
      "select count(*) from asked t join replies r on r.key = t.key"
      f" where {where} and (r.run, r.round, r.phase) is not (t.run, t.round, t.phase)",
      values,
    )
    return types.Totals(
      calls=len(paid) + sum(row[0] for row in gone),
      cache_hits=hits[0],
      retries=sum(row[0] for row in rows("retries", "sent")),
      failures=len(failed),
      tokens_in=sum(tokens_in),
      tokens_out=sum(out),
      dollars=math.fsum(dollars),
      tokens_cached=sum(cached),
      tokens_reasoning=sum(reasoning),
    )

  def failed_before(self, place: RunPhase) -> dict[str, list[types.Failure]]:
    """The failures of a place that were asked again since, by key."""
    found = collections.defaultdict(list)
    for *row, key in self.rows(
      f"select {tables.FAILURE}, key from failed_before where (run, round, phase) is (?, ?, ?)",
      dataclasses.astuple(place),
    ):
      found[key].append(types.Failure(*row))
    return found

  def reset_failures(self, run: str, finished) -> int:
    """Takes the failures of a run for not settled, but for those of finished (round, phase) pairs;
    how many there were. They stay in the file and in the ledger."""
    count, finished = 0, set(finished)
    with self.transaction() as db:
      for round, phase, key in db.execute(
        "select round, phase, key from failures where run = ?", (run,)
      ).fetchall():
        if (round, phase) not in finished:
          _set_failure_aside(db, (run, round, phase, key))
          count += 1
    return count

  def prune(self, where: str, values) -> int:
    """Throws away the replies of which an SQL condition holds; how many. What they cost stays in
    the ledger."""
    sums = ", ".join(f"sum({name})" for name in tables.SPENT.split(", "))
    with self.transaction() as db:
      db.execute(
        f"insert into pruned(run, round, phase, replies, {tables.SPENT})"
        f" select run, round, phase, count(*), {sums} from replies where {where} group by 1, 2, 3"
        f" {tables.ADD_PRUNED}",
        values,
      )
      gone = db.execute(f"delete from replies where {where}", values).rowcount
    with contextlib.suppress(sqlite3.OperationalError):  # the file gets smaller, if there is room
      self._db.execute("vacuum")
    return gone

  def close(self) -> None:
    self._db.close()

  def _prepare(self) -> None:
    with self._clear():
      self._db.text_factory = lambda raw: raw.decode("utf-8", "surrogatepass")
      problem = self._db.execute("pragma quick_check(1)").fetchone()[0]
      if problem != "ok":
        raise sqlite3.DatabaseError(problem)
      with self.reading():  # version and tables of one moment
        version = self._version()
      try:
        self._db.execute("pragma journal_mode = wal")
      except sqlite3.OperationalError:  # file systems without shared memory
        self._db.execute("pragma journal_mode = truncate")
      self._db.execute("pragma synchronous = full")
      if version != tables.VERSION:
        self._upgrade()

  def _version(self) -> int:
    """The version of the tables; 0 of a new file. Raises UserError if it is no cache of replies."""
    version = self._db.execute("pragma user_version").fetchone()[0]
    there = {
      row[0] for row in self._db.execute("select name from sqlite_master where type = 'table'")
    }
    ours = self._db.execute("pragma application_id").fetchone()[0] in (0, tables.APPLICATION)
    if not ours or (there if version == 0 else not {"replies", "asked", "failures"} <= there):
      raise errors.data(
        f"teacher cache {self.path} is another program's SQLite file; name another file with"
        " --config.teacher.cache=FILE"
      )
    if version not in range(tables.VERSION + 1):
      raise errors.data(
        f"teacher cache {self.path} is of version {version}, this program reads {tables.VERSION};"
        " name another file with --config.teacher.cache=FILE"
      )
    return version

  def _upgrade(self) -> None:
    """Makes the tables, or brings those of an older version up to this one, whole or not at all."""
    with self.transaction() as db:
      if (version := self._version()) == tables.VERSION:
        return  # another process was first
      for table, column in tables.SINCE_2 if version == 1 else ():
        db.execute(f"alter table {table} add column {column}")
      for table in tables.WITH_PHASE:
        columns = {row[1] for row in db.execute(f"pragma table_info({table})")}
        if "stage" in columns:
          db.execute(f"alter table {table} rename column stage to phase")
      for statement in tables.TABLES:
        db.execute(statement)
      db.execute(f"pragma application_id = {tables.APPLICATION}")
      db.execute(f"pragma user_version = {tables.VERSION}")

  @contextlib.contextmanager
  def transaction(self):
    """Yields the connection: what is done with it is done whole or not at all."""
    with self._clear():
      self._db.execute("begin immediate")
      try:
        yield self._db
      except BaseException:
        if self._db.in_transaction:  # not if the disk is full: SQLite has gone back by itself
          self._db.execute("rollback")
        raise
      self._db.execute("commit")

  @contextlib.contextmanager
  def reading(self):
    """Yields the connection: all that is read with it is of one moment."""
    with self._clear():
      self._db.execute("begin")
      try:
        yield self._db
      finally:
        self._db.execute("rollback")

  @contextlib.contextmanager
  def _clear(self):
    """Turns what SQLite says into one line that says what to do."""
    try:
      yield
    except sqlite3.OperationalError as error:
      raise errors.data(
        f"teacher cache {self.path} cannot be used ({error}); check the disk, its permissions and"
        " whether another run holds it, or name another file with --config.teacher.cache=FILE"
      ) from None
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
      why = " ".join(str(error).split())
      raise errors.data(
        f"teacher cache {self.path} is damaged or no SQLite file ({why}); save what can be saved"
        f" with `sqlite3 {self.path} .recover`, move it away and run again"
      ) from None

  def _one(self, sql: str, values):
    with self._clear():
      return self._db.execute(sql, values).fetchone()

  def rows(self, sql: str, values=()) -> list:
    """What a query finds."""
    with self._clear():
      return self._db.execute(sql, values).fetchall()


def _reply(row, place: RunPhase) -> types.Reply:
  """A reply from its columns (tables.REPLY, run, round, phase)."""
  *first, dollars, tokens_cached, tokens_reasoning = row[:8]
  cached = row[8:] != dataclasses.astuple(place)
  return types.Reply(*first, 0.0 if cached else dollars, cached, tokens_cached, tokens_reasoning)


def _insert_reply(db, reply: types.Reply, named, where, now: str) -> None:
  if why := types.incomplete_reason(reply.text, reply.finish):
    raise ValueError(f"no reply to be kept: {why}")
  stored = db.execute(
    f"insert or ignore into replies(key, request, sample, {tables.REPLY}, run, round, phase, time)"
    " values (?, ?, ?, cast(? as text), cast(? as text), cast(? as text), ?, ?, ?, ?, ?, ?, ?, ?,"
    " ?)",
    (
      *named, _bytes(reply.text), _bytes(reply.finish), _bytes(reply.model), reply.tokens_in,
      reply.tokens_out, reply.dollars, reply.tokens_cached, reply.tokens_reasoning, *where, now,
    ),
  ).rowcount  # fmt: skip
  if not stored:
    db.execute(
      f"insert into pruned(run, round, phase, replies, {tables.SPENT}) select ?, ?, ?, 1, ?, ?, ?,"
      " ?, ? from replies where key = ? and (run, round, phase) is not (?, ?, ?)"
      f" {tables.ADD_PRUNED}",
      (
        *where, reply.tokens_in, reply.tokens_cached, reply.tokens_reasoning, reply.tokens_out,
        reply.dollars, named[0], *where,
      ),
    )  # fmt: skip


def _insert_failure(db, failure: types.Failure, where, now: str) -> None:
  db.execute(
    f"insert into failures(run, round, phase, key, {tables.FAILURE}, time)"
    " values (?, ?, ?, ?, ?, cast(? as text), ?, ?, ?, ?, ?, cast(? as text), ?, ?, ?)",
    (
      *where, failure.kind, _bytes(failure.message), failure.attempts, failure.tokens_in,
      failure.tokens_out, failure.dollars, failure.status, _bytes(failure.request_id),
      failure.tokens_cached, failure.tokens_reasoning, now,
    ),
  )  # fmt: skip


def _set_failure_aside(db, where) -> None:
  at = "run = ? and round = ? and phase = ? and key = ?"
  columns = f"run, round, phase, key, {tables.FAILURE}, time"
  db.execute(
    f"insert into failed_before({columns}) select {columns} from failures where {at}", where
  )
  db.execute(f"delete from failures where {at}", where)


def _bytes(text: str) -> bytes:
  return text.encode("utf-8", "surrogatepass")
