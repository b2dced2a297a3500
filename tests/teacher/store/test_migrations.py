"""Migration of a teacher cache that an older version wrote: all of it, or not at all."""

import concurrent.futures
import contextlib
import sqlite3
import subprocess
import sys

import pytest

from distill_jax import errors
from distill_jax.teacher import types
from distill_jax.teacher.store import batches, cache, tables

HERE = cache.RunPhase("this run", 0, "s")

VERSION_1 = """
create table replies(
  key text primary key, request text, sample integer, text text, finish text, model text,
  tokens_in integer, tokens_out integer, dollars real,
  run text, round integer, stage text, time text);
create table asked(
  run text, round integer, stage text, key text,
  primary key (run, round, stage, key)) without rowid;
create table failures(
  run text, round integer, stage text, key text, kind text, message text, attempts integer,
  tokens_in integer, tokens_out integer, dollars real, time text,
  primary key (run, round, stage, key));
create table sent(
  run text, round integer, stage text, requests integer, retries integer,
  primary key (run, round, stage));
insert into replies values ('k', '{}', 0, 'text', 'stop', 'm', 3, 4, 0.5, 'this run', 0, 's', 't');
insert into asked values ('this run', 0, 's', 'k');
insert into failures values ('this run', 0, 's', 'f', 'length', 'cut', 2, 5, 6, 0.25, 't');
insert into sent values ('this run', 0, 's', 7, 2);
pragma user_version = 1;
"""  # as version 1 wrote it

FAILURE_COLUMNS_2 = """(
  run text, round integer, stage text, key text, kind text, message text, attempts integer,
  tokens_in integer, tokens_out integer, dollars real, time text, status integer default 0,
  request_id text default '', tokens_cached integer default 0, tokens_reasoning integer default 0"""

VERSION_2 = f"""
create table replies(
  key text primary key, request text, sample integer, text text, finish text, model text,
  tokens_in integer, tokens_out integer, dollars real,
  run text, round integer, stage text, time text,
  tokens_cached integer default 0, tokens_reasoning integer default 0);
create table asked(
  run text, round integer, stage text, key text,
  primary key (run, round, stage, key)) without rowid;
create table failures{FAILURE_COLUMNS_2}, primary key (run, round, stage, key));
create table failed_before{FAILURE_COLUMNS_2});
create table sent(
  run text, round integer, stage text, requests integer, retries integer,
  primary key (run, round, stage));
create table pruned(
  run text, round integer, stage text, replies integer, tokens_in integer, tokens_cached integer,
  tokens_reasoning integer, tokens_out integer, dollars real,
  primary key (run, round, stage));
create index replies_run on replies(run, round, stage);
create index failed_before_run on failed_before(run, round, stage);
create table salt(text text);
create table batches(
  name text primary key, id text, file text, server text, run text, round integer, stage text,
  samples integer, dollars real, state text, tried real, time text);
create table batch_lines(
  batch text, line text, request text, keys text, most integer,
  primary key (batch, line)) without rowid;
insert into replies values
  ('k', '{{}}', 0, 'text', 'stop', 'm', 3, 4, 0.5, 'this run', 0, 's', 't', 2, 1);
insert into asked values ('this run', 0, 's', 'k'), ('this run', 1, 's', 'k');
insert into failures values
  ('this run', 0, 's', 'f', 'length', 'cut', 2, 5, 6, 0.25, 't', 200, 'req-1', 3, 2);
insert into failed_before values
  ('this run', 0, 's', 'f', 'refusal', 'no', 1, 5, 6, 0.125, 't', 200, 'req-0', 0, 0);
insert into sent values ('this run', 0, 's', 7, 2);
insert into pruned values ('this run', 0, 's', 2, 10, 0, 0, 20, 1.0);
insert into salt values ('SALT');
insert into batches values
  ('distill-1', 'b-1', 'f-1', 'server', 'this run', 0, 's', 2, 0.5, 'sent', 9.5, 't');
insert into batch_lines values ('distill-1', 'x', '{{}}', '{{"0": "x", "1": "y"}}', 100);
pragma application_id = {0x64617465};
pragma user_version = 2;
"""  # as version 2 wrote it


def write_old(path, script):
  """Makes a file as an older version left it."""
  with contextlib.closing(sqlite3.connect(path)) as db:
    db.executescript(script)


def all_rows(path):
  """{table: its rows} of a cache file, as SQLite has them, without their digests."""
  own = {name: [column for column, _ in found] for name, found in columns(path).items()}
  with contextlib.closing(sqlite3.connect(path)) as db:
    return {
      name: sorted(
        map(repr, db.execute(f"select {', '.join(c for c in found if c != 'digest')} from {name}"))
      )
      for name, found in own.items()
    }


def columns(path):
  """{table: its columns, in order}."""
  with contextlib.closing(sqlite3.connect(path)) as db:
    names = [row[0] for row in db.execute("select name from sqlite_master where type = 'table'")]
    return {
      name: [row[1:3] for row in db.execute(f"pragma table_info({name})")] for name in sorted(names)
    }


