"""What a run has stored so far, as one digest: two equal ones mean that nothing was added."""

import contextlib
import json
import pathlib
import sqlite3

from distill_jax import disk
from distill_jax.run_dir import digests

# Files that only grow while a run makes progress. Not metrics.jsonl: a resumed training goes back
# to its last checkpoint, which has a manifest.
KEPT = ("config.json", "manifest.json", "*.jsonl")
METRICS = "metrics.jsonl"
ROWS = {"teacher.sqlite": "replies", "references.sqlite": "scores"}  # database -> table


def digest(path: disk.Path) -> str:
  """Returns a digest of the records, checkpoints and replies in a run directory.

  Nothing is written. What cannot be read counts as missing.
  """
  root = pathlib.Path(path)
  files = {f.relative_to(root).as_posix(): f for pattern in KEPT for f in root.rglob(pattern)}
  sizes = {name: _size(file) for name, file in files.items() if file.name != METRICS}
  databases = {name: root / name for name in ROWS} | _shared_cache(root)
  rows = {name: _rows(file, ROWS[name]) for name, file in databases.items()}
  return digests.of_text(json.dumps([sizes, rows], sort_keys=True))


def _size(file: pathlib.Path) -> int:
  try:
    return file.stat().st_size
  except OSError:
    return 0


def _shared_cache(root: pathlib.Path) -> dict[str, pathlib.Path]:
  """The teacher's cache if it is outside the run directory."""
  try:
    shared = json.loads(disk.read_bytes(root / "config.json"))["teacher"]["cache"]
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return {}
  return {"teacher.sqlite": pathlib.Path(shared)} if shared else {}


def _rows(file: pathlib.Path, table: str) -> int:
  """The number of rows of a table."""
  if not file.is_file():
    return 0
  with contextlib.suppress(sqlite3.Error):
    address = f"{file.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, uri=True, timeout=5.0)) as db:
      return db.execute(f"select count(*) from {table}").fetchone()[0]
  return 0
