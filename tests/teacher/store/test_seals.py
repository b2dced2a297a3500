"""A damaged row of the teacher cache is noticed, instead of used."""

import contextlib
import sqlite3

import pytest

from distill_jax import errors
from distill_jax.teacher import types
from distill_jax.teacher.store import cache

HERE = cache.RunPhase("this run", 0, "s")


def reply(text):
  return types.Reply(text, "stop", "m", 3, 4, 0.5, False)


def content(path) -> tuple:
  """Returns all that a phase reads from a cache."""
  with contextlib.closing(cache.ReplyCache(path)) as store:
    found = store.lookup(["k", "l", "f", "lost"], HERE)
    sent = store.requests_sent(HERE.run)
    spent = store.totals(HERE.run), store.unanswered(HERE.run)
    return found, spent, store.failed_before(HERE), sent


def filled(path) -> None:
  """Writes a cache with rows in every table."""
  with contextlib.closing(cache.ReplyCache(path)) as store:
    there = cache.RunPhase("this run", 1, "s")
    store.record_asked(["k", "l", "lost"], HERE)
    store.record_asked(["k"], there)
    store.record_sent(HERE, 3, 1)
    store.account(HERE, [cache.Reservation("a1", 3, 2, 0.5)])
    store.store("{}", {(0, "f"): types.Failure("refusal", "no", 1)}, HERE)
    store.store("{}", {(0, "k"): reply("lone \ud800 \0"), (1, "l"): reply("other")}, HERE)
    store.store("{}", {(0, "k"): reply("late")}, there)
    store.store("{}", {(0, "f"): types.Failure("refusal", "still", 2)}, HERE)


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.heavy)])
def test_a_changed_byte_is_noticed_or_has_no_effect(tmp_path, step):
  path = tmp_path / "teacher.sqlite"
  filled(path)
  intact, whole = content(path), path.read_bytes()
  assert intact[0].keys() == {"k", "l", "f"} and intact[2]["f"] and intact[3] == 4
  noticed = 0
  used = [n for n, byte in enumerate(whole) if byte or n % 256 == 0]
  for position in used[::step]:
    changed = whole[position] ^ (1 if position % 2 else 32)
    path.write_bytes(whole[:position] + bytes([changed]) + whole[position + 1 :])
    for suffix in ("-wal", "-shm"):
      path.with_name(path.name + suffix).unlink(missing_ok=True)
    try:
      read = content(path)
    except errors.UserError as error:
      assert str(path) in str(error) and "\n" not in str(error)
      noticed += 1
    else:
      assert read == intact, position
  assert noticed > len(used) / step / 2


def test_a_row_changed_by_hand_is_named_and_can_be_removed(tmp_path):
  path = tmp_path / "teacher.sqlite"
  filled(path)
  for table, change in (
    ("replies", "text = 'mine' where key = 'l'"), ("failures", "dollars = 9"),
    ("failed_before", "message = ''"), ("sent", "requests = 0"), ("pruned", "dollars = 0"),
    ("asked", "key = 'x' where key = 'lost'"),
  ):  # fmt: skip
    with contextlib.closing(sqlite3.connect(path)) as db, db:
      db.execute(f"update {table} set {change}")
    with pytest.raises(errors.UserError, match=f'a row of {table} where.*"delete from') as error:
      cache.ReplyCache(path)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
      assert db.execute(str(error.value).split('"')[1]).rowcount == 1
    content(path)


def test_rows_of_an_older_version_get_digests(tmp_path):
  path = tmp_path / "teacher.sqlite"
  filled(path)
  intact = content(path)
  with contextlib.closing(sqlite3.connect(path)) as db, db:
    db.execute("update replies set digest = null where key = 'k'")
    db.execute("alter table asked drop column digest")
  assert content(path) == intact
  with contextlib.closing(sqlite3.connect(path)) as db, db:
    db.execute("update replies set text = 'mine' where key = 'k'")
  with pytest.raises(errors.UserError, match="a row of replies where rowid = "):
    cache.ReplyCache(path)
