"""A cache of log-probabilities in an SQLite file, which several runs may share.

Each row has a digest of its key and values, so that a damaged row is noticed instead of used.
"""

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Self

from distill_jax import disk, errors, together

LOCK_TIMEOUT = 60.0  # seconds to wait for another process that writes
KEYS_PER_QUERY = 500


class Scores:
  """A table {key: (chosen, rejected)} of log-probabilities in nats. Use as a context manager.

  Of several processes, process 0 alone opens the file.

  Every method raises UserError if the file is not such a table or cannot be written.
  """

  def __init__(self, path: str | os.PathLike[str]):
    self.path = str(path)

  def __enter__(self) -> Self:
    self._open()
    return self

  @together.on_first
  def _open(self) -> None:
    with self._report_errors(), contextlib.ExitStack() as on_failure:
      self._db = sqlite3.connect(self.path, timeout=LOCK_TIMEOUT, isolation_level=None)
      on_failure.callback(self._db.close)
      disk.prepare_sqlite(self._db, self.path)
      disk.select_journal(self._db, self.path)
      self._db.execute(
        "CREATE TABLE IF NOT EXISTS scores"
        " (key TEXT PRIMARY KEY, chosen REAL, rejected REAL, digest TEXT)"
      )
      self._add_digests()
      on_failure.pop_all()

  @together.only_first
  def __exit__(self, *_: object) -> None:
    self._db.close()

  def known(self, keys: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Returns the entries of those `keys` that are in the cache.

    Raises:
      UserError: One of them is damaged.
    """
    found = self._find(list(keys))
    return {key: (chosen, rejected) for key, (chosen, rejected) in found.items()}

  @together.on_first
  def _find(self, keys: list[str]) -> dict[str, tuple[float, float]]:
    entries: dict[str, tuple[float, float]] = {}
    with self._report_errors():
      for start in range(0, len(keys), KEYS_PER_QUERY):
        part = keys[start : start + KEYS_PER_QUERY]
        marks = ",".join("?" * len(part))
        rows = self._db.execute(
          f"SELECT key, chosen, rejected, digest FROM scores WHERE key IN ({marks})", part
        )
        for key, chosen, rejected, digest in rows:
          if digest != _digest(key, chosen, rejected):
            raise errors.data(
              f"{self.path}: the scores of pair {key!r} have changed since they were written;"
              " remove the file: they are computed again"
            )
          entries[key] = chosen, rejected
    return entries

  @together.on_first
  def add(self, scores: dict[str, tuple[float, float]]) -> None:
    """Stores entries; they are on disk when this returns. Existing entries are kept."""
    rows = [(key, *pair, _digest(key, *pair)) for key, pair in scores.items()]
    with self._report_errors():
      self._db.execute("BEGIN IMMEDIATE")
      self._db.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?)", rows)
      self._db.execute("COMMIT")

  def _add_digests(self) -> None:
    """Adds digests to a table of an older version."""
    if any(row[1] == "digest" for row in self._db.execute("PRAGMA table_info(scores)")):
      return
    self._db.create_function("score_digest", 3, _digest)
    self._db.execute("BEGIN IMMEDIATE")
    if not any(row[1] == "digest" for row in self._db.execute("PRAGMA table_info(scores)")):
      self._db.execute("ALTER TABLE scores ADD COLUMN digest TEXT")
      self._db.execute("UPDATE scores SET digest = score_digest(key, chosen, rejected)")
    self._db.execute("COMMIT")

  @contextlib.contextmanager
  def _report_errors(self) -> Iterator[None]:
    try:
      yield
    except sqlite3.Error as error:
      raise errors.data(
        f"{self.path}: {error}; fix this or free some space, or set config.pair.cache to another "
        "file"
      ) from None


def _digest(key: str, *values: float | None) -> str:
  """The digest of a row. SQLite stores NaN as null, and -0.0 as 0.0."""
  floats = [float("nan") if value is None else value + 0.0 for value in values]
  return hashlib.sha256(f"{key} {floats!r}".encode()).hexdigest()