def test_a_file_of_version_1_is_migrated_with_nothing_lost(tmp_path):
  write_old(tmp_path / "teacher.sqlite", VERSION_1)
  for _ in range(2):
    made = cache.ReplyCache(tmp_path / "teacher.sqlite")
    assert made.get("k", HERE) == types.Reply("text", "stop", "m", 3, 4, 0.5, False)
    assert made.failure("f", HERE) == types.Failure("length", "cut", 2, 5, 6, 0.25)
    totals = made.totals("this run")
    assert (totals.calls, totals.failures, totals.retries, totals.dollars) == (1, 1, 2, 0.75)
    assert made.requests_sent("this run") == 7
    made.close()


def test_a_file_of_version_2_is_migrated_with_nothing_lost(tmp_path):
  path = tmp_path / "teacher.sqlite"
  write_old(path, VERSION_2)
  before = all_rows(path)
  for _ in range(2):
    made = cache.ReplyCache(path)
    reply = types.Reply("text", "stop", "m", 3, 4, 0.5, False, 2, 1)
    assert made.get("k", HERE) == reply
    cut = types.Failure("length", "cut", 2, 5, 6, 0.25, 200, "req-1", 3, 2)
    assert made.failure("f", HERE) == cut
    assert made.failed_before(HERE) == {
      "f": [types.Failure("refusal", "no", 1, 5, 6, 0.125, 200, "req-0")]
    }
    totals = made.totals("this run", 0, "s")
    assert (totals.calls, totals.failures, totals.retries) == (3, 1, 2)
    assert (totals.dollars, totals.tokens_in, totals.tokens_cached) == (1.875, 23, 5)
    assert made.totals("this run", 1, "s").cache_hits == 1
    assert made.requests_sent("this run") == 7 and made.salt() == "SALT"
    with contextlib.closing(batches.BatchRegistry(path, "server")) as registry:
      pending = batches.PendingBatch("distill-1", "b-1", "f-1", HERE, 2, 0.5, 9.5)
      assert registry.pending() == [pending]
      assert registry.claimed() == {"x": "distill-1", "y": "distill-1"}
    made.close()
  after = all_rows(path)
  after["replies"] = [row.replace(", '')", ")") for row in after["replies"]]  # the new thinking
  assert after == {**before, "unanswered": []}
  with contextlib.closing(sqlite3.connect(path)) as db:
    assert db.execute("pragma user_version").fetchone() == (tables.VERSION,)


@pytest.mark.parametrize("script", [VERSION_1, VERSION_2], ids=["1", "2"])
def test_a_migrated_file_has_the_columns_of_a_new_one(tmp_path, script):
  write_old(tmp_path / "old.sqlite", script)
  for name in ("old.sqlite", "new.sqlite"):
    with contextlib.closing(cache.ReplyCache(tmp_path / name)) as made:
      made.salt()
      batches.BatchRegistry(made.path, "server").close()
  old, new = columns(tmp_path / "old.sqlite"), columns(tmp_path / "new.sqlite")
  assert {table: set(names) for table, names in old.items()} == {
    table: set(names) for table, names in new.items()
  }
  assert not any(name == "stage" for names in old.values() for name, _ in names)


@pytest.mark.parametrize("script", [VERSION_1, VERSION_2], ids=["1", "2"])
def test_processes_that_open_an_old_file_at_once_all_can(tmp_path, script):
  path = tmp_path / "teacher.sqlite"
  write_old(path, script)
  command = [sys.executable, "-c", OPEN, str(path)]
  children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    for made in pool.map(lambda _: cache.ReplyCache(path), range(16)):
      assert made.get("k", HERE).text == "text"
      made.close()
  assert [child.communicate()[0] for child in children] == ["text\n"] * 3


OPEN = """
import sys
from distill_jax.teacher.store import cache
store = cache.ReplyCache(sys.argv[1])
print(store.get("k", cache.RunPhase("this run", 0, "s")).text)
"""


def test_a_migration_that_fails_midway_leaves_the_file_as_it_was(tmp_path, monkeypatch):
  path = tmp_path / "teacher.sqlite"
  write_old(path, VERSION_2)
  before, names = all_rows(path), columns(path)
  monkeypatch.setattr(tables, "STATEMENTS", (*tables.STATEMENTS, "create table is an error"))
  with pytest.raises(errors.UserError, match="cannot be used"):
    cache.ReplyCache(path)
  assert all_rows(path) == before and columns(path) == names
  monkeypatch.undo()
  with contextlib.closing(cache.ReplyCache(path)) as made:
    assert made.get("k", HERE).text == "text"


def test_an_old_read_only_file_is_rejected(tmp_path, monkeypatch):
  path = tmp_path / "teacher.sqlite"
  write_old(path, VERSION_2)
  before = path.read_bytes()
  connect = sqlite3.connect
  monkeypatch.setattr(
    cache.sqlite3, "connect", lambda p, **more: connect(f"file:{p}?mode=ro", uri=True, **more)
  )
  with pytest.raises(errors.UserError, match=r"cannot be used .*readonly"):
    cache.ReplyCache(path)
  assert path.read_bytes() == before
