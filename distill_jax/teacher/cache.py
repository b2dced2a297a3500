"""Every reply ever paid for, in one SQLite file that any SQLite tool can read.

  replies    a row for each: request (JSON), text, finish, model, tokens, dollars, who paid, when
  asked      which replies a round and stage of a run asked for
  failures   samples without a reply, by round and stage of a run
  failed_before  failures that were asked again since; what they cost stays in the ledger
  sent       HTTP requests and retries, by round and stage of a run

A row is on the disk before its reply is handed on. Text is UTF-8, with lone surrogates let through.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import math
import pathlib
import sqlite3

from distill_jax import errors
from distill_jax.teacher import asking

VERSION = 2  # of the tables; older ones are brought up to it in place
KEY_VERSION = 1  # what is in a key, and so which replies are found again
APPLICATION = 0x64617465  # in the file's header, so that no other program's file is taken for ours
LOOKED_UP = 500  # keys in one query

_FAILURES = """(
  run text, round integer, stage text, key text, kind text, message text, attempts integer,
  tokens_in integer, tokens_out integer, dollars real, time text, status integer default 0,
  request_id text default '', tokens_cached integer default 0, tokens_reasoning integer default 0"""

_TABLES = (
  """create table if not exists replies(
  key text primary key, request text, sample integer, text text, finish text, model text,
  tokens_in integer, tokens_out integer, dollars real,
  run text, round integer, stage text, time text,
  tokens_cached integer default 0, tokens_reasoning integer default 0)""",
  """create table if not exists asked(
  run text, round integer, stage text, key text,
  primary key (run, round, stage, key)) without rowid""",
  f"create table if not exists failures{_FAILURES}, primary key (run, round, stage, key))",
  f"create table if not exists failed_before{_FAILURES})",
  """create table if not exists sent(
  run text, round integer, stage text, requests integer, retries integer,
  primary key (run, round, stage))""",
  "create index if not exists replies_run on replies(run, round, stage)",
  "create index if not exists failed_before_run on failed_before(run, round, stage)",
)

_SINCE_2 = (
  ("replies", "tokens_cached integer default 0"),
  ("replies", "tokens_reasoning integer default 0"),
  ("failures", "status integer default 0"),
  ("failures", "request_id text default ''"),
  ("failures", "tokens_cached integer default 0"),
  ("failures", "tokens_reasoning integer default 0"),
)

_REPLY = "text, finish, model, tokens_in, tokens_out, dollars, tokens_cached, tokens_reasoning"
_NOTHING = (0, 0, 0, 0, 0.0)
_FAILURE = (
  "kind, message, attempts, tokens_in, tokens_out, dollars, status, request_id, tokens_cached,"
  " tokens_reasoning"
)


@dataclasses.dataclass(frozen=True)
class Place:
  """Where in which run something is asked."""

  run: str
  round: int
  stage: str


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


class Cache:
  """Opens or makes the file. Raises errors.Refusal if it is damaged, foreign or not writable."""

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
    except errors.Refusal:
      self._db.close()
      raise

  def get(self, key: str, place: Place) -> asking.Reply | None:
    """The stored reply, told from the point of view of `place`."""
    row = self._one(f"select {_REPLY}, run, round, stage from replies where key = ?", (key,))
    return row and _reply(row, place)

  def failure(self, key: str, place: Place) -> asking.Failure | None:
    """The failure that was recorded for this sample at this place."""
    row = self._one(
      f"select {_FAILURE} from failures where run = ? and round = ? and stage = ? and key = ?",
      (*dataclasses.astuple(place), key),
    )
    return asking.Failure(*row) if row else None

  def known(self, keys, place: Place) -> dict[str, asking.Reply | asking.Failure]:
    """{key: what get, or else failure, would say} of the keys that either knows."""
    keys, where, found = list(dict.fromkeys(keys)), dataclasses.astuple(place), {}
    for start in range(0, len(keys), LOOKED_UP):
      part = keys[start : start + LOOKED_UP]
      marks = ", ".join("?" * len(part))
      failed = self._all(
        f"select {_FAILURE}, key from failures where run = ? and round = ? and stage = ?"
        f" and key in ({marks})",
        (*where, *part),
      )
      found |= {row[-1]: asking.Failure(*row[:-1]) for row in failed}
      replied = self._all(
        f"select {_REPLY}, run, round, stage, key from replies where key in ({marks})", part
      )
      found |= {row[-1]: _reply(row[:-1], place) for row in replied}
    return found

  def ask(self, keys, place: Place) -> None:
    """Notes that `place` wants these replies."""
    where = dataclasses.astuple(place)
    with self._transaction() as db:
      db.executemany("insert or ignore into asked values (?, ?, ?, ?)", [(*where, k) for k in keys])

  def store(self, request: str, outcomes: dict, place: Place) -> None:
    """Keeps what one call brought: see store_many."""
    self.store_many([(request, outcomes, place)])

  def store_many(self, calls) -> None:
    """Keeps what calls brought, [(request, {(sample, key): Reply | Failure}, place), ...], all of
    it or nothing.

    A reply that another process stored meanwhile is left as it is. A failure that was there before
    is kept as well.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat("T", "seconds")
    with self._transaction() as db:
      for request, outcomes, place in calls:
        where = dataclasses.astuple(place)
        for (sample, name), outcome in outcomes.items():
          _set_failure_aside(db, (*where, name))
          if isinstance(outcome, asking.Failure):
            _insert_failure(db, outcome, (*where, name), now)
          else:
            _insert_reply(db, outcome, (name, request, sample), where, now)

  def sent(self, place: Place, requests: int = 1, retries: int = 0) -> None:
    """Counts HTTP requests that are about to be sent; `retries` of them were sent before."""
    with self._transaction() as db:
      db.execute(
        "insert into sent values (?, ?, ?, ?, ?) on conflict do update set"
        " requests = requests + excluded.requests, retries = retries + excluded.retries",
        (*dataclasses.astuple(place), requests, retries),
      )

  def requests(self, run: str) -> int:
    """HTTP requests this run has sent."""
    return self._one("select coalesce(sum(requests), 0) from sent where run = ?", (run,))[0]

  def totals(self, run: str, round: int | None = None, stage: str | None = None) -> asking.Totals:
    """Sums over the stored facts; independent of the order in which they were stored."""
    pinned = [
      (n, v) for n, v in (("run", run), ("round", round), ("stage", stage)) if v is not None
    ]
    where, values = " and ".join(f"t.{n} = ?" for n, _ in pinned), [v for _, v in pinned]
    tokens = "tokens_in, tokens_cached, tokens_reasoning, tokens_out, dollars"
    paid, failed, before = (
      self._all(f"select {tokens} from {table} t where {where}", values)
      for table in ("replies", "failures", "failed_before")
    )
    hits = self._one(
      "select count(*) from asked t join replies r on r.key = t.key"
      f" where {where} and (r.run, r.round, r.stage) is not (t.run, t.round, t.stage)",
      values,
    )
    retries = self._one(f"select coalesce(sum(retries), 0) from sent t where {where}", values)
    tokens_in, cached, reasoning, out, dollars = zip(*paid, *failed, *before, _NOTHING, strict=True)
    return asking.Totals(
      calls=len(paid),
      cache_hits=hits[0],
      retries=retries[0],
      failures=len(failed),
      tokens_in=sum(tokens_in),
      tokens_cached=sum(cached),
      tokens_reasoning=sum(reasoning),
      tokens_out=sum(out),
      dollars=math.fsum(dollars),
    )

  def close(self) -> None:
    self._db.close()

  def _prepare(self) -> None:
    with self._clear():
      self._db.text_factory = lambda raw: raw.decode("utf-8", "surrogatepass")
      problem = self._db.execute("pragma quick_check(1)").fetchone()[0]
      if problem != "ok":
        raise sqlite3.DatabaseError(problem)
      version = self._version()
      try:
        self._db.execute("pragma journal_mode = wal")
      except sqlite3.OperationalError:  # file systems without shared memory
        self._db.execute("pragma journal_mode = truncate")
      self._db.execute("pragma synchronous = full")
      if version != VERSION:
        self._upgrade()

  def _version(self) -> int:
    """The version of the tables; 0 of a new file. Raises Refusal if it is no cache of replies."""
    version = self._db.execute("pragma user_version").fetchone()[0]
    tables = {
      row[0] for row in self._db.execute("select name from sqlite_master where type = 'table'")
    }
    ours = self._db.execute("pragma application_id").fetchone()[0] in (0, APPLICATION)
    if not ours or (tables if version == 0 else not {"replies", "asked", "failures"} <= tables):
      raise errors.data(
        f"teacher cache {self.path} is another program's SQLite file; name another file with"
        " --config.teacher.cache=FILE"
      )
    if version not in range(VERSION + 1):
      raise errors.data(
        f"teacher cache {self.path} is of version {version}, this program reads {VERSION};"
        " name another file with --config.teacher.cache=FILE"
      )
    return version

  def _upgrade(self) -> None:
    """Makes the tables, or brings those of an older version up to this one, whole or not at all."""
    with self._transaction() as db:
      if (version := self._version()) == VERSION:
        return  # another process was first
      for table, column in _SINCE_2 if version == 1 else ():
        db.execute(f"alter table {table} add column {column}")
      for statement in _TABLES:
        db.execute(statement)
      db.execute(f"pragma application_id = {APPLICATION}")
      db.execute(f"pragma user_version = {VERSION}")

  @contextlib.contextmanager
  def _transaction(self):
    with self._clear():
      self._db.execute("begin immediate")
      try:
        yield self._db
      except BaseException:
        self._db.execute("rollback")
        raise
      self._db.execute("commit")

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
    except sqlite3.DatabaseError as error:
      why = " ".join(str(error).split())
      raise errors.data(
        f"teacher cache {self.path} is damaged or no SQLite file ({why}); save what can be saved"
        f" with `sqlite3 {self.path} .recover`, move it away and run again"
      ) from None

  def _one(self, sql: str, values):
    with self._clear():
      return self._db.execute(sql, values).fetchone()

  def _all(self, sql: str, values) -> list:
    with self._clear():
      return self._db.execute(sql, values).fetchall()


def _reply(row, place: Place) -> asking.Reply:
  """A reply from its columns (_REPLY, run, round, stage)."""
  *first, dollars, tokens_cached, tokens_reasoning = row[:8]
  cached = row[8:] != dataclasses.astuple(place)
  return asking.Reply(*first, 0.0 if cached else dollars, cached, tokens_cached, tokens_reasoning)


def _insert_reply(db, reply: asking.Reply, named, where, now: str) -> None:
  db.execute(
    f"insert or ignore into replies(key, request, sample, {_REPLY}, run, round, stage, time)"
    " values (?, ?, ?, cast(? as text), cast(? as text), cast(? as text), ?, ?, ?, ?, ?, ?, ?, ?,"
    " ?)",
    (
      *named, _bytes(reply.text), _bytes(reply.finish), _bytes(reply.model), reply.tokens_in,
      reply.tokens_out, reply.dollars, reply.tokens_cached, reply.tokens_reasoning, *where, now,
    ),
  )  # fmt: skip


def _insert_failure(db, failure: asking.Failure, where, now: str) -> None:
  db.execute(
    f"insert into failures(run, round, stage, key, {_FAILURE}, time)"
    " values (?, ?, ?, ?, ?, cast(? as text), ?, ?, ?, ?, ?, cast(? as text), ?, ?, ?)",
    (
      *where, failure.kind, _bytes(failure.message), failure.attempts, failure.tokens_in,
      failure.tokens_out, failure.dollars, failure.status, _bytes(failure.request_id),
      failure.tokens_cached, failure.tokens_reasoning, now,
    ),
  )  # fmt: skip


def _set_failure_aside(db, where) -> None:
  at = "run = ? and round = ? and stage = ? and key = ?"
  columns = f"run, round, stage, key, {_FAILURE}, time"
  db.execute(
    f"insert into failed_before({columns}) select {columns} from failures where {at}", where
  )
  db.execute(f"delete from failures where {at}", where)


def _bytes(text: str) -> bytes:
  return text.encode("utf-8", "surrogatepass")
