"""Loaded by Python itself at its start, as `sitecustomize`: watches or breaks one process.

AUDIT_LOG  a file per process: FILE.0, ...: every connection, and every write, rename and removal of
           a file, directory or database that is not Orbax's, one per line
AUDIT_FAIL INDEX:NAME:ERROR: process INDEX raises ERROR whenever it opens a file of that name
"""

import builtins
import os
import sys

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
LIBRARIES = ("orbax", "jax/_src/compilation_cache")  # they know that there are several processes

index = next((w.partition("=")[2] for w in sys.orig_argv if w.startswith("--process=")), "0")
log, fail = os.environ.get("AUDIT_LOG"), os.environ.get("AUDIT_FAIL", "").split(":")
opened = os.open(f"{log}.{index}", os.O_WRONLY | os.O_CREAT | os.O_APPEND) if log else -1


def by_library() -> bool:
  frame = sys._getframe()
  while frame := frame.f_back:
    if any(name in frame.f_code.co_filename for name in LIBRARIES):
      return True
  return False


def hook(event: str, arguments: tuple) -> None:
  if event == "open" and fail[0] == index and str(arguments[0]).endswith(f"/{fail[1]}"):
    raise getattr(builtins, fail[2])(5, "Input/output error", str(arguments[0]))
  if opened >= 0 and event == "socket.connect":
    os.write(opened, f"{event} {arguments[1]}\n".encode())
  writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
  if opened < 0 or not (writes or event in (*CHANGES, "sqlite3.connect")):
    return
  path = str(arguments[0])  # of a descriptor, a number
  if path != os.devnull and not path.isdecimal() and "__pycache__" not in path and not by_library():
    os.write(opened, f"{event} {arguments[0]}\n".encode())


if log or len(fail) == 3:
  sys.addaudithook(hook)
