"""Only regular files are read, new files and directories are private, network disks are known."""

import os
import pathlib
import socket
import sqlite3
import stat
import time

import pytest

from distill_jax import disk

MOUNTS = r"""22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /home rw shared:1 master:2 - nfs4 server:/home rw,vers=4.2
31 30 0:41 / /home/local rw - xfs /dev/sdb rw
32 22 0:42 / /mnt/with\040space rw - fuse.sshfs host: rw
33 22 0:43 / /bad
34 22 0:44 / /scratch rw - lustre fs rw
35 22 0:45 / /scratch rw - tmpfs tmpfs rw
36 22 0:46 / /usb rw - fuseblk /dev/sdc rw
"""


def mode(path) -> int:
  return stat.S_IMODE(os.stat(path).st_mode)


@pytest.fixture
def special(tmp_path):
  os.mkfifo(tmp_path / "fifo")
  with socket.socket(socket.AF_UNIX) as bound:
    bound.bind(str(tmp_path / "socket"))
    yield {"FIFO": tmp_path / "fifo", "socket": tmp_path / "socket", "device": "/dev/zero"}


@pytest.mark.parametrize("kind", ["FIFO", "socket", "device"])
def test_what_is_no_regular_file_is_not_read(kind, special):
  start = time.monotonic()
  for read in (disk.read_bytes, disk.read_text, disk.open_regular):
    with pytest.raises(OSError, match=f"is a {kind}, not a regular file"):
      read(special[kind])
  assert time.monotonic() - start < 1


def test_a_link_to_a_regular_file_is_read(tmp_path):
  (tmp_path / "a").write_bytes(b"\xc3\xa4\r\n")
  (tmp_path / "b").symlink_to(tmp_path / "a")
  assert disk.read_bytes(tmp_path / "b") == b"\xc3\xa4\r\n"
  assert disk.read_text(tmp_path / "b") == "\u00e4\n"
  with pytest.raises(IsADirectoryError):
    disk.read_bytes(tmp_path)
  with pytest.raises(FileNotFoundError):
    disk.read_bytes(tmp_path / "c")


def test_new_directories_are_private_and_existing_ones_keep_their_mode(tmp_path):
  (tmp_path / "open").mkdir(mode=0o755)
  disk.make_private_dirs(tmp_path / "open" / "a" / "b")
  disk.make_private_dirs(tmp_path / "open")
  assert mode(tmp_path / "open") == 0o755
  assert mode(tmp_path / "open" / "a") == mode(tmp_path / "open" / "a" / "b") == 0o700
  (tmp_path / "file").touch()
  for path in (tmp_path / "file", tmp_path / "file" / "b"):
    with pytest.raises(OSError, match=r"not a directory|Not a directory"):
      disk.make_private_dirs(path)


def test_new_files_are_private_and_existing_ones_keep_their_mode(tmp_path):
  disk.create_private(tmp_path / "new")
  (tmp_path / "old").write_text("kept")
  (tmp_path / "old").chmod(0o640)
  disk.create_private(tmp_path / "old")
  assert mode(tmp_path / "new") == 0o600 and mode(tmp_path / "old") == 0o640
  assert (tmp_path / "old").read_text() == "kept"


def test_an_impossible_directory_is_found_without_creating_it(tmp_path):
  (tmp_path / "file").touch()
  disk.check_can_be_dir(tmp_path / "a" / "b")
  disk.check_can_be_dir(tmp_path)
  for impossible in (tmp_path / "file", tmp_path / "file" / "a", tmp_path / ("a" * 300) / "b"):
    with pytest.raises(OSError):
      disk.check_can_be_dir(impossible)
  with pytest.raises(OSError):
    disk.check_can_be_dir(tmp_path / "not there" / ("\u00e4" * 200))
  assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize(
  ("path", "kind", "network"),
  [
    ("/home/me/runs", "nfs4", True),
    ("/home/local/runs", "xfs", False),
    ("/homework", "ext4", False),
    ("/mnt/with space/x", "fuse.sshfs", True),
    ("/scratch/x", "tmpfs", False),  # the last mount hides the first
    ("/usb/x", "fuseblk", False),
    ("/", "ext4", False),
  ],
)
def test_the_file_system_of_a_path_is_that_of_its_closest_mount(
  path, kind, network, tmp_path, monkeypatch
):
  (tmp_path / "mounts").write_text(MOUNTS)
  monkeypatch.setattr(disk, "MOUNTS", str(tmp_path / "mounts"))
  assert disk.file_system(path) == kind
  assert disk.is_network(path) is network


@pytest.mark.parametrize(
  "kind",
  "nfs nfs4 cifs smb3 smbfs fuse fuse.sshfs fuse.glusterfs lustre gpfs 9p ceph beegfs".split(),
)
def test_network_file_systems_are_known(kind, monkeypatch):
  monkeypatch.setattr(disk, "file_system", lambda path: kind)
  assert disk.is_network("/x")


@pytest.mark.parametrize("kind", ["", "ext4", "xfs", "btrfs", "zfs", "overlay", "apfs", "tmpfs"])
def test_unknown_file_systems_are_local(kind, monkeypatch):
  monkeypatch.setattr(disk, "file_system", lambda path: kind)
  assert not disk.is_network("/x")


def test_a_system_without_a_list_of_mounts_is_local(monkeypatch):
  monkeypatch.setattr(disk, "MOUNTS", "/nonexistent")
  assert disk.file_system("/") == "" and not disk.is_network("/")


def journal(path: pathlib.Path) -> str:
  db = sqlite3.connect(path, isolation_level=None)
  disk.prepare_sqlite(db, path)
  disk.select_journal(db, path)
  db.execute("create table if not exists t(x)")
  db.execute("insert into t values (1)")
  selected = db.execute("pragma journal_mode").fetchone()[0]
  other = sqlite3.connect(path, timeout=0.1)  # no lock is left
  assert other.execute("select count(*) from t").fetchone()[0] > 0
  other.close()
  db.close()
  return selected


def test_a_file_is_in_wal_mode_only_on_a_local_file_system(tmp_path, monkeypatch):
  assert journal(tmp_path / "a") == "wal"
  monkeypatch.setattr(disk, "file_system", lambda path: "nfs4")
  assert journal(tmp_path / "b") == "truncate"
  assert journal(tmp_path / "a") == "truncate"  # a file that was moved to a network file system
