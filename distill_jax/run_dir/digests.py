"""SHA-256 of files, and manifests: lists of files with their size and digest.

A digest is remembered for this process under the file's device, inode, size and times, so a file is
read once however often its directory is opened.
"""

import hashlib
import json
import os
import pathlib
import time
from typing import Any

from distill_jax import disk

# A file that was changed this recently may change again without a new time stamp.
CLOCK_TICK = 20_000_000  # nanoseconds; time stamps of local file systems advance by up to 10 ms
COARSE_TICK = 2_000_000_000  # of file systems that store whole seconds

_known: dict[tuple[int, ...], str] = {}


def sha256(file: str | os.PathLike[str]) -> str:
  """Returns the SHA-256 of a file; reads the file only if it has changed since the last call."""
  with disk.open_regular(file) as opened:
    key = _identity(os.fstat(opened.fileno()))
    if key in _known:
      return _known[key]
    now = time.time_ns()
    digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if _identity(os.fstat(opened.fileno())) == key and _is_settled(key, now):
      _known[key] = digest
  return digest


def _identity(stat: os.stat_result) -> tuple[int, ...]:
  return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _is_settled(key: tuple[int, ...], now: int) -> bool:
  """Whether a later change of the file is sure to change its identity."""
  *_, modified, changed = key
  tick = CLOCK_TICK if modified % 1_000_000_000 else COARSE_TICK
  return now - max(modified, changed) > tick


def of_text(text: str) -> str:
  """Returns the SHA-256 of a text."""
  return hashlib.sha256(text.encode()).hexdigest()


def entry(file: pathlib.Path) -> dict[str, Any]:
  """Returns the entry of a file in a manifest: its size and digest."""
  return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def entry_of(content: bytes) -> dict[str, Any]:
  """Returns the entry of a file that will have this content."""
  return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def damage(file: pathlib.Path, entry: dict[str, Any], *, hashes: bool) -> str:
  """Returns what is wrong with a file according to its entry, as "FILE is missing"; or ""."""
  if not file.is_file():
    return f"{file} is missing"
  if (size := file.stat().st_size) != entry["bytes"]:
    return f"{file} has {size} bytes, but its manifest says {entry['bytes']}"
  if hashes and sha256(file) != entry["sha256"]:
    return f"{file} has changed since its manifest was written"
  return ""


def encode(facts: dict[str, Any], files: dict[str, Any]) -> bytes:
  """Returns a manifest, with a digest of its own content. Raises ValueError for infinite facts."""
  content = {"facts": facts, "files": files}
  digest = of_text(json.dumps(content, sort_keys=True, allow_nan=False))
  text = json.dumps(content | {"sha256": digest}, indent=1, sort_keys=True, allow_nan=False)
  return f"{text}\n".encode()


def decode(content: bytes) -> dict[str, Any] | None:
  """Parses a manifest; None if any of its bytes has changed since it was written."""
  try:
    manifest = json.loads(content)
    intact = encode(manifest["facts"], manifest["files"]) == content
  except (ValueError, KeyError, TypeError, RecursionError):
    return None
  return manifest if intact else None
