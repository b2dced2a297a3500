"""Checks what this machine has, and whether a config could run on it."""

import importlib.metadata
import os
import pathlib
import platform
import shutil
import sys
from typing import Any

from distill_jax import errors, summary
from distill_jax.config import rules_teacher
from distill_jax.config.read import read_settings
from distill_jax.run_dir import trial
from distill_jax.settings import Teacher
from distill_jax.teacher import pool
from distill_jax.teacher.client import credentials

MIN_FREE = 2 * 2**30  # bytes of free disk space below which a run is likely to fail


def check(config: dict[str, Any] | None, workdir: str) -> int:
  """Prints versions, devices, disk and file system, and whether the teacher's key is set.

  Args:
    config: A config to check, or None.
    workdir: Where runs will be written.

  Returns:
    The exit code: 0, or 3 if something would prevent a run.
  """
  print(f"python           {platform.python_version()} ({sys.executable})")
  for package in summary.PACKAGES:
    print(f"{package:<16} {importlib.metadata.version(package)}")
  return max(_devices(), _disk(workdir), _teacher(config))


def _devices() -> int:
  import jax

  try:
    devices = jax.devices()
  except RuntimeError as error:
    print(f"devices          none: {str(error).splitlines()[0]}")
    return errors.CONFIG
  first = devices[0]
  print(
    f"devices          {len(devices)} x {first.device_kind} ({first.platform}); "
    f"{os.cpu_count()} CPU cores"
  )
  return 0


def _disk(workdir: str) -> int:
  path = pathlib.Path(workdir).resolve()
  existing = next(parent for parent in (path, *path.parents) if parent.exists())
  free, writable = shutil.disk_usage(existing).free, os.access(existing, os.W_OK)
  suffix = "" if writable else ", not writable"
  print(f"disk             {free / 2**30:.1f} GiB free at {existing}{suffix}")
  if free < MIN_FREE:
    print(f"                 less than {MIN_FREE / 2**30:.0f} GiB: free space or set --workdir")
  if not writable:
    return errors.CONFIG
  print(f"file system      {trial.describe(existing)}")
  faults = trial.faults(existing)
  for fault in faults:
    print(f"                 {fault}; set --workdir to another file system")
  return 0 if free >= MIN_FREE and not faults else errors.CONFIG


def _teacher(config: dict[str, Any] | None) -> int:
  if config is None:
    print(
      f"teacher          {_key_state('OPENAI_API_KEY')}; only teacher.kind=openai needs a key"
      " (check with --config)"
    )
    return 0
  try:
    settings = read_settings(config)
  except errors.UserError as error:
    print(f"config           {error}")
    return error.code
  print("config           OK")
  names = pool.teachers_used(settings, rules_teacher.askers(settings)) or [pool.MAIN]
  codes = [_one_teacher(name, pool.get(settings, name)) for name in names]
  print("                 nothing was sent; `distill-jax teacher check` sends one real request")
  return max(codes)


def _one_teacher(name: str, teacher: Teacher) -> int:
  label = "" if name == pool.MAIN else f"{name}: "
  address = f", at {teacher.base_url}" if teacher.base_url else ""
  print(f"teacher          {label}{teacher.kind}, {_model(teacher)}{address}")
  if teacher.kind != "openai":
    return 0
  try:
    key = credentials.key(teacher.base_url, key_env=teacher.key_env, key_file=teacher.key_file)
  except errors.UserError as error:
    print(f"                 {error}")
    return error.code
  if teacher.key_file:
    print("                 the key file is readable")
  elif key:
    print(f"                 {_key_state(teacher.key_env)}")
  else:
    print(f"                 no key is set ({teacher.key_env}), and this address needs none")
  return 0


def _model(teacher: Teacher) -> str:
  return f"model {teacher.model}" if teacher.model else "the only model of its server"


def _key_state(variable: str) -> str:
  return f"{variable} is {'present' if os.environ.get(variable) else 'not set'}"
