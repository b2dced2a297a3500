"""What this machine has, and whether a run could work here."""

import importlib.metadata
import os
import pathlib
import platform
import shutil
import sys

from distill_jax import errors, summary
from distill_jax.config import rules_teacher
from distill_jax.config.read import read_settings
from distill_jax.teacher import pool

ROOM = 2 * 2**30  # bytes of free disk below which a run is likely to end early


def examine(config: dict | None, workdir: str) -> int:
  """Prints versions, devices, disk and key; returns the exit code: 0, or 3 if something would keep
  a run from working."""
  print(f"python           {platform.python_version()} ({sys.executable})")
  for package in summary.PACKAGES:
    print(f"{package:<16} {importlib.metadata.version(package)}")
  return max(devices(), disk(workdir), teacher(config))


def devices() -> int:
  import jax

  try:
    found = jax.devices()
  except RuntimeError as error:
    print(f"devices          none: {str(error).splitlines()[0]}")
    return errors.CONFIG
  print(
    f"devices          {len(found)} x {found[0].device_kind} ({found[0].platform}); "
    f"{os.cpu_count()} CPU cores"
  )
  return 0


def disk(workdir: str) -> int:
  path = pathlib.Path(workdir).resolve()
  place = next(p for p in (path, *path.parents) if p.exists())
  free, writable = shutil.disk_usage(place).free, os.access(place, os.W_OK)
  print(
    f"disk             {free / 2**30:.1f} GiB free at {place}"
    f"{'' if writable else ', but it cannot be written to'}"
  )
  if free < ROOM:
    print(
      f"                 less than {ROOM / 2**30:.0f} GiB: make room, or give another --workdir"
    )
  return 0 if writable and free >= ROOM else errors.CONFIG


def teacher(config: dict | None) -> int:
  if config is None:
    name = "OPENAI_API_KEY"
    print(
      f"teacher          {name} is {'present' if os.environ.get(name) else 'not set'} "
      "(give --config to look at one)"
    )
    return 0

  try:
    found = read_settings(config)
  except errors.UserError as refusal:
    print(f"config           {refusal}")
    return refusal.code
  print("config           makes sense")
  for name in pool.teachers_used(found, rules_teacher.askers(found)) or [pool.MAIN]:
    tell_teacher(name, pool.get(found, name))
  return 0


def tell_teacher(name: str, t) -> None:
  label = "" if name == pool.MAIN else f"{name}: "
  at = f", at {t.base_url}" if t.base_url else ""
  print(f"teacher          {label}{t.kind}, model {t.model}{at}")
  if t.kind == "openai":
    known = f"{t.key_env} is {'present' if os.environ.get(t.key_env) else 'not set'}"
    print(f"                 {'the key file can be read' if t.key_file else known}")
