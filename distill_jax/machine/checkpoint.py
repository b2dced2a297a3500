"""Checkpoints of a training: Orbax writes the arrays, a manifest makes a checkpoint valid.

  path/1200/default/...      written by Orbax
  path/1200/MANIFEST.json    written last: size and SHA-256 of files, type and shape of arrays

Orbax restores an array with a flipped bit without complaint. The manifest detects such damage.
"""

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from absl import logging
from orbax import checkpoint as orbax

from distill_jax import errors

MANIFEST = "MANIFEST.json"

logging.set_verbosity(logging.ERROR)  # Orbax logs every step of its work otherwise

Tree = TypeVar("Tree")


class Checkpoints:
  """The newest `keep` checkpoints of one training, by step, in the directory `path`.

  `warn` is called with a message for each damaged checkpoint that is skipped.
  """

  def __init__(
    self, path: str | os.PathLike[str], keep: int, warn: Callable[[str], object] = lambda text: None
  ):
    self._path, self._keep, self._warn = pathlib.Path(path).absolute(), keep, warn

  def latest(self) -> int | None:
    """Returns the newest finished step, even if it is damaged; None if there is none."""
    return max(self._steps(), default=None)

  def save(self, step: int, state: Any) -> None:
    """Saves a pytree of arrays; it is on disk when this returns.

    Checkpoints of this and later steps are replaced: training resumed from an earlier step.

    Raises:
      UserError: The disk is full or not writable.
    """
    try:
      self._clear(step)
      with self._manager() as manager:
        manager.save(step, args=_save_args(state), force=True)
        manager.wait_until_finished()
      _write_manifest(self._path / str(step), _arrays(state))
      for old in self._steps()[: -self._keep]:
        _remove(self._path / str(old))
    except (OSError, ValueError, RuntimeError) as error:  # TensorStore raises ValueError
      raise _save_error(self._path / str(step), error) from error

  def restore(self, like: Tree) -> tuple[Tree, int] | None:
    """Restores the newest undamaged checkpoint.

    Args:
      like: A pytree of arrays or jax.ShapeDtypeStruct with shardings. The result has its structure,
        shapes, types and shardings.

    Returns:
      (state, step), or None if no checkpoint was ever finished. Damaged checkpoints are skipped,
      with a warning.

    Raises:
      UserError: All checkpoints are damaged, or the arrays have other names, shapes or types than
        those of `like`.
    """
    damage = []
    for step in reversed(self._steps()):
      if found := _damage(self._path / str(step)):
        damage.append(found)
        continue
      for text in damage:
        self._warn(f"checkpoint damaged: {text}; resuming from step {step}")
      return self._read(step, like), step
    if damage:
      raise errors.data(
        f"all checkpoints are damaged: {'; '.join(damage)}; restore the file, or remove "
        f"{self._path} to start this training again"
      )
    return None

  def _read(self, step: int, like: Tree) -> Tree:
    path = self._path / str(step)
    saved, expected = json.loads((path / MANIFEST).read_bytes())["arrays"], _arrays(like)
    for name in sorted(saved.keys() | expected.keys()):
      if saved.get(name) != expected.get(name):
        raise errors.data(
          f"{path} holds a different model than the config describes ({name}: "
          f"{saved.get(name)} there, {expected.get(name)} expected); use the config it was trained "
          "with, or another --workdir"
        )
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
    )
    with self._manager() as manager:
      return manager.restore(step, args=_restore_args(shapes))

  def _manager(self) -> orbax.CheckpointManager:
    options = orbax.CheckpointManagerOptions(enable_async_checkpointing=False, create=True)
    return orbax.CheckpointManager(self._path, options=options)

  def _steps(self) -> list[int]:
    """Finished steps, ascending."""
    return sorted(
      int(m.parent.name) for m in self._path.glob(f"*/{MANIFEST}") if m.parent.name.isdigit()
    )

  def _clear(self, step: int) -> None:
    """Removes remains of killed saves, and checkpoints from `step` on."""
    earlier = {str(s) for s in self._steps() if s < step}
    for entry in self._path.glob("*"):
      if entry.is_dir() and entry.name not in earlier:
        _remove(entry)


def _save_args(state: Any) -> Any:
  # A decorator of Orbax hides the constructor's parameters from type checkers.
  return orbax.args.StandardSave(state)  # pyright: ignore[reportCallIssue]


def _restore_args(shapes: Any) -> Any:
  return orbax.args.StandardRestore(shapes)  # pyright: ignore[reportCallIssue]


def _arrays(tree: Any) -> dict[str, str]:
  """{path: type and shape} of a pytree's arrays."""
  named = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}" for path, x in named}


def _write_manifest(step_dir: pathlib.Path, arrays: dict[str, str]) -> None:
  files = {
    name: {"bytes": (step_dir / name).stat().st_size, "sha256": _sha256(step_dir / name)}
    for name in _files(step_dir)
  }
  for name in files:
    _fsync(step_dir / name)
  for inner in {(step_dir / name).parent for name in files}:
    _fsync(inner)
  part = step_dir / f"{MANIFEST}.part"
  with open(part, "w", encoding="ascii") as opened:
    json.dump({"files": files, "arrays": arrays}, opened, indent=1, sort_keys=True)
    opened.flush()
    os.fsync(opened.fileno())
  os.replace(part, step_dir / MANIFEST)
  _fsync(step_dir)
  _fsync(step_dir.parent)


def _damage(step_dir: pathlib.Path) -> str | None:
  """What is wrong with a finished checkpoint, or None."""
  try:
    files = json.loads((step_dir / MANIFEST).read_bytes())["files"]
    expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return f"{step_dir / MANIFEST} is unreadable"
  for name, (size, digest) in expected.items():
    file = step_dir / name
    if not file.is_file():
      return f"{file} is missing"
    if file.stat().st_size != size:
      return f"{file} has {file.stat().st_size} bytes instead of {size}"
    if _sha256(file) != digest:
      return f"{file} has changed since it was written"
  return None


def _remove(step_dir: pathlib.Path) -> None:
  """Removes a checkpoint, the manifest first: if half removed, it must not look damaged."""
  (step_dir / MANIFEST).unlink(missing_ok=True)
  shutil.rmtree(step_dir)


def _files(step_dir: pathlib.Path) -> list[str]:
  return sorted(f.relative_to(step_dir).as_posix() for f in step_dir.rglob("*") if f.is_file())


def _sha256(file: pathlib.Path) -> str:
  with open(file, "rb") as opened:
    return hashlib.file_digest(opened, "sha256").hexdigest()


def _fsync(path: pathlib.Path) -> None:
  fd = os.open(path, os.O_RDONLY)
  try:
    os.fsync(fd)
  finally:
    os.close(fd)


def _save_error(path: pathlib.Path, error: Exception) -> errors.UserError:
  first = str(error).splitlines()[0] if str(error) else type(error).__name__
  remedy = "free some space" if "No space left" in str(error) else "fix this"
  return errors.data(
    f"{path} could not be saved ({first}); no finished work is lost: {remedy} and re-run the same "
    "command"
  )
