"""Schema of the teacher cache (SQLite) and the migration of older versions.

replies        one row per reply: request (JSON), text as it came, finish reason, model, tokens,
               dollars, the phase that paid for it, time, thinking that came apart from the text
asked          replies that a phase asked for, paid by it or found in the cache
failures       samples without a reply
failed_before  failures whose sample was asked for again; their cost stays in the ledger
sent           numbers of HTTP requests and retries
unanswered     requests whose usage the server has not reported, at their highest possible cost: in
               flight (no reason), timed out, cut off, or sent by a process that was killed
pruned         cost of replies that are no longer in `replies`: deleted by `prune`, or paid for at
               the same time as another run, whose reply was stored first
features       what servers do not take, learned from their refusals
salt           one random text that tells this file's requests from those of other files

A phase is identified by the columns run, round, phase. `batches` adds its own two tables.
"""

import sqlite3

VERSION = 5
LEARNED_DAYS = 30  # after which it is tried again whether a server takes a feature
APPLICATION = 0x64617465  # application_id in the file header; marks the file as ours

_FAILURE_COLUMNS = """(
  run text, round integer, phase text, key text, kind text, message text, attempts integer,
  tokens_in integer, tokens_out integer, dollars real, time text, status integer default 0,
  request_id text default '', tokens_cached integer default 0, tokens_reasoning integer default 0"""

STATEMENTS = (
  """create table if not exists replies(
  key text primary key, request text, sample integer, text text, finish text, model text,
  tokens_in integer, tokens_out integer, dollars real,
  run text, round integer, phase text, time text,
  tokens_cached integer default 0, tokens_reasoning integer default 0, thinking text default '')""",
  """create table if not exists asked(
  run text, round integer, phase text, key text,
  primary key (run, round, phase, key)) without rowid""",
  f"create table if not exists failures{_FAILURE_COLUMNS}, primary key (run, round, phase, key))",
  f"create table if not exists failed_before{_FAILURE_COLUMNS})",
  """create table if not exists sent(
  run text, round integer, phase text, requests integer, retries integer,
  primary key (run, round, phase))""",
  """create table if not exists pruned(
  run text, round integer, phase text, replies integer, tokens_in integer, tokens_cached integer,
  tokens_reasoning integer, tokens_out integer, dollars real,
  primary key (run, round, phase))""",
  """create table if not exists unanswered(
  id text primary key, run text, round integer, phase text, tokens_in integer, tokens_out integer,
  dollars real, reason text, time text)""",
  "create index if not exists replies_run on replies(run, round, phase)",
  "create index if not exists failed_before_run on failed_before(run, round, phase)",
)

# Columns that version 2 added to tables of version 1.
_ADDED_IN_2 = (
  ("replies", "tokens_cached integer default 0"),
  ("replies", "tokens_reasoning integer default 0"),
  ("failures", "status integer default 0"),
  ("failures", "request_id text default ''"),
  ("failures", "tokens_cached integer default 0"),
  ("failures", "tokens_reasoning integer default 0"),
)

# Tables whose column `stage` version 3 renamed to `phase`. A file may lack some of them.
_RENAMED_IN_3 = ("replies", "asked", "failures", "failed_before", "sent", "pruned", "batches")

# Column lists, in the order of the fields of types.Reply and types.Failure.
REPLY = (
  "text, finish, model, tokens_in, tokens_out, dollars, tokens_cached, tokens_reasoning, thinking"
)
FAILURE = (
  "kind, message, attempts, tokens_in, tokens_out, dollars, status, request_id, tokens_cached,"
  " tokens_reasoning"
)
COST = "tokens_in, tokens_cached, tokens_reasoning, tokens_out, dollars"

_SUMMED = ("replies", *COST.split(", "))
ADD_PRUNED = f"on conflict do update set {', '.join(f'{n} = {n} + excluded.{n}' for n in _SUMMED)}"


def salt(db: sqlite3.Connection) -> str:
  """Returns the salt of a file, within a transaction. The first call makes it."""
  db.execute("create table if not exists salt(text text)")
  db.execute("insert into salt select hex(randomblob(16)) where not exists (select * from salt)")
  return db.execute("select text from salt").fetchone()[0]


def features(db: sqlite3.Connection, server: str) -> dict[str, str]:
  """{feature: value} of a server, without those that were learned too long ago."""
  return {feature: value for name, feature, value, _ in all_features(db) if name == server}


def all_features(db: sqlite3.Connection) -> list[tuple[str, str, str, str]]:
  """(server, feature, value, time) of all features, without those learned too long ago."""
  if not db.execute("select 1 from sqlite_master where name = 'features'").fetchone():
    return []
  return db.execute(
    "select server, feature, value, time from features where time > datetime('now', ?)"
    " order by 1, 2",
    (f"-{LEARNED_DAYS} days",),
  ).fetchall()


def learn(db: sqlite3.Connection, server: str, feature: str, value: str) -> None:
  """Records a feature of a server, within a transaction. The first call makes the table."""
  db.execute(
    "create table if not exists features("
    "server text, feature text, value text, time text, primary key (server, feature))"
  )
  db.execute(
    "insert or replace into features values (?, ?, ?, datetime('now'))", (server, feature, value)
  )


def migrate(db: sqlite3.Connection, version: int) -> None:
  """Brings the tables from `version` (0 for an empty file) to VERSION, within a transaction."""
  if version == 1:
    for table, column in _ADDED_IN_2:
      db.execute(f"alter table {table} add column {column}")
  for table in _RENAMED_IN_3:
    columns = {row[1] for row in db.execute(f"pragma table_info({table})")}
    if "stage" in columns:
      db.execute(f"alter table {table} rename column stage to phase")
  columns = {row[1] for row in db.execute("pragma table_info(replies)")}
  if columns and "thinking" not in columns:
    db.execute("alter table replies add column thinking text default ''")
  for statement in STATEMENTS:
    db.execute(statement)
  db.execute(f"pragma application_id = {APPLICATION}")
  db.execute(f"pragma user_version = {VERSION}")
