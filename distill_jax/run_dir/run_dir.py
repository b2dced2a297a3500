"""The run folder is the truth: what is written there whole is done, everything else is done again.

  runs/name/config.json                 the config the folder belongs to
            .lock                       held by the one process that may write
            seconds.json                seconds played, over all restarts
            summary.json
            round_02/1_feedback/        a phase: round 2, second place in its plan
              rationales.jsonl          records, one a line
              manifest.json             written last: facts, size and sha256 of the files beside it
            final/test/                 a phase after the last round

Whole files are written under a temporary name, fsynced, renamed; lines are appended and fsynced.
"""

import fcntl
import json
import os
import pathlib
import re

from distill_jax import errors
from distill_jax.run_dir.phase_dir import PhaseDir, read_json, report_os_errors, write_json

# What may change while a run lasts: when and whether a reply comes and what it costs, never what it
# says.
MUTABLE = {
  f"config.teacher.{name}"
  for name in (
    "max_attempts",
    "batch",
    "batch_dir",
    "batch_poll",
    "batch_size",
    "batch_discount",
    "max_concurrency",
    "min_reply_rate",
    "insecure_http",
    "key_env",
    "key_file",
    "deadline",
    "max_dollars",
    "max_requests",
    "max_tokens_retry_limit",
    "max_wait",
    "prices.cached",
    "prices.input",
    "prices.output",
    "requests_per_minute",
    "timeout",
    "tokens_per_minute",
  )
}


class RunDir:
  """A folder that belongs to one config and, while it is claimed, to one process."""

  def __init__(self, path):
    self.path = pathlib.Path(path)
    self._lock = None

  def claim(self, config: dict) -> None:
    """Makes the folder ours until the process ends, and the config its own.

    How the teacher is reached and what it may cost (MUTABLE) may change; everything else only
    before a phase has written. Raises UserError: another process holds it, it was begun with another
    config, or its config is unreadable.
    """
    with report_os_errors(self.path):
      self.path.mkdir(parents=True, exist_ok=True)
      self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      self.release()
      raise errors.data(
        f"{self.path} is in use by another process; wait for it, stop it, or give another --workdir"
      ) from None
    try:
      self._own(json.loads(json.dumps(config)))  # tuples become lists, as on disk
    except errors.UserError:
      self.release()
      raise

  def check(self, config: dict) -> bool:
    """Whether the folder has this config already. Raises UserError if it was begun with another."""
    ours, file = json.loads(json.dumps(config)), self.path / "config.json"
    begun = read_json(file) if file.exists() else None
    if begun != ours and file.exists() and self.started:
      if not all(map(_free, changed_keys(begun, ours))):
        raise errors.UserError(_differences(self.path, begun, ours), errors.CONFIG)
    return begun == ours

  def _own(self, ours: dict) -> None:
    if not self.check(ours):
      self.write_json("config.json", ours)

  @property
  def started(self) -> bool:
    """Is there anything that depends on the config?"""
    return (self.path / "tokenizer").exists() or any(self.path.glob("round_*"))

  def release(self) -> None:
    """Gives the folder back; the end of the process does the same."""
    if self._lock is not None:
      os.close(self._lock)
      self._lock = None

  def write_json(self, name: str, value) -> None:
    """Writes a JSON file of the folder, whole or not at all."""
    write_json(self.path / name, value)

  def phase(self, number: int, place: int, name: str) -> PhaseDir:
    """The folder of a phase."""
    return PhaseDir(self.path / f"round_{number:02}" / f"{place}_{name}")

  def final(self, name: str) -> PhaseDir:
    """The folder of a phase after the last round."""
    return PhaseDir(self.path / "final" / name)

  def finished(self, number: int) -> dict[str, PhaseDir]:
    """{name: folder} of a round's finished phases, as planned; of equal names, the last."""
    places = []
    for path in (self.path / f"round_{number:02}").glob("*_*"):
      place, _, name = path.name.partition("_")
      if place.isdigit() and path.is_dir():
        places.append((int(place), name, PhaseDir(path)))
    return {
      name: folder for _, name, folder in sorted(places, key=lambda p: p[:2]) if folder.finished
    }

  def find(self, number: int, name: str) -> PhaseDir:
    """A finished phase of a round. Raises UserError if the round has none of that name."""
    try:
      return self.finished(number)[name]
    except KeyError:
      raise errors.data(f"{self.path}: round {number} has no finished phase {name!r}") from None

  @property
  def seconds(self) -> float:
    """Seconds played, over all restarts."""
    file = self.path / "seconds.json"
    return read_json(file)["seconds"] if file.exists() else 0.0

  def add_seconds(self, seconds: float) -> None:
    self.write_json("seconds.json", {"seconds": self.seconds + seconds})


def changed_keys(begun, ours) -> set[str]:
  """The dotted keys in which two configs differ."""
  old, new = _flat(begun), _flat(ours)
  return {k for k in old.keys() | new.keys() if old.get(k, _ABSENT) != new.get(k, _ABSENT)}


def _free(key: str) -> bool:
  """May this setting change while a run lasts? Further teachers are as free as the teacher."""
  return re.sub(r"^config\.teachers\.[a-z0-9_]+\.", "config.teacher.", key) in MUTABLE


def _differences(path, begun, ours) -> str:
  old, new = _flat(begun), _flat(ours)
  keys = sorted(k for k in changed_keys(begun, ours) if not _free(k))
  shown = "; ".join(
    f"{k}: {old.get(k, _ABSENT)} there, {new.get(k, _ABSENT)} now" for k in keys[:8]
  )
  more = f"; and {len(keys) - 8} more" if len(keys) > 8 else ""
  return (
    f"{path} was begun with another config ({shown}{more}); give another --workdir, or repeat the "
    "command the folder was begun with"
  )


class _Absent:
  def __repr__(self):
    return "nothing"


_ABSENT = _Absent()


def _flat(tree, prefix: str = "config") -> dict:
  """{dotted key: value as JSON} of a nested dict."""
  if not isinstance(tree, dict):
    return {prefix: json.dumps(tree, sort_keys=True)}
  return {k: v for name, part in tree.items() for k, v in _flat(part, f"{prefix}.{name}").items()}
