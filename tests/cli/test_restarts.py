"""Restarts by a launcher end when a run makes no progress; without a launcher they never do."""

import contextlib
import json
import pathlib
import sqlite3

import pytest

from distill_jax import errors
from distill_jax.cli import restarts
from distill_jax.machine import processes

PLACES = [None, *(processes.Place(2, index, "host:1") for index in (0, 1))]


class Lost(BaseException):
  """What nothing in the process hears of: it is killed."""


def start(path, ends=None, place=None) -> None:
  """A start that ends in a way; None: it succeeds."""
  with restarts.counted([f"--workdir={path}"], place):
    if ends is not None:
      raise ends


def lose(path, count: int, place=None) -> None:
  for _ in range(count):
    with pytest.raises(Lost):
      start(path, Lost(), place)


@pytest.fixture(autouse=True)
def three_tries(monkeypatch, tmp_path):
  monkeypatch.setenv(restarts.VARIABLE, "3")
  (tmp_path / "round_00").mkdir()


@pytest.mark.parametrize("place", PLACES)
def test_the_fourth_start_without_progress_is_refused_and_the_fifth_counts_anew(place, tmp_path):
  for _ in range(2):
    lose(tmp_path, 3, place)
    with pytest.raises(errors.UserError, match=r"stored nothing new \(3 were lost") as caught:
      start(tmp_path, place=place)
    assert caught.value.code == errors.DATA


def test_a_process_that_is_lost_to_the_others_is_counted(tmp_path):
  for _ in range(3):
    with pytest.raises(errors.UserError, match="is gone"):
      start(tmp_path, errors.LostError("process 1 is gone"))
  with pytest.raises(errors.UserError, match="stored nothing new"):
    start(tmp_path)


def replies(path: pathlib.Path) -> None:
  with contextlib.closing(sqlite3.connect(path)) as db, db:
    db.execute("create table if not exists replies(key)")
    db.execute("insert into replies values ('a')")


def test_whatever_a_restart_keeps_is_progress(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps({"teacher": {"cache": str(tmp_path / "s.db")}}))
  steps = [
    lambda: (tmp_path / "round_00/attempts.jsonl").write_text("{}\n"),
    lambda: (tmp_path / "round_00/attempts.jsonl").write_text("{}\n{}\n"),
    lambda: (tmp_path / "round_00/manifest.json").write_text("{}"),
    lambda: replies(tmp_path / "s.db"),
    lambda: replies(tmp_path / "s.db"),
  ]
  for step in steps:
    lose(tmp_path, 3)
    step()
  lose(tmp_path, 3)


def test_what_a_restart_drops_is_no_progress(tmp_path):
  for n in range(3):
    lose(tmp_path, 1)
    (tmp_path / "round_00/metrics.jsonl").write_text("{}\n" * n)
    (tmp_path / "seconds.json").write_text(str(n))
  with pytest.raises(errors.UserError, match="stored nothing new"):
    start(tmp_path)


@pytest.mark.parametrize("ends", [None, errors.data("full"), ValueError("a bug")])
def test_an_end_that_no_launcher_restarts_resets_the_count(ends, tmp_path):
  for _ in range(3):
    lose(tmp_path, 2)
    try:
      start(tmp_path, ends)
    except (errors.UserError, ValueError):
      pass
  assert not list(tmp_path.glob(".starts*"))


@pytest.mark.parametrize("ends", [KeyboardInterrupt(), errors.UserError("", errors.PREEMPTED)])
def test_an_interruption_is_allowed_more_often(ends, tmp_path):
  for _ in range(3 * restarts.INTERRUPTED):
    with pytest.raises(type(ends)):
      start(tmp_path, ends)
  with pytest.raises(errors.UserError, match="0 were lost or aborted and 30 interrupted"):
    start(tmp_path)


@pytest.mark.parametrize("tries", ["", "0"])
def test_without_a_launcher_nothing_is_counted_or_written(tries, tmp_path, monkeypatch):
  monkeypatch.setenv(restarts.VARIABLE, tries)
  lose(tmp_path / "new", 5)
  assert not (tmp_path / "new").exists()


def test_only_process_0_makes_the_run_directory(tmp_path):
  lose(tmp_path / "new", 5, PLACES[-1])
  assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"at": 1}', '{"at": "", "lost": "x"}'])
def test_a_damaged_count_starts_anew(content, tmp_path):
  (tmp_path / ".starts.0").write_text(content)
  lose(tmp_path, 3)


def test_a_number_is_wanted(tmp_path, monkeypatch):
  monkeypatch.setenv(restarts.VARIABLE, "many")
  with pytest.raises(errors.UserError, match="DISTILL_JAX_TRIES=many must be a number"):
    start(tmp_path)
