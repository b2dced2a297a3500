"""Reads and writes single rows of the teacher cache.

Text is bound as bytes and cast to text, because sqlite3 cannot bind lone surrogates as `str`.
"""

import sqlite3
from collections.abc import Mapping, Sequence

from distill_jax.teacher import reply as reply_reader
from distill_jax.teacher import types
from distill_jax.teacher.store import tables

PhaseColumns = tuple[str, int, str]  # run, round, phase


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


def insert_reply(
  db: sqlite3.Connection,
  reply: types.Reply,
  identity: tuple[str, str, int],
  phase: PhaseColumns,
  time: str,
) -> None:
  """Inserts a reply. If one is stored already, it stays, and only the cost of this one is added.

  Args:
    db: Connection within a transaction.
    reply: The reply.
    identity: (key, canonical JSON of the request, sample).
    phase: The phase that paid.
    time: ISO 8601 time stamp.

  Raises:
    ValueError: The reply is incomplete.
  """
  if why := types.incomplete_reason(reply.text, reply.finish):
    raise ValueError(f"an incomplete reply cannot be stored: {why}")
  inserted = db.execute(
    f"insert or ignore into replies(key, request, sample, {tables.REPLY}, run, round, phase, time)"
    " values (?, ?, ?, cast(? as text), cast(? as text), cast(? as text), ?, ?, ?, ?, ?,"
    " cast(? as text), ?, ?, ?, ?)",
    (
      *identity,
      encode(reply.text),
      encode(reply.finish),
      encode(reply.model),
      reply.tokens_in,
      reply.tokens_out,
      reply.dollars,
      reply.tokens_cached,
      reply.tokens_reasoning,
      encode(reply.thinking),
      *phase,
      time,
    ),
  ).rowcount
  if not inserted:
    _add_cost(db, reply, identity[0], phase)


def _add_cost(db: sqlite3.Connection, reply: types.Reply, key: str, phase: PhaseColumns) -> None:
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


def insert_failure(
  db: sqlite3.Connection, failure: types.Failure, key: str, phase: PhaseColumns, time: str
) -> None:
  """Inserts the failure of a sample that has none in this phase."""
  db.execute(
    f"insert into failures(run, round, phase, key, {tables.FAILURE}, time)"
    " values (?, ?, ?, ?, ?, cast(? as text), ?, ?, ?, ?, ?, cast(? as text), ?, ?, ?)",
    (
      *phase,
      key,
      failure.kind,
      encode(failure.message),
      failure.attempts,
      failure.tokens_in,
      failure.tokens_out,
      failure.dollars,
      failure.status,
      encode(failure.request_id),
      failure.tokens_cached,
      failure.tokens_reasoning,
      time,
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
  for id, estimate in answers.items():
    if estimate is None:
      db.execute("delete from unanswered where id = ?", (id,))
    else:
      dollars, reason = estimate
      db.execute(
        "update unanswered set dollars = ?, reason = cast(? as text) where id = ?",
        (dollars, encode(reason), id),
      )


def encode(text: str) -> bytes:
  """UTF-8, with lone surrogates let through."""
  return text.encode("utf-8", "surrogatepass")
