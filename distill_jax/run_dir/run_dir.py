"""The run directory, which holds all state of a run. Finished phases are kept, others are redone.

  runs/name/config.json                 the config that the directory belongs to
            .lock                       locked by the process that may write
            seconds.json                run time in seconds, over all restarts
            summary.json
            round_02/1_feedback/        a phase: round 2, second in its plan (counted from 0)
              rationales.jsonl          records, one per line
              manifest.json             written last: facts, size and SHA-256 of each file
            final/test/                 a phase after the last round

Files are written under a temporary name, fsynced and renamed. Lines are appended and fsynced.
"""

import fcntl
import json
import os
import pathlib
import re
from typing import Any

from distill_jax import declare, disk, errors
from distill_jax.run_dir.phase_dir import Path, PhaseDir, read_json, report_os_errors, write_json
from distill_jax.settings import Settings

# Settings that may change between restarts. They affect when replies arrive and what they cost, but
# not their content.
MUTABLE = {f"config.{key.path}" for key in declare.keys(Settings) if key.declaration.mutable}


class RunDir:
  """The directory of one run. It belongs to one config and, while locked, to one process."""

  def __init__(self, path: Path):
    self.path = pathlib.Path(path)
    self._lock: int | None = None

  def claim(self, config: dict[str, Any]) -> None:
    """Locks the directory for this process and binds it to `config`.

    Settings in `MUTABLE` (teacher access, pacing and budget) may change between restarts. All
    others are fixed once a phase has written output.

    Raises:
      UserError: Another process holds the lock, the run was started with a different config, or
        config.json is unreadable.
    """
    with report_os_errors(self.path):
      disk.make_private_dirs(self.path)
      self._lock = disk.open_private(self.path / ".lock", os.O_RDWR | os.O_CREAT)
    try:
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      self.release()
      raise errors.data(
        f"{self.path} is in use by another process; wait for it, stop it, or give another --workdir"
      ) from None
    try:
      if not self.check(config):
        self.write_json("config.json", _as_stored(config))
    except errors.UserError:
      self.release()
      raise

  def check(self, config: dict[str, Any]) -> bool:
    """Returns whether the stored config equals `config`.

    Raises:
      UserError: The run was started with a config that differs in a setting that must not change.
    """
    new, file = _as_stored(config), self.path / "config.json"
    stored = read_json(file) if file.exists() else None
    if stored != new and file.exists() and self.started:
      if not all(map(_is_mutable, changed_keys(stored, new))):
        raise errors.UserError(_differences(self.path, stored, new), errors.CONFIG)
    return stored == new

  @property
  def started(self) -> bool:
    """Whether the directory holds output that depends on the config."""
    return (self.path / "tokenizer").exists() or any(self.path.glob("round_*"))

  def release(self) -> None:
    """Releases the lock. The operating system also releases it when the process ends."""
    if self._lock is not None:
      os.close(self._lock)
      self._lock = None

  def write_json(self, name: str, value: object) -> None:
    """Writes a JSON file in the directory, atomically."""
    write_json(self.path / name, value)

  def phase(self, round_index: int, position: int, name: str) -> PhaseDir:
    """Returns the directory of the phase at a position (from 0) of a round's plan."""
    return PhaseDir(self.path / f"round_{round_index:02}" / f"{position}_{name}")

  def final(self, name: str) -> PhaseDir:
    """Returns the directory of a phase after the last round."""
    return PhaseDir(self.path / "final" / name)

  def finished(self, round_index: int) -> dict[str, PhaseDir]:
    """Returns {name: directory} of a round's finished phases, in the order of the plan.

    If a phase occurs more than once, the last one is returned.
    """
    phases: list[tuple[int, str, PhaseDir]] = []
    for path in (self.path / f"round_{round_index:02}").glob("*_*"):
      position, _, name = path.name.partition("_")
      if position.isdigit() and path.is_dir():
        phases.append((int(position), name, PhaseDir(path)))
    phases.sort(key=lambda phase: phase[:2])
    return {name: phase_dir for _, name, phase_dir in phases if phase_dir.finished}

  def find(self, round_index: int, name: str) -> PhaseDir:
    """Returns a finished phase of a round. Raises UserError if the round has none of that name."""
    try:
      return self.finished(round_index)[name]
    except KeyError:
      raise errors.data(
        f"{self.path}: round {round_index} has no finished phase {name!r}"
      ) from None

  @property
  def seconds(self) -> float:
    """Run time in seconds, over all restarts."""
    file = self.path / "seconds.json"
    return read_json(file)["seconds"] if file.exists() else 0.0

  def add_seconds(self, seconds: float) -> None:
    """Adds to the run time."""
    self.write_json("seconds.json", {"seconds": self.seconds + seconds})


def changed_keys(old: object, new: object) -> set[str]:
  """Returns the dotted keys in which two configs differ."""
  old_values, new_values = _flatten(old), _flatten(new)
  return {
    key
    for key in old_values.keys() | new_values.keys()
    if old_values.get(key, _ABSENT) != new_values.get(key, _ABSENT)
  }


def _as_stored(config: dict[str, Any]) -> dict[str, Any]:
  """The config as it is read back from disk: tuples become lists."""
  return json.loads(json.dumps(config))


def _is_mutable(key: str) -> bool:
  """Whether a setting may change between restarts. Further teachers follow the same rules."""
  return re.sub(r"^config\.teachers\.[a-z0-9_]+\.", "config.teacher.", key) in MUTABLE


def _differences(path: pathlib.Path, stored: object, new: object) -> str:
  old_values, new_values = _flatten(stored), _flatten(new)
  keys = sorted(key for key in changed_keys(stored, new) if not _is_mutable(key))
  shown = "; ".join(
    f"{key}: {old_values.get(key, _ABSENT)} there, {new_values.get(key, _ABSENT)} now"
    for key in keys[:8]
  )
  more = f"; and {len(keys) - 8} more" if len(keys) > 8 else ""
  return (
    f"{path} was started with a different config ({shown}{more}); give another --workdir, or "
    "repeat the command that started it"
  )


_ABSENT = "nothing"  # equal to no JSON text


def _flatten(tree: object, prefix: str = "config") -> dict[str, str]:
  """{dotted key: value as JSON} of a nested dict."""
  if not isinstance(tree, dict):
    return {prefix: json.dumps(tree, sort_keys=True)}
  return {
    key: value
    for name, part in tree.items()
    for key, value in _flatten(part, f"{prefix}.{name}").items()
  }
