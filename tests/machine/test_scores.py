"""Log-probabilities that were computed once are found again, by this process and by others."""

import contextlib
import multiprocessing
import sqlite3

import pytest

from distill_jax import errors
from distill_jax.machine import scores

MANY = {f"key {n}": (-n / 7, -1e-300 * n) for n in range(3 * scores.KEYS_PER_QUERY // 2)}


def test_added_entries_are_found_again_bit_for_bit(tmp_path):
  with scores.Scores(tmp_path / "s.sqlite") as store:
    assert store.known(MANY) == {}
    store.add(MANY)
    assert store.known(MANY) == MANY
  with scores.Scores(tmp_path / "s.sqlite") as store:
    assert store.known([*MANY, "another"]) == MANY
    assert store.known(["key 3", "no key"]) == {"key 3": MANY["key 3"]}
    assert store.known([]) == {}


def test_the_first_entry_is_kept(tmp_path):
  with scores.Scores(tmp_path / "s.sqlite") as store:
    store.add({"a": (1.0, 2.0)})
    store.add({"a": (3.0, 4.0), "b": (5.0, 6.0)})
    assert store.known("ab") == {"a": (1.0, 2.0), "b": (5.0, 6.0)}


def write(path, number):
  with scores.Scores(path) as store:
    for n in range(20):
      store.add({f"{number} {n}": (number, n), f"shared {n}": (0.0, n)})


def test_several_processes_may_share_a_file(tmp_path):
  path, context = tmp_path / "s.sqlite", multiprocessing.get_context("spawn")
  writers = [context.Process(target=write, args=(path, number)) for number in range(3)]
  for w in writers:
    w.start()
  for w in writers:
    w.join()
  assert [w.exitcode for w in writers] == [0, 0, 0]
  with scores.Scores(path) as store:
    keys = [f"{who} {n}" for who in (0, 1, 2, "shared") for n in range(20)]
    assert len(store.known(keys)) == 80


def test_entries_of_another_process_are_visible_while_both_are_open(tmp_path):
  with scores.Scores(tmp_path / "s") as one, scores.Scores(tmp_path / "s") as other:
    one.add({"a": (1.0, 2.0)})
    assert other.known("a") == {"a": (1.0, 2.0)}


def broken(path):
  path.write_bytes(b"not a database, but long enough to look like one" * 100)


def torn(path):
  with scores.Scores(path) as store:
    store.add(MANY)
  path.write_bytes(path.read_bytes()[:5000])


def another(path):
  base = sqlite3.connect(path)
  base.execute("CREATE TABLE scores (question TEXT)")
  base.close()


def directory(path):
  path.mkdir()


@pytest.mark.parametrize("spoil", [broken, torn, another, directory])
def test_an_invalid_file_is_rejected_with_its_name_and_the_setting(tmp_path, spoil):
  path = tmp_path / "s.sqlite"
  spoil(path)
  with pytest.raises(errors.UserError) as caught, scores.Scores(path) as store:
    store.known(MANY)
    store.add({"new": (1.0, 2.0)})
  assert caught.value.code == errors.DATA
  assert str(path) in str(caught.value) and "config.pair.cache" in str(caught.value)


def test_a_changed_byte_is_noticed_or_has_no_effect(tmp_path):
  path, entries = tmp_path / "s.sqlite", {"a": (-1.5, -2.5), "b": (-3.25, -4.0)}
  with scores.Scores(path) as store:
    store.add(entries)
  content, noticed = path.read_bytes(), 0
  for position in [n for n, byte in enumerate(content) if byte][::3]:
    path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
    try:
      with scores.Scores(path) as store:
        known = store.known("ab")
    except errors.UserError as error:
      assert str(path) in str(error)
      noticed += 1
    else:
      assert known.items() <= entries.items()
  assert noticed > 40


def test_an_older_file_gets_digests(tmp_path):
  path = tmp_path / "s.sqlite"
  with contextlib.closing(sqlite3.connect(path)) as db, db:
    db.execute("CREATE TABLE scores (key TEXT PRIMARY KEY, chosen REAL, rejected REAL)")
    db.execute("INSERT INTO scores VALUES ('a', -1.5, -2)")
  for _ in range(2):
    with scores.Scores(path) as store:
      assert store.known("a") == {"a": (-1.5, -2.0)}
  with contextlib.closing(sqlite3.connect(path)) as db, db:
    db.execute("UPDATE scores SET chosen = -1.25")
  with scores.Scores(path) as store, pytest.raises(errors.UserError, match="pair 'a' have changed"):
    store.known("a")


def test_a_missing_directory_is_rejected_with_the_setting(tmp_path):
  with pytest.raises(errors.UserError, match=r"nowhere.*config\.pair\.cache"):
    scores.Scores(tmp_path / "nowhere" / "s.sqlite").__enter__()
