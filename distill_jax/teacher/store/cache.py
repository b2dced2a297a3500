"""The teacher cache: every reply ever paid for, with failures and costs, in one SQLite file.

Any SQLite tool can read the file; `tables` has its schema. A reply is on disk before it is returned
to the caller. Text is UTF-8, with lone surrogates let through.
"""

import collections
import contextlib
import dataclasses
import datetime
import hashlib
import itertools
import json
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from distill_jax.teacher import types
from distill_jax.teacher.store import cache_file, rows, tables

KEY_VERSION = 1  # part of every key: a new version finds no old reply
_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=True, separators=(",", ":"))

Outcome = types.Reply | types.Failure
# (canonical JSON of the request, {(sample, key): outcome}, phase that asked)
StoredCall = tuple[str, Mapping[tuple[int, str], Outcome], "RunPhase"]
# {id of a request: (dollars, reason) if its usage stays unknown, else None}
Answers = Mapping[str, tuple[float, str] | None]


@dataclasses.dataclass(frozen=True)
class RunPhase:
  """A phase of a round of a run; costs are attributed to it."""

  run: str
  round: int
  phase: str  # name of the phase's directory

  def columns(self) -> rows.PhaseColumns:
    """(run, round, phase)."""
    return self.run, self.round, self.phase


@dataclasses.dataclass(frozen=True)
class Reservation:
  """A request that is about to be sent: the most that it may use and cost."""

  id: str
  tokens_in: int
  tokens_out: int
  dollars: float


def request_text(
  identity: str, model: str, messages: Iterable[Iterable[str]], sampling: dict
) -> str:
  """The canonical JSON of a request. Only what is in it decides which cached reply is found."""
  fields = {
    "endpoint": "chat.completions",
    "identity": identity,
    "model": model,
    "messages": [list(message) for message in messages],
    "sampling": sampling,
    "client": KEY_VERSION,
  }
  return _CANONICAL.encode(fields)


def key(request: str, sample: int) -> str:
  """The cache key (64 hex digits) of one sample of a request, given as canonical JSON."""
  return hashlib.sha256(f"{request}#{sample}".encode()).hexdigest()


