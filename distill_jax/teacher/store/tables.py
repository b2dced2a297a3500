"""The tables of the cache file, and how those of an older version come up to this one.

replies        a row for each: request (JSON), text, finish, model, tokens, dollars, who paid, when
asked          which replies a round and phase of a run asked for
failures       samples without a reply, by round and phase of a run
failed_before  failures that were asked again since; what they cost stays in the ledger
sent           HTTP requests and retries, by round and phase of a run
pruned         what replies had cost that are not here, by round and phase of a run: thrown away, or
               another run, which asked for the same at the same time, had one first
salt           one random text: what tells this file's requests from those of other files
"""

VERSION = 3
APPLICATION = 0x64617465  # in the file's header, so that no other program's file is taken for ours

_FAILURE_COLUMNS = """(
  run text, round integer, phase text, key text, kind text, message text, attempts integer,
  tokens_in integer, tokens_out integer, dollars real, time text, status integer default 0,
  request_id text default '', tokens_cached integer default 0, tokens_reasoning integer default 0"""

TABLES = (
  """create table if not exists replies(
  key text primary key, request text, sample integer, text text, finish text, model text,
  tokens_in integer, tokens_out integer, dollars real,
  run text, round integer, phase text, time text,
  tokens_cached integer default 0, tokens_reasoning integer default 0)""",
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
  "create index if not exists replies_run on replies(run, round, phase)",
  "create index if not exists failed_before_run on failed_before(run, round, phase)",
)

# Columns that version 2 added.
SINCE_2 = (
  ("replies", "tokens_cached integer default 0"),
  ("replies", "tokens_reasoning integer default 0"),
  ("failures", "status integer default 0"),
  ("failures", "request_id text default ''"),
  ("failures", "tokens_cached integer default 0"),
  ("failures", "tokens_reasoning integer default 0"),
)

# Version 3 renamed the column `stage` of these tables to `phase`. A file may lack some of them.
WITH_PHASE = ("replies", "asked", "failures", "failed_before", "sent", "pruned", "batches")

REPLY = "text, finish, model, tokens_in, tokens_out, dollars, tokens_cached, tokens_reasoning"
SPENT = "tokens_in, tokens_cached, tokens_reasoning, tokens_out, dollars"
FAILURE = (
  "kind, message, attempts, tokens_in, tokens_out, dollars, status, request_id, tokens_cached,"
  " tokens_reasoning"
)

_SUMS = ("replies", *SPENT.split(", "))
ADD_PRUNED = f"on conflict do update set {', '.join(f'{n} = {n} + excluded.{n}' for n in _SUMS)}"
