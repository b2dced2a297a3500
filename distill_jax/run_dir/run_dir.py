"""The run directory, which holds all state of a run. Finished phases are kept, others are redone.

  runs/name/config.json                 the config that the directory belongs to
            manifest.json               size and SHA-256 of the run's own files; digests of the data
            changes.jsonl               settings that were changed, when, and what was finished then
            .lock                       locked by the process that may write
            seconds.json                run time in seconds, over all restarts
            summary.json
            round_02/1_feedback/        a phase: round 2, second in its plan (counted from 0)
              rationales.jsonl          records, one per line
              manifest.json             written last: facts, size and SHA-256 of each file
            untrained/zero_shot/        scores of a pretrained student before training
            final/test/                 a phase after the last round

Files are written under a temporary name, fsynced and renamed. Lines are appended and fsynced. When
a run is opened, all files that a manifest lists are compared with it.
"""

import contextlib
import datetime
import json
import math
import os
import pathlib
import re
from typing import Any

from distill_jax import declare, disk, errors, together
from distill_jax.run_dir import digests
from distill_jax.run_dir.phase_dir import (
  MANIFEST,
  Path,
  PhaseDir,
  append_bytes,
  lock,
  read_json,
  report_os_errors,
  write_bytes,
  write_json,
)
from distill_jax.settings import Settings

CONFIG, CHANGES, SUMMARY, SECONDS = "config.json", "changes.jsonl", "summary.json", "seconds.json"
QUESTIONS = "questions.jsonl"  # see questions.py
# The run's own files that decide results. The manifest of the run directory lists those that exist.
SEALED = (CONFIG, QUESTIONS, *(f"{d}/**/*" for d in ("tokenizer", "base", "teachers")))

# Facts that stay if the config of a run without output changes: they name what it has paid for.
LASTING = ("teachers",)

# Settings that may change between restarts: how long a run is, how it is scored and shown, where
# its data and its teacher are, when replies arrive and what they cost; never what is learned from.
MUTABLE = {f"config.{key.path}" for key in declare.keys(Settings) if key.declaration.mutable}
# Values that a mutable setting can neither leave nor take: between others, it names the same thing.
FIXED_VALUES = {"config.student.init": json.dumps("scratch")}


