"""Reads and writes single rows of the teacher cache.

Text is bound as bytes and cast to text, because sqlite3 cannot bind lone surrogates as `str`.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence

from distill_jax.teacher import reply as reply_reader
from distill_jax.teacher import types
from distill_jax.teacher.store import seals, tables

KEYS_PER_QUERY = 500

PhaseColumns = tuple[str, int, str]  # run, round, phase
Columns = dict[str, seals.Value]


def reply(row: Sequence, asking: PhaseColumns) -> types.Reply:
  """The reply in a row of `tables.REPLY` and the paying phase, as the phase `asking` sees it.

  A reply that another phase paid for costs nothing and counts as cached. Thinking is separated from
  the text here, so that replies stored by older versions are read as new ones are.
  """
  text, finish, model, tokens_in, tokens_out, dollars, tokens_cached, tokens_reasoning = row[:8]
  found = reply_reader.separate(text, row[8])
  cached = tuple(row[9:]) != asking
  return types.Reply(
    text=found.text,
    finish=finish,
    model=model,
    tokens_in=tokens_in,
    tokens_out=tokens_out,
    dollars=0.0 if cached else dollars,
    cached=cached,
    tokens_cached=tokens_cached,
    tokens_reasoning=tokens_reasoning,
    thinking=found.thinking,
  )


def reply_columns(
  reply: types.Reply, identity: tuple[str, str, int], phase: PhaseColumns, time: str
) -> Columns:
  """The columns of a reply in `replies`.

  Args:
    reply: The reply.
    identity: (key, canonical JSON of the request, sample).
    phase: The phase that paid.
    time: ISO 8601 time stamp.

  Raises:
    ValueError: The reply is incomplete.
  """
  if why := types.incomplete_reason(reply.text, reply.finish):
    raise ValueError(f"an incomplete reply cannot be stored: {why}")
  key, request, sample = identity
  named = {"key": key, "request": request, "sample": sample, "time": time}
  return named | _fields(reply, tables.REPLY) | phase_columns(phase)


def failure_columns(failure: types.Failure, key: str, phase: PhaseColumns, time: str) -> Columns:
  """The columns of the failure of a sample in `failures`."""
  return {"key": key, "time": time} | _fields(failure, tables.FAILURE) | phase_columns(phase)


def _fields(outcome: types.Outcome, names: str) -> Columns:
  return {name: getattr(outcome, name) for name in names.split(", ")}


def phase_columns(phase: PhaseColumns) -> Columns:
  """The columns that identify a phase."""
  return dict(zip(("run", "round", "phase"), phase, strict=True))


def failed(db: sqlite3.Connection, keys: Iterable[str], phase: PhaseColumns) -> set[str]:
  """Those of some keys that have a failure in a phase."""
  return _present(db, "failures where run = ? and round = ? and phase = ? and", phase, keys)


def stored(db: sqlite3.Connection, keys: Iterable[str]) -> set[str]:
  """Those of some keys that have a reply."""
  return _present(db, "replies where", (), keys)


def _present(
  db: sqlite3.Connection, where: str, values: Sequence[str | int], keys: Iterable[str]
) -> set[str]:
  found: set[str] = set()
  for marks, part in parts(keys):
    rows = db.execute(f"select key from {where} key in ({marks})", (*values, *part))
    found.update(key for (key,) in rows)
  return found


def parts(values: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
  """Yields ("?, ?, ...", values) for queries with few enough values."""
  values = list(values)
  for start in range(0, len(values), KEYS_PER_QUERY):
    part = values[start : start + KEYS_PER_QUERY]
    yield ", ".join("?" * len(part)), part


def add_cost(db: sqlite3.Connection, reply: types.Reply, key: str, phase: PhaseColumns) -> None:
  """Adds the cost of a reply to `pruned`, unless the stored reply is from the same phase."""
  db.execute(
    f"insert into pruned(run, round, phase, replies, {tables.COST}) select ?, ?, ?, 1, ?, ?, ?,"
    " ?, ? from replies where key = ? and (run, round, phase) is not (?, ?, ?)"
    f" {tables.ADD_PRUNED}",
    (
      *phase,
      reply.tokens_in,
      reply.tokens_cached,
      reply.tokens_reasoning,
      reply.tokens_out,
      reply.dollars,
      key,
      *phase,
    ),
  )


def archive_failure(db: sqlite3.Connection, key: str, phase: PhaseColumns) -> None:
  """Moves the failure of a sample, if there is one, from `failures` to `failed_before`."""
  matching = "run = ? and round = ? and phase = ? and key = ?"
  columns = f"run, round, phase, key, {tables.FAILURE}, time"
  db.execute(
    f"insert into failed_before({columns}) select {columns} from failures where {matching}",
    (*phase, key),
  )
  db.execute(f"delete from failures where {matching}", (*phase, key))


def settle(db: sqlite3.Connection, answers: Mapping[str, tuple[float, str] | None]) -> None:
  """Removes requests from `unanswered`, or records why their cost stays an estimate.

  Args:
    db: Connection within a transaction.
    answers: {id of a request: (dollars, reason) if its usage stays unknown, else None}.
  """
  for marks, part in parts(id for id, estimate in answers.items() if estimate is None):
    db.execute(f"delete from unanswered where id in ({marks})", part)
  for id, estimate in answers.items():
    if estimate is not None:
      dollars, reason = estimate
      db.execute(
        "update unanswered set dollars = ?, reason = cast(? as text) where id = ?",
        (dollars, seals.encode(reason), id),
      )
