"""A file system that cannot hold run directories is found, and nothing is left on it."""

import errno
import fcntl
import os

import pytest

from distill_jax import disk, errors
from distill_jax.cli import main as commands
from distill_jax.run_dir import trial


def fails(*_, **__):
  raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))


@pytest.mark.parametrize("kind", ["ext4", "nfs4"])
def test_a_good_file_system_has_no_faults_and_keeps_nothing(kind, tmp_path, monkeypatch):
  monkeypatch.setattr(disk, "file_system", lambda path: kind)
  assert trial.faults(tmp_path) == []
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ("module", "name", "replacement", "fault"),
  [
    (fcntl, "flock", lambda *_: None, "locks have no effect"),
    (fcntl, "flock", fails, "lock fails: Operation not supported"),
    (os, "replace", lambda *_: None, "a renamed file does not replace the old one"),
    (os, "replace", fails, "replace fails"),
    (os, "fsync", fails, "append fails"),
    (disk, "read_bytes", lambda path: b"two\n", "appended lines are lost"),
    (trial.tempfile, "mkdtemp", fails, "files cannot be created and removed"),
  ],
)
def test_what_a_file_system_does_not_do_is_named(
  module, name, replacement, fault, tmp_path, monkeypatch
):
  monkeypatch.setattr(module, name, replacement)
  assert any(fault in text for text in trial.faults(tmp_path))
  assert list(tmp_path.iterdir()) == []


def test_sqlite_without_locks_is_found(tmp_path, monkeypatch):
  connect = trial.sqlite3.connect

  def without_locks(file, **options):
    return connect(f"file:{file}?nolock=1", uri=True, **options)

  monkeypatch.setattr(trial.sqlite3, "connect", without_locks)
  assert any("SQLite's locks have no effect" in text for text in trial.faults(tmp_path))


@pytest.mark.parametrize(
  ("kind", "text"),
  [
    ("ext4", "ext4, local"),
    ("", "unknown, local"),
    ("nfs4", "nfs4, shared by hosts"),
    ("lustre", "lustre, shared by hosts"),
    ("fuse.gcsfuse", "a bucket: not for runs on several hosts"),
    ("fuse.s3fs", "a bucket"),
  ],
)
def test_the_kind_of_the_file_system_is_described(kind, text, monkeypatch):
  monkeypatch.setattr(disk, "file_system", lambda path: kind)
  assert text in trial.describe("/x")


def test_the_doctor_reports_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
  words = ["doctor", f"--workdir={tmp_path / 'not' / 'there'}"]
  assert commands.main(words) == 0
  assert "file system      " in capsys.readouterr().out
  monkeypatch.setattr(fcntl, "flock", lambda *_: None)
  assert commands.main(words) == errors.CONFIG
  assert "locks have no effect" in capsys.readouterr().out
  assert list(tmp_path.iterdir()) == []