class RunDir:
  """The directory of one run. It belongs to one config and, while locked, to one process."""

  def __init__(self, path: Path):
    self.path = pathlib.Path(path)
    self._lock: int | None = None

  @together.on_first
  def claim(self, config: dict[str, Any]) -> None:
    """Locks the directory for this process, checks its files, and binds it to `config`.

    Settings in `MUTABLE` may change between restarts; a change is recorded in changes.jsonl. All
    others are fixed once a phase has written output.

    Raises:
      UserError: Another process holds the lock, the run was started with a different config, or a
        file is damaged.
    """
    with report_os_errors(self.path):
      disk.make_private_dirs(self.path)
      self._lock = disk.open_private(self.path / ".lock", os.O_RDWR | os.O_CREAT)
    try:
      lock(
        self._lock,
        self.path,
        "is in use by another process; wait for it, stop it, or give another --workdir",
      )
      self.verify()
      self._bind(config)
    except BaseException:
      self.release()
      raise

  def _bind(self, config: dict[str, Any]) -> None:
    """Stores the config; in a started run, with a record of what has changed."""
    same = self.check(config)
    if not self.started:
      with report_os_errors(self.path / QUESTIONS):
        (self.path / QUESTIONS).unlink(missing_ok=True)  # they may be those of another config
      facts = (self._read_manifest() or {"facts": {}})["facts"]
      lasting = {name: facts[name] for name in LASTING if name in facts}
      self._write_manifest(lasting, {CONFIG: [digests.entry_of(_json_bytes(_as_stored(config)))]})
      write_bytes(self.path / CONFIG, _json_bytes(_as_stored(config)))
      return
    if not same:
      self._change_config(_as_stored(config))
    self.seal()

  def _change_config(self, new: dict[str, Any]) -> None:
    """Replaces the config of a started run. A kill at any point leaves a valid directory."""
    old_values, new_values = _flatten(read_json(self.path / CONFIG)), _flatten(new)
    time = datetime.datetime.now(datetime.UTC).isoformat("T", "seconds")
    finished = [str(p.path.relative_to(self.path)) for p in self.phases() if p.finished]
    lines = [
      json.dumps(
        {
          "time": time,
          "key": key,
          "old": _parsed(old_values.get(key)),
          "new": _parsed(new_values.get(key)),
          "finished": finished,
        }
      )
      for key in sorted(_changed(old_values, new_values))
    ]
    with report_os_errors(self.path / SUMMARY):
      (self.path / SUMMARY).unlink(missing_ok=True)  # it is about the run under other settings
    self._append_lines(lines)
    self.replace(CONFIG, _json_bytes(new))

  def replace(self, name: str, content: bytes) -> None:
    """Replaces one of the run's own files. A kill at any point leaves a valid directory."""
    files = self._manifest()["files"] if (self.path / MANIFEST).exists() else {}
    if name not in files:  # it is not sealed yet
      return write_bytes(self.path / name, content)
    facts, entry = self.facts, digests.entry_of(content)
    self._write_manifest(facts, {**files, name: [*files[name], entry]})
    write_bytes(self.path / name, content)
    self._write_manifest(facts, {**files, name: [entry]})

  def _append_lines(self, lines: list[str]) -> None:
    """Appends to changes.jsonl, on a line of its own if a kill has torn the last one."""
    file = self.path / CHANGES
    with report_os_errors(file):
      content = disk.read_bytes(file) if file.exists() else b""
    start = "" if not content or content.endswith(b"\n") else "\n"
    append_bytes(file, (start + "".join(f"{line}\n" for line in lines)).encode())

  @together.on_first
  def check(self, config: dict[str, Any]) -> bool:
    """Returns whether the stored config equals `config`.

    Raises:
      UserError: The run was started with a config that differs in a setting that must not change.
    """
    new, file = _as_stored(config), self.path / CONFIG
    stored = read_json(file) if file.exists() else None
    if stored != new and file.exists() and self.started:
      if differences := _differences(self.path, stored, new):
        raise errors.UserError(differences, errors.CONFIG)
    return stored == new

  @property
  @together.on_first
  def started(self) -> bool:
    """Whether the directory holds output that depends on the config."""
    return (self.path / "tokenizer").exists() or any(self.path.glob("round_*"))

  @property
  @together.on_first
  def claimed(self) -> bool:
    """Whether this process may write in the directory."""
    return self._lock is not None

  @together.only_first
  def release(self) -> None:
    """Releases the lock. The operating system also releases it when the process ends."""
    if self._lock is not None:
      os.close(self._lock)
      self._lock = None

  @together.on_first
  def verify(self) -> None:
    """Compares every file that a manifest lists with its size and SHA-256.

    Each file is read once, and not again by this process unless it has changed.

    Raises:
      UserError: A file is missing or damaged. The message names it, and what to do.
    """
    self.verify_own()
    for phase in self.phases():
      phase.verify()

  @together.on_first
  def verify_own(self) -> None:
    """Does what `verify` does, but only for files that belong to no phase."""
    if self.started and (damage := self._damage() and self._damage()):  # twice: it may be changing
      raise errors.data(f"{damage}; restore it, or start again with another --workdir")

  def _damage(self) -> str:
    """Returns what is wrong with one of the run's own files, or ""."""
    for name, entries in self._manifest()["files"].items():
      file = self.path / name
      if name == QUESTIONS and not file.exists():
        continue  # the run writes it again
      with report_os_errors(file):
        found = [digests.damage(file, entry, hashes=True) for entry in entries]
      if all(found):
        return found[0]
    return ""

  @together.on_first
  def seal(self) -> None:
    """Adds the run's own files to its manifest, if they are not yet in it.

    Only the process that has claimed the directory does so; otherwise nothing happens.
    """
    if self._lock is None:
      return
    manifest = self._manifest()
    files = dict(manifest["files"])
    for pattern in SEALED:
      for file in sorted(self.path.glob(pattern)):
        name = file.relative_to(self.path).as_posix()
        if file.is_file() and ".part" not in name and name not in files:
          files[name] = [digests.entry(file)]
    if files != manifest["files"]:
      self._write_manifest(manifest["facts"], files)

  @property
  @together.on_first
  def facts(self) -> dict[str, Any]:
    """What is known about the run as a whole; see `note`."""
    return self._manifest()["facts"] if (self.path / MANIFEST).exists() else {}

  @together.on_first
  def note(self, name: str, value: object) -> None:
    """Stores a fact about the run in its manifest."""
    manifest = self._manifest()
    if manifest["facts"].get(name) != value:
      self._write_manifest({**manifest["facts"], name: value}, manifest["files"])

  def _read_manifest(self) -> dict[str, Any] | None:
    """The manifest; None if it is missing or damaged."""
    file = self.path / MANIFEST
    with report_os_errors(file):
      return digests.decode(disk.read_bytes(file)) if file.exists() else None

  def _manifest(self) -> dict[str, Any]:
    file = self.path / MANIFEST
    if (manifest := self._read_manifest()) is None:
      state = "damaged" if file.exists() else "missing"
      raise errors.data(f"{file} is {state}; restore it, or start again with another --workdir")
    return manifest

  def _write_manifest(self, facts: dict[str, Any], files: dict[str, Any]) -> None:
    write_bytes(self.path / MANIFEST, digests.encode(facts, files))

  @together.on_first
  def write_json(self, name: str, value: object) -> None:
    """Writes a JSON file in the directory, atomically."""
    write_json(self.path / name, value)

  def phases(self) -> list[PhaseDir]:
    """Returns the directories of all phases, finished or not, in the order of the run."""
    by_round: list[tuple[int, int, pathlib.Path]] = []
    for path in self.path.glob("round_*/*_*"):
      round_name, position = path.parent.name.removeprefix("round_"), path.name.partition("_")[0]
      if round_name.isdigit() and position.isdigit() and path.is_dir():
        by_round.append((int(round_name), int(position), path))
    before, after = (
      sorted(path for path in self.path.glob(f"{name}/*") if path.is_dir())
      for name in ("untrained", "final")
    )
    return [PhaseDir(p) for p in [*before, *(path for *_, path in sorted(by_round)), *after]]

  def phase(self, round_index: int, position: int, name: str) -> PhaseDir:
    """Returns the directory of the phase at a position (from 0) of a round's plan."""
    return PhaseDir(self.path / f"round_{round_index:02}" / f"{position}_{name}")

  def untrained(self, shots: int) -> PhaseDir:
    """Returns the directory of the scores before training, with so many worked examples."""
    return PhaseDir(self.path / "untrained" / (f"{shots}_shot" if shots else "zero_shot"))

  def final(self, name: str) -> PhaseDir:
    """Returns the directory of a phase after the last round."""
    return PhaseDir(self.path / "final" / name)

  def finished(self, round_index: int) -> dict[str, PhaseDir]:
    """Returns {name: directory} of a round's finished phases, in the order of the plan.

    If a phase occurs more than once, the last one is returned.
    """
    return {name: PhaseDir(self.path / path) for name, path in self._finished(round_index)}

  @together.on_first
  def _finished(self, round_index: int) -> list[tuple[str, str]]:
    """Returns (name, path from here) of a round's finished phases, in the order of the plan."""
    phases: list[tuple[int, str, pathlib.Path]] = []
    for path in (self.path / f"round_{round_index:02}").glob("*_*"):
      position, _, name = path.name.partition("_")
      if position.isdigit() and path.is_dir():
        phases.append((int(position), name, path))
    phases.sort(key=lambda phase: phase[:2])
    return [
      (name, path.relative_to(self.path).as_posix())
      for _, name, path in phases
      if PhaseDir(path).finished
    ]

  def find(self, round_index: int, name: str) -> PhaseDir:
    """Returns a finished phase of a round. Raises UserError if the round has none of that name."""
    try:
      return self.finished(round_index)[name]
    except KeyError:
      raise errors.data(
        f"{self.path}: round {round_index} has no finished phase {name!r}"
      ) from None

  @property
  @together.on_first
  def seconds(self) -> float:
    """Run time in seconds, over all restarts. Only shown: a damaged seconds.json counts as 0."""
    try:
      stored = json.loads(disk.read_bytes(self.path / SECONDS))
      seconds = float(stored["seconds"])
      intact = stored["sha256"] == digests.of_text(repr(seconds))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
      return 0.0
    return seconds if intact and math.isfinite(seconds) else 0.0

  @together.only_first
  def add_seconds(self, seconds: float) -> None:
    """Adds to the run time. What cannot be written is not counted."""
    total = self.seconds + seconds
    with contextlib.suppress(errors.UserError):
      self.write_json(SECONDS, {"seconds": total, "sha256": digests.of_text(repr(total))})


