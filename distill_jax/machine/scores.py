"""Log-probabilities that were computed once, in an SQLite file that several runs may share."""

import contextlib
import sqlite3

from distill_jax import errors

WAIT = 60.0  # seconds for another process that writes
MANY = 500  # keys of one query


class Scores:
  """{key: (chosen, rejected)}, nats. Use as a context. Raises UserError if the file is no such file
  or cannot be written."""

  def __init__(self, path):
    self.path = str(path)

  def __enter__(self):
    with self._named(), contextlib.ExitStack() as unless_it_opens:
      self._base = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)
      unless_it_opens.callback(self._base.close)
      self._base.execute("PRAGMA journal_mode = WAL")
      self._base.execute(
        "CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, chosen REAL, rejected REAL)"
      )
      unless_it_opens.pop_all()
    return self

  def __exit__(self, *_):
    self._base.close()

  def known(self, keys) -> dict[str, tuple[float, float]]:
    """Those of `keys` that are there."""
    keys, found = list(keys), {}
    with self._named():
      for start in range(0, len(keys), MANY):
        part = keys[start : start + MANY]
        marks = ",".join("?" * len(part))
        rows = self._base.execute(f"SELECT * FROM scores WHERE key IN ({marks})", part)
        found |= {key: (chosen, rejected) for key, chosen, rejected in rows}
    return found

  def add(self, scores: dict[str, tuple[float, float]]) -> None:
    """On the disk when this returns."""
    rows = [(key, *pair) for key, pair in scores.items()]
    with self._named():
      self._base.execute("BEGIN IMMEDIATE")
      self._base.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?, ?)", rows)
      self._base.execute("COMMIT")

  @contextlib.contextmanager
  def _named(self):
    try:
      yield
    except sqlite3.Error as error:
      raise errors.data(
        f"{self.path}: {error}; free some room, mend it, or set config.pair.cache to another file"
      ) from None
