"""Every reply ever paid for, in one SQLite file that any SQLite tool can read.

  replies    a row for each: request (JSON), text, finish, model, tokens, dollars, who paid, when
  asked      which replies a round and stage of a run asked for
  failures   samples without a reply, by round and stage of a run
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

VERSION = 1  # of the key and of the tables

_TABLES = """
create table if not exists replies(
  key text primary key, request text, sample integer, text text, finish text, model text,
  tokens_in integer, tokens_out integer, dollars real,
  run text, round integer, stage text, time text);
create table if not exists asked(
  run text, round integer, stage text, key text,
  primary key (run, round, stage, key)) without rowid;
create table if not exists failures(
  run text, round integer, stage text, key text, kind text, message text, attempts integer,
  tokens_in integer, tokens_out integer, dollars real, time text,
  primary key (run, round, stage, key));
create table if not exists sent(
  run text, round integer, stage text, requests integer, retries integer,
  primary key (run, round, stage));
create index if not exists replies_run on replies(run, round, stage);
"""


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
    "client": VERSION,
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
    row = self._one(
      "select text, finish, model, tokens_in, tokens_out, dollars, run, round, stage"
      " from replies where key = ?",
      (key,),
    )
    if row is None:
      return None
    cached = row[6:] != dataclasses.astuple(place)
    return asking.Reply(*row[:5], dollars=0.0 if cached else row[5], cached=cached)

  def failure(self, key: str, place: Place) -> asking.Failure | None:
    """The failure that was recorded for this sample at this place."""
    row = self._one(
      "select kind, message, attempts, tokens_in, tokens_out, dollars from failures"
      " where run = ? and round = ? and stage = ? and key = ?",
      (*dataclasses.astuple(place), key),
    )
    return asking.Failure(*row) if row else None

  def ask(self, keys, place: Place) -> None:
    """Notes that `place` wants these replies."""
    where = dataclasses.astuple(place)
    with self._transaction() as db:
      db.executemany("insert or ignore into asked values (?, ?, ?, ?)", [(*where, k) for k in keys])

  def store(self, request: str, outcomes: dict, place: Place) -> None:
    """Keeps what one call brought: {(sample, key): Reply | Failure}, all of it or nothing.

    A reply that another process stored meanwhile is left as it is.
    """
    where, now = (
      dataclasses.astuple(place),
      datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
    )
    with self._transaction() as db:
      for (sample, name), outcome in outcomes.items():
        db.execute(
          "delete from failures where run = ? and round = ? and stage = ? and key = ?",
          (*where, name),
        )
        cost = (outcome.tokens_in, outcome.tokens_out, outcome.dollars)
        if isinstance(outcome, asking.Failure):
          db.execute(
            "insert into failures values (?, ?, ?, ?, ?, cast(? as text), ?, ?, ?, ?, ?)",
            (*where, name, outcome.kind, _bytes(outcome.message), outcome.attempts, *cost, now),
          )
        else:
          text, model, finish = _bytes(outcome.text), _bytes(outcome.model), _bytes(outcome.finish)
          db.execute(
            "insert or ignore into replies values (?, ?, ?, cast(? as text), cast(? as text),"
            " cast(? as text), ?, ?, ?, ?, ?, ?, ?)",
            (name, request, sample, text, finish, model, *cost, *where, now),
          )

  def sent(self, place: Place, retry: bool) -> None:
    """Counts an HTTP request that is about to be sent."""
    with self._transaction() as db:
      db.execute(
        "insert into sent values (?, ?, ?, 1, ?) on conflict do update"
        " set requests = requests + 1, retries = retries + excluded.retries",
        (*dataclasses.astuple(place), int(retry)),
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
    paid = self._all(f"select tokens_in, tokens_out, dollars from replies t where {where}", values)
    failed = self._all(
      f"select tokens_in, tokens_out, dollars from failures t where {where}", values
    )
    hits = self._one(
      "select count(*) from asked t join replies r on r.key = t.key"
      f" where {where} and (r.run, r.round, r.stage) is not (t.run, t.round, t.stage)",
      values,
    )
    retries = self._one(f"select coalesce(sum(retries), 0) from sent t where {where}", values)
    charged = paid + failed
    return asking.Totals(
      calls=len(paid),
      cache_hits=hits[0],
      retries=retries[0],
      failures=len(failed),
      tokens_in=sum(row[0] for row in charged),
      tokens_out=sum(row[1] for row in charged),
      dollars=math.fsum(row[2] for row in charged),
    )

  def close(self) -> None:
    self._db.close()

  def _prepare(self) -> None:
    with self._clear():
      self._db.text_factory = lambda raw: raw.decode("utf-8", "surrogatepass")
      problem = self._db.execute("pragma quick_check(1)").fetchone()[0]
      if problem != "ok":
        raise sqlite3.DatabaseError(problem)
      try:
        self._db.execute("pragma journal_mode = wal")
      except sqlite3.OperationalError:  # file systems without shared memory
        self._db.execute("pragma journal_mode = truncate")
      self._db.execute("pragma synchronous = full")
      version = self._db.execute("pragma user_version").fetchone()[0]
      if version not in (0, VERSION):
        raise errors.data(
          f"teacher cache {self.path} is of version {version}, this program reads {VERSION};"
          " name another file with --config.teacher.cache=FILE"
        )
      self._db.executescript(_TABLES)
      self._db.execute(f"pragma user_version = {VERSION}")

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


def _bytes(text: str) -> bytes:
  return text.encode("utf-8", "surrogatepass")
