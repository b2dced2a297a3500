"""A deleted teacher cache is an error that says what is lost, and its replies are private."""

import os
import pathlib
import re
import stat

import pytest

from distill_jax import disk, errors
from distill_jax.teacher import types
from distill_jax.teacher.store import cache, marker

PHASE = cache.RunPhase("this run", 0, "0_demonstrate")
REPLY = types.Reply("four", "stop", "m", 1, 1, 0.5, cached=False)


@pytest.fixture
def used(tmp_path):
  """A run directory with a cache that holds one reply."""
  return use(tmp_path / "run", tmp_path / "run" / "teacher.sqlite")


def use(run: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
  store = cache.ReplyCache(path)
  store.store("{}", {(0, cache.key("{}", 0)): REPLY}, PHASE)
  marker.record(run, path)
  store.close()
  return run


def test_a_cache_that_is_there_passes_also_after_the_run_was_moved(used, tmp_path):
  marker.check(used, used / "teacher.sqlite")
  moved = used.rename(tmp_path / "moved")
  marker.check(moved, moved / "teacher.sqlite")
  marker.record(moved, moved / "teacher.sqlite")


def test_a_run_that_never_had_a_cache_passes(tmp_path):
  marker.check(tmp_path, tmp_path / "teacher.sqlite")


@pytest.mark.parametrize("lose", ["delete", "truncate"])
def test_a_deleted_cache_is_an_error_that_says_what_to_do(lose, used):
  path = used / "teacher.sqlite"
  path.unlink()
  if lose == "truncate":
    path.touch()
  with pytest.raises(
    errors.UserError, match=r"teacher\.sqlite is missing.*restore.*or remove"
  ) as e:
    marker.check(used, path)
  assert e.value.code == errors.DATA
  (used / marker.MARKER).unlink()  # what the message says
  marker.check(used, path)


def test_a_deleted_shared_cache_is_an_error(tmp_path):
  run = use(tmp_path / "run", tmp_path / "shared.sqlite")
  (tmp_path / "shared.sqlite").unlink()
  with pytest.raises(errors.UserError, match=r"shared\.sqlite is missing"):
    marker.check(run, tmp_path / "shared.sqlite")


def test_a_new_cache_in_place_of_the_old_one_is_an_error(used):
  path = used / "teacher.sqlite"
  path.unlink()
  cache.ReplyCache(path).close()
  with pytest.raises(errors.UserError, match=r"is not the file that .* stored its replies in"):
    marker.record(used, path)


def test_the_same_cache_may_have_another_path_and_no_other_cache_takes_its_place(used, tmp_path):
  moved = (used / "teacher.sqlite").rename(tmp_path / "moved.sqlite")
  marker.check(used, moved)
  marker.record(used, moved)
  assert marker.recorded(used) == moved
  cache.ReplyCache(tmp_path / "other.sqlite").close()
  with pytest.raises(errors.UserError, match=r"is not the file that .* stored its replies in"):
    marker.record(used, tmp_path / "other.sqlite")
  moved.unlink()
  with pytest.raises(errors.UserError, match=r"moved\.sqlite is missing"):
    marker.check(used, moved)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"cache": ""}', b"[" * 100_000])
def test_a_damaged_marker_is_one_line(content, used):
  (used / marker.MARKER).write_bytes(content)
  with pytest.raises(errors.UserError, match="is damaged"):
    marker.check(used, used / "teacher.sqlite")


@pytest.mark.parametrize("replaced", [False, True])
def test_a_cache_deleted_during_a_run_is_saved_and_reported(replaced, tmp_path):
  path = tmp_path / "teacher.sqlite"
  store = cache.ReplyCache(path)
  store.store("{}", {(0, cache.key("{}", 0)): REPLY}, PHASE)
  for file in tmp_path.glob("teacher.sqlite*"):
    file.unlink()
  if replaced:
    cache.ReplyCache(path).close()
  for sample in (1, 2):  # replies that were in flight are saved, too
    with pytest.raises(errors.UserError, match="removed or replaced") as error:
      store.store("{}", {(sample, cache.key("{}", sample)): REPLY}, PHASE)
  store.close()
  saved = re.search(r"saved in (\S+):", str(error.value))[1]
  assert stat.S_IMODE(os.stat(saved).st_mode) == 0o600
  os.replace(saved, path)
  store = cache.ReplyCache(path)
  assert [store.get(cache.key("{}", n), PHASE).text for n in range(3)] == ["four"] * 3
  store.close()


def test_replies_can_be_read_by_their_owner_only(used):
  store = cache.ReplyCache(used / "teacher.sqlite")
  store.store("{}", {(1, cache.key("{}", 1)): REPLY}, PHASE)
  files = list(used.iterdir())
  assert {f.name for f in files} > {"teacher.sqlite", "teacher.sqlite-wal"}
  assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}
  assert stat.S_IMODE(used.stat().st_mode) == 0o700
  store.close()


def test_a_cache_on_a_network_file_system_is_not_in_wal_mode(used, monkeypatch):
  monkeypatch.setattr(disk, "file_system", lambda path: "nfs4")
  path = used / "teacher.sqlite"
  store, other = cache.ReplyCache(path), cache.ReplyCache(path)
  assert store.query("pragma journal_mode") == [("truncate",)]
  for sample, writer in ((1, store), (2, other), (3, store)):
    writer.store("{}", {(sample, cache.key("{}", sample)): REPLY}, PHASE)
  assert store.query("select count(*) from replies") == [(4,)]
  assert not list(used.glob("*-wal")) + list(used.glob("*-shm"))
  store.close()
  other.close()