def changed_keys(old: object, new: object) -> set[str]:
  """Returns the dotted keys in which two configs differ."""
  return _changed(_flatten(old), _flatten(new))


def _changed(old: dict[str, str], new: dict[str, str]) -> set[str]:
  return {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}


def _parsed(value: str | None) -> object:
  return None if value is None else json.loads(value)


def _json_bytes(value: object) -> bytes:
  return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _as_stored(config: dict[str, Any]) -> dict[str, Any]:
  """The config as it is read back from disk: tuples become lists."""
  return json.loads(json.dumps(config))


def _may_change(key: str, old: str | None, new: str | None) -> bool:
  """Whether a setting may change between restarts. Further teachers follow the same rules."""
  declared = re.sub(r"^config\.teachers\.[a-z0-9_]+\.", "config.teacher.", key)
  return declared in MUTABLE and FIXED_VALUES.get(key, _ABSENT) not in (old, new)


def _differences(path: pathlib.Path, stored: object, new: object) -> str:
  """Returns why a run cannot go on with the new config; "" if it can."""
  old_values, new_values = _flatten(stored), _flatten(new)
  changed = sorted(_changed(old_values, new_values))
  keys = [key for key in changed if not _may_change(key, old_values.get(key), new_values.get(key))]
  if not keys:
    return ""
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