class ReplyCache(cache_file.CacheFile):
  """An open cache file. Creates the file, or migrates an older version in place.

  Every method raises `errors.UserError` if the file cannot be read or written.

  Raises:
    errors.UserError: The file is damaged, belongs to another program, has a newer version, or is
      not writable.
  """

  def get(self, key: str, run_phase: RunPhase) -> types.Reply | None:
    """The stored reply, or None. Cost and `cached` are from the point of view of `run_phase`."""
    row = self._one(f"select {tables.REPLY}, run, round, phase from replies where key = ?", (key,))
    return rows.reply(row, run_phase.columns()) if row else None

  def failure(self, key: str, run_phase: RunPhase) -> types.Failure | None:
    """The failure recorded for this sample in this phase, or None."""
    row = self._one(
      f"select {tables.FAILURE} from failures"
      " where run = ? and round = ? and phase = ? and key = ?",
      (*run_phase.columns(), key),
    )
    return types.Failure(*row) if row else None

  def lookup(self, keys: Iterable[str], run_phase: RunPhase) -> dict[str, Outcome]:
    """{key: reply, or else this phase's failure}, without the keys that have neither."""
    phase = run_phase.columns()
    outcomes: dict[str, Outcome] = {}
    for marks, part in rows.parts(dict.fromkeys(keys)):
      failures = self.query(
        f"select {tables.FAILURE}, key from failures where run = ? and round = ? and phase = ?"
        f" and key in ({marks})",
        (*phase, *part),
      )
      outcomes |= {row[-1]: types.Failure(*row[:-1]) for row in failures}
      replies = self.query(
        f"select {tables.REPLY}, run, round, phase, key from replies where key in ({marks})", part
      )
      outcomes |= {row[-1]: rows.reply(row[:-1], phase) for row in replies}
    return outcomes

  def failure_counts(self, run_phase: RunPhase) -> collections.Counter[str]:
    """How many answers to each key were failures, so that asking again needs a new request.

    A reply cut off in `run_phase` itself does not count: it is asked for with a larger limit, which
    makes the request new anyway.
    """
    keys = self.query(
      "select key from failed_before union all select key from failures where kind in"
      " ('refusal', 'filtered', 'empty', 'cut') or (kind = 'length' and (run, round, phase) is not"
      " (?, ?, ?))",
      run_phase.columns(),
    )
    return collections.Counter(key for (key,) in keys)

  def salt(self) -> str:
    """A random text, made once, that tells this file's requests from those of other files."""
    with self.transaction() as db:
      return tables.salt(db)

  def features(self, server: str) -> dict[str, str]:
    """{feature: value} that `learn` has kept for a server in the last LEARNED_DAYS days."""
    with self.reading() as db:
      return tables.features(db, server)

  def learned(self) -> list[tuple[str, str, str, str]]:
    """(server, feature, value, time) of everything that `learn` has kept."""
    with self.reading() as db:
      return tables.all_features(db)

  def learn(self, server: str, feature: str, value: str) -> None:
    """Keeps what a refusal of a server has shown."""
    with self.transaction() as db:
      tables.learn(db, server, feature, value)

  def record_asked(self, keys: Iterable[str], run_phase: RunPhase) -> None:
    """Records that a phase asks for these replies."""
    phase = run_phase.columns()
    with self.transaction() as db:
      db.executemany(
        "insert or ignore into asked(run, round, phase, key) values (?, ?, ?, ?)",
        [(*phase, key) for key in keys],
      )

  def store(
    self, request: str, outcomes: Mapping[tuple[int, str], Outcome], run_phase: RunPhase
  ) -> None:
    """Stores the outcomes of one call. See `store_many`."""
    self.store_many([(request, outcomes, run_phase)])

  def store_many(self, calls: Iterable[StoredCall]) -> None:
    """Stores the outcomes of several calls in one transaction.

    A reply that another process stored first stays; the cost of this one is added to the ledger.
    An earlier failure of the same sample and phase moves to `failed_before`.
    """
    now = _now()
    waiting: dict[str, tuple[str, int, Outcome]] = {}  # {key: (request, sample, outcome)}
    with self.transaction() as db:
      for run_phase, of_phase in itertools.groupby(calls, key=lambda call: call[2]):
        for request, outcomes, _ in of_phase:
          if not waiting.keys().isdisjoint(key for _, key in outcomes):
            self._store_distinct(db, waiting, run_phase, now)
            waiting = {}
          waiting |= {key: (request, n, outcome) for (n, key), outcome in outcomes.items()}
        self._store_distinct(db, waiting, run_phase, now)
        waiting = {}

  def _store_distinct(
    self,
    db: sqlite3.Connection,
    outcomes: Mapping[str, tuple[str, int, Outcome]],
    run_phase: RunPhase,
    time: str,
  ) -> None:
    """Stores outcomes of one phase, {key: (request, sample, outcome)}, within a transaction."""
    phase = run_phase.columns()
    failed = rows.failed(db, outcomes, phase)
    stored = rows.stored(db, outcomes)
    replies, failures = [], []
    for key, (request, sample, outcome) in outcomes.items():
      if key in failed:
        rows.archive_failure(db, key, phase)
      if isinstance(outcome, types.Failure):
        failures.append(rows.failure_columns(outcome, key, phase, time))
      elif key in stored:
        rows.add_cost(db, outcome, key, phase)
      else:
        replies.append(rows.reply_columns(outcome, (key, request, sample), phase, time))
    self._sealed["failures"].insert(failures)
    self._sealed["replies"].insert(replies)

  def record_sent(self, run_phase: RunPhase, requests: int = 1, retries: int = 0) -> None:
    """Counts HTTP requests that are about to be sent, `retries` of them not for the first time."""
    with self.transaction() as db:
      self._count_sent(db, run_phase, requests, retries)

  @staticmethod
  def _count_sent(db: sqlite3.Connection, run_phase: RunPhase, requests: int, retries: int) -> None:
    db.execute(
      "insert into sent(run, round, phase, requests, retries) values (?, ?, ?, ?, ?)"
      " on conflict do update set"
      " requests = requests + excluded.requests, retries = retries + excluded.retries",
      (*run_phase.columns(), requests, retries),
    )

  def account(
    self,
    run_phase: RunPhase,
    requests: Sequence[Reservation] = (),
    answers: Answers | None = None,
    *,
    retries: int = 0,
  ) -> None:
    """Counts requests that are about to be sent at their highest possible cost, and answers.

    A request's cost stays in `unanswered` until its answer is recorded, also if the process is
    killed first. Does not wait for the disk: that matters only if the machine itself fails.

    Args:
      run_phase: The phase that asks.
      requests: The requests that are about to be sent.
      answers: The answers to earlier requests.
      retries: How many of `requests` are not sent for the first time.
    """
    now = _now()
    with self.unsynced() as db:
      if requests:
        self._count_sent(db, run_phase, len(requests), retries)
      rest = rows.phase_columns(run_phase.columns()) | {"reason": "", "time": now}
      self._sealed["unanswered"].insert([dataclasses.asdict(r) | rest for r in requests])
      rows.settle(db, answers or {})

  def unanswered(
    self, run: str, round: int | None = None, phase: str | None = None
  ) -> types.Unanswered:
    """Requests without a reported usage: of a run, of one of its rounds, or of a phase."""
    where, values = _pinned(run, round, phase)
    found = self.query(f"select dollars from unanswered t where {where}", values)
    return types.Unanswered(len(found), math.fsum(dollars for (dollars,) in found))

  def requests_sent(self, run: str) -> int:
    """Number of HTTP requests a run has sent, retries included."""
    return self._one("select coalesce(sum(requests), 0) from sent where run = ?", (run,))[0]

  def totals(self, run: str, round: int | None = None, phase: str | None = None) -> types.Totals:
    """Totals of a run, of one of its rounds, or of a phase.

    Independent of the order in which replies were stored: dollars are summed exactly.
    """
    where, values = _pinned(run, round, phase)

    def select(columns: str, table: str) -> list:
      return self.query(f"select {columns} from {table} t where {where}", values)

    paid, failed = select(tables.COST, "replies"), select(tables.COST, "failures")
    pruned = select(f"replies, {tables.COST}", "pruned")
    costs = [*paid, *failed, *select(tables.COST, "failed_before"), *(row[1:] for row in pruned)]
    hits = self._one(
      "select count(*) from asked t join replies r on r.key = t.key"
      f" where {where} and (r.run, r.round, r.phase) is not (t.run, t.round, t.phase)",
      values,
    )
    return types.Totals(
      calls=len(paid) + sum(row[0] for row in pruned),
      cache_hits=hits[0],
      retries=sum(row[0] for row in select("retries", "sent")),
      failures=len(failed),
      tokens_in=sum(row[0] for row in costs),
      tokens_cached=sum(row[1] for row in costs),
      tokens_reasoning=sum(row[2] for row in costs),
      tokens_out=sum(row[3] for row in costs),
      dollars=math.fsum(row[4] for row in costs),
    )

  def failed_before(self, run_phase: RunPhase) -> dict[str, list[types.Failure]]:
    """{key: failures of this phase whose sample was asked for again}."""
    failures = collections.defaultdict(list)
    for *row, key in self.query(
      f"select {tables.FAILURE}, key from failed_before where (run, round, phase) is (?, ?, ?)",
      run_phase.columns(),
    ):
      failures[key].append(types.Failure(*row))
    return failures

  def reset_failures(self, run: str, finished: Iterable[tuple[int, str]]) -> int:
    """Makes the failures of a run eligible to be asked for again. Their cost stays in the ledger.

    Args:
      run: The run.
      finished: (round, phase) pairs whose failures stay as they are.

    Returns:
      The number of failures.
    """
    count, finished = 0, set(finished)
    with self.transaction() as db:
      for round, phase, key in db.execute(
        "select round, phase, key from failures where run = ?", (run,)
      ).fetchall():
        if (round, phase) not in finished:
          rows.archive_failure(db, key, (run, round, phase))
          count += 1
    return count

  def prune(self, where: str, values: Sequence) -> int:
    """Deletes the replies that match an SQL condition. Their cost stays in the ledger.

    Returns:
      The number of replies deleted.
    """
    sums = ", ".join(f"sum({name})" for name in tables.COST.split(", "))
    with self.transaction() as db:
      db.execute(
        f"insert into pruned(run, round, phase, replies, {tables.COST})"
        f" select run, round, phase, count(*), {sums} from replies where {where} group by 1, 2, 3"
        f" {tables.ADD_PRUNED}",
        values,
      )
      deleted = db.execute(f"delete from replies where {where}", values).rowcount
    with contextlib.suppress(sqlite3.OperationalError):  # shrinks the file, if the disk has room
      self._db.execute("vacuum")
    return deleted


def _pinned(run: str, round: int | None, phase: str | None) -> tuple[str, list[str | int]]:
  """(condition on a table `t`, values) of the rows of a run, of one of its rounds, or a phase."""
  columns = {"run": run, "round": round, "phase": phase}
  pinned = {name: value for name, value in columns.items() if value is not None}
  return " and ".join(f"t.{name} = ?" for name in pinned), list(pinned.values())


def _now() -> str:
  return datetime.datetime.now(datetime.UTC).isoformat("T", "seconds")
