"""Checkpoints that are whole or not used: Orbax writes the arrays, a manifest says they are there.

  folder/1200/default/...      what Orbax wrote (version 0 API)
  folder/1200/MANIFEST.json    written last: size and sha256 of each file, type of each array

Orbax restores an array with a flipped bit without complaint. Here the manifest is checked first.
"""

import hashlib
import json
import os
import pathlib
import shutil

import jax
from absl import logging
from orbax import checkpoint as orbax

from distill_jax import errors

MANIFEST = "MANIFEST.json"

logging.set_verbosity(logging.ERROR)  # Orbax tells of each of its steps otherwise


class Checkpoints:
  """The newest `keep` states of one training, by step. `warn` is told what a person should know."""

  def __init__(self, path, keep: int, warn=lambda text: None):
    self._path, self._keep, self._warn = pathlib.Path(path).absolute(), keep, warn

  def latest(self) -> int | None:
    """The newest step that was finished, whole or damaged; None if there is none."""
    return max(self._steps(), default=None)

  def save(self, step: int, state) -> None:
    """Writes a pytree of arrays; it is on the disk when this returns. The newest `keep` steps stay.

    What was saved for this or a later step is replaced: training came back to here. Raises
    UserError if the disk is full.
    """
    try:
      self._clear(step)
      with self._manager() as manager:
        manager.save(step, args=orbax.args.StandardSave(state), force=True)
        manager.wait_until_finished()
      _write_manifest(self._path / str(step), _arrays(state))
      for old in self._steps()[: -self._keep]:
        _remove(self._path / str(old))
    except (OSError, ValueError, RuntimeError) as error:  # TensorStore's errors are ValueErrors
      raise _refusal(self._path / str(step), error) from error

  def restore(self, like):
    """(state, step) of the newest whole checkpoint, placed as `like` (arrays or sharded shapes).

    None if none was ever finished. A damaged one is told of and passed over. Raises UserError if
    all are damaged, or if names, shapes or types are not those of `like`.
    """
    damage = []
    for step in reversed(self._steps()):
      if found := _damage(self._path / str(step)):
        damage.append(found)
        continue
      for text in damage:
        self._warn(f"checkpoint damaged: {text}; going back to step {step}")
      return self._read(step, like), step
    if damage:
      raise errors.data(
        f"no whole checkpoint is left: {'; '.join(damage)}; put the file back, or remove "
        f"{self._path} to begin this training again"
      )
    return None

  def _read(self, step: int, like):
    here = self._path / str(step)
    saved, wanted = json.loads((here / MANIFEST).read_bytes())["arrays"], _arrays(like)
    for name in sorted(saved.keys() | wanted.keys()):
      if saved.get(name) != wanted.get(name):
        raise errors.data(
          f"{here} holds another model than the config describes ({name}: {saved.get(name)} there, "
          f"{wanted.get(name)} wanted); give the config it was trained with, or another --workdir"
        )
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
    )
    with self._manager() as manager:
      return manager.restore(step, args=orbax.args.StandardRestore(shapes))

  def _manager(self) -> orbax.CheckpointManager:
    options = orbax.CheckpointManagerOptions(enable_async_checkpointing=False, create=True)
    return orbax.CheckpointManager(self._path, options=options)

  def _steps(self) -> list[int]:
    """Finished steps, ascending."""
    return sorted(
      int(m.parent.name) for m in self._path.glob(f"*/{MANIFEST}") if m.parent.name.isdigit()
    )

  def _clear(self, step: int) -> None:
    """Removes what a killed save left, and steps from `step` on."""
    done = {str(s) for s in self._steps() if s < step}
    for entry in self._path.glob("*"):
      if entry.is_dir() and entry.name not in done:
        _remove(entry)


def _arrays(tree) -> dict[str, str]:
  """{path: type and shape} of a pytree's arrays."""
  named = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}" for path, x in named}


def _write_manifest(folder: pathlib.Path, arrays: dict[str, str]) -> None:
  files = {
    name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}
    for name in _files(folder)
  }
  for name in files:
    _sync(folder / name)
  for inner in {(folder / name).parent for name in files}:
    _sync(inner)
  part = folder / f"{MANIFEST}.part"
  with open(part, "w", encoding="ascii") as opened:
    json.dump({"files": files, "arrays": arrays}, opened, indent=1, sort_keys=True)
    opened.flush()
    os.fsync(opened.fileno())
  os.replace(part, folder / MANIFEST)
  _sync(folder)
  _sync(folder.parent)


def _damage(folder: pathlib.Path) -> str | None:
  """What is wrong with a finished step, or None."""
  try:
    known = json.loads((folder / MANIFEST).read_bytes())["files"]
    known = {name: (entry["bytes"], entry["sha256"]) for name, entry in known.items()}
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return f"{folder / MANIFEST} cannot be read"
  for name, (size, digest) in known.items():
    file = folder / name
    if not file.is_file():
      return f"{file} is missing"
    if file.stat().st_size != size:
      return f"{file} has {file.stat().st_size} bytes instead of {size}"
    if _sha256(file) != digest:
      return f"{file} is not what was written"
  return None


def _remove(folder: pathlib.Path) -> None:
  """The manifest first: a step half removed must not look damaged."""
  (folder / MANIFEST).unlink(missing_ok=True)
  shutil.rmtree(folder)


def _files(folder: pathlib.Path) -> list[str]:
  return sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())


def _sha256(file: pathlib.Path) -> str:
  with open(file, "rb") as opened:
    return hashlib.file_digest(opened, "sha256").hexdigest()


def _sync(path: pathlib.Path) -> None:
  fd = os.open(path, os.O_RDONLY)
  try:
    os.fsync(fd)
  finally:
    os.close(fd)


def _refusal(path, error: Exception) -> errors.UserError:
  first = str(error).splitlines()[0] if str(error) else type(error).__name__
  do = "make room and run" if "No space left" in str(error) else "mend this and run"
  return errors.data(
    f"{path} could not be saved ({first}); nothing that was finished is lost: "
    f"{do} the same command again"
  )
