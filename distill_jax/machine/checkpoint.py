"""Checkpoints of a training: Orbax writes the arrays, a manifest makes a checkpoint valid.

  path/1200/default/...      written by Orbax
  path/1200/MANIFEST.json    written last: size and SHA-256 of files, type and shape of arrays

Orbax restores an array with a flipped bit without complaint. The manifest detects such damage.
"""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from absl import logging as absl_logging
from orbax import checkpoint as orbax

from distill_jax import disk, errors, together

MANIFEST = "MANIFEST.json"

# Orbax logs every step of its work otherwise, and the trace of every error that it also raises.
absl_logging.set_verbosity(absl_logging.FATAL)

Tree = TypeVar("Tree")


class Checkpoints:
  """The newest `keep` checkpoints of one training, by step, in the directory `path`.

  `warn` is called with a message for each damaged checkpoint that is skipped.
  """

  def __init__(
    self, path: str | os.PathLike[str], keep: int, warn: Callable[[str], object] = lambda text: None
  ):
    self._path, self._keep, self._warn = pathlib.Path(path).absolute(), keep, warn

  @together.on_first
  def latest(self) -> int | None:
    """Returns the newest finished step, even if it is damaged; None if there is none."""
    return max(self._steps(), default=None)

  def save(self, step: int, state: Any) -> None:
    """Saves a pytree of arrays; it is on disk when this returns.

    Checkpoints of this and later steps are replaced: training resumed from an earlier step.

    Raises:
      UserError: The disk is full or not writable, or a number in `state` is not finite.
    """
    if names := not_finite(state):
      raise errors.data(
        f"{self._path / str(step)} is not saved: {names[0]} has non-finite values, so training "
        "diverged; lower the learning rate and use a new --workdir"
      )
    step_dir = self._path / str(step)
    try:
      self._clear(step)
      with _one_error(), self._manager() as manager:
        manager.save(step, args=_save_args(state), force=True)
        manager.wait_until_finished()
      if together.count() > 1:
        _fsync_own(step_dir)
        together.gather("saved", step)  # all files are on disk
      together.once("manifest", lambda: _write_manifest(step_dir, _arrays(state)))
      self._remove_old()
    except (OSError, ValueError, RuntimeError) as error:  # TensorStore raises ValueError
      if together.is_loss(error):
        raise
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
      UserError: All checkpoints are damaged, the arrays have other names, shapes or types than
        those of `like`, or a number in them is not finite.
    """
    step = self._choose()
    return None if step is None else (self._read(step, like), step)

  @together.on_first
  def _choose(self) -> int | None:
    """Returns the newest undamaged step; see `restore`."""
    damage = []
    for step in reversed(self._steps()):
      if found := _damage(self._path / str(step)):
        damage.append(found)
        continue
      for text in damage:
        self._warn(f"checkpoint damaged: {text}; resuming from step {step}")
      return step
    if damage:
      raise errors.data(
        f"all checkpoints are damaged: {'; '.join(damage)}; restore the file, or remove "
        f"{self._path} to start this training again"
      )
    return None

  def _read(self, step: int, like: Tree) -> Tree:
    path = self._path / str(step)
    content = together.once("arrays", lambda: disk.read_bytes(path / MANIFEST))
    saved, expected = json.loads(content)["arrays"], _arrays(like)
    for name in sorted(saved.keys() | expected.keys()):
      if saved.get(name) != expected.get(name):
        raise errors.data(
          f"{path} holds a different model than the config describes ({name}: "
          f"{saved.get(name)} in {path / MANIFEST}, {expected.get(name)} expected); use the config "
          "it was trained with, or another --workdir"
        )
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
    )
    with self._manager() as manager:
      restored = manager.restore(step, args=_restore_args(shapes))
    if names := not_finite(restored):
      raise errors.data(
        f"{path}: {names[0]} has non-finite values; remove the phase that wrote it and every later "
        "one, and train again with a lower learning rate"
      )
    return restored

  def _manager(self) -> orbax.CheckpointManager:
    options = orbax.CheckpointManagerOptions(enable_async_checkpointing=False, create=True)
    return orbax.CheckpointManager(self._path, options=options)

  def _steps(self) -> list[int]:
    """Finished steps, ascending."""
    return sorted(
      int(m.parent.name) for m in self._path.glob(f"*/{MANIFEST}") if m.parent.name.isdigit()
    )

  @together.on_first
  def _remove_old(self) -> None:
    for old in self._steps()[: -self._keep]:
      _remove(self._path / str(old))

  @together.on_first
  def _clear(self, step: int) -> None:
    """Removes remains of killed saves, and checkpoints from `step` on."""
    earlier = {str(s) for s in self._steps() if s < step}
    for entry in self._path.glob("*"):
      if entry.is_dir() and entry.name not in earlier:
        _remove(entry)


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
  """Drops what is reported about a failed save beside the error that is raised.

  TensorStore's other writes fail later, in its own threads, when nobody waits for them any more.
  After a failure the process goes on to its end, and these reports stay dropped.
  """
  logger, hook = logging.getLogger("asyncio"), sys.unraisablehook

  def is_news(record: logging.LogRecord) -> bool:
    return "exception was never retrieved" not in record.getMessage()

  def unraisable(args: "sys.UnraisableHookArgs") -> None:
    if str(args.exc_value) != "Event loop is closed":
      hook(args)

  logger.addFilter(is_news)
  sys.unraisablehook = unraisable
  yield
  logger.removeFilter(is_news)
  sys.unraisablehook = hook


def not_finite(tree: Any) -> list[str]:
  """Returns the paths of arrays with non-finite values.

  Every array is read once, where it is, without a copy.
  """
  floats = [
    (jax.tree_util.keystr(path), x)
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
    if jnp.issubdtype(x.dtype, jnp.floating)
  ]
  finite = jax.device_get(_are_finite([x for _, x in floats]))
  return [name for (name, _), is_finite in zip(floats, finite, strict=True) if not is_finite]


@jax.jit
def _are_finite(arrays: list[jax.Array]) -> list[jax.Array]:
  return [jnp.isfinite(x).all() for x in arrays]


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
    disk.fsync(step_dir / name)
  for inner in {(step_dir / name).parent for name in files}:
    disk.fsync(inner)
  part = step_dir / f"{MANIFEST}.part"
  with open(part, "w", encoding="ascii") as opened:
    json.dump({"files": files, "arrays": arrays}, opened, indent=1, sort_keys=True)
    opened.flush()
    os.fsync(opened.fileno())
  os.replace(part, step_dir / MANIFEST)
  disk.fsync(step_dir)
  disk.fsync(step_dir.parent)


def _fsync_own(step_dir: pathlib.Path) -> None:
  """Writes to the disk what this process has written: on NFS, no other host can do it."""
  for path in step_dir.rglob("*"):
    if f"ocdbt.process_{together.index()}" in path.parts:
      disk.fsync(path)


def _damage(step_dir: pathlib.Path) -> str | None:
  """What is wrong with a finished checkpoint, or None."""
  try:
    files = json.loads(disk.read_bytes(step_dir / MANIFEST))["files"]
    expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
  except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
    return f"{step_dir / MANIFEST} is unreadable"
  for name, (size, digest) in expected.items():
    file = step_dir / name
    if not file.is_file():
      return f"{file} is missing, which {step_dir / MANIFEST} lists"
    if file.stat().st_size != size:
      return f"{file} has {file.stat().st_size} bytes instead of {size} as in {step_dir / MANIFEST}"
    if _sha256(file) != digest:
      return f"{file} has changed since {step_dir / MANIFEST} was written"
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


def _save_error(path: pathlib.Path, error: Exception) -> errors.UserError:
  reason = str(error).splitlines()[0] if str(error) else type(error).__name__
  if isinstance(error, OSError):
    reason = error.strerror or reason
  elif number := re.search(r"os_error_code='(\d+)'", str(error)):  # of TensorStore, in a long text
    reason = os.strerror(int(number[1]))
  remedy = "free some space" if "No space left" in reason else "fix this"
  return errors.data(
    f"{path} could not be saved ({reason}); no finished work is lost: {remedy} and re-run the same "
    "command"
  )
