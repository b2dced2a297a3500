"""Which teachers can be asked, and which cannot: refused by name, before anything is paid for.

`s` is a settings.Settings throughout.
"""

import os
import pathlib
import urllib.parse

from distill_jax import checks, errors, phases
from distill_jax.teacher import faults


def is_local(base_url: str) -> bool:
  """Is the server on this machine, where no key is needed and nothing is billed?"""
  host = urllib.parse.urlsplit(base_url).hostname
  return host in ("127.0.0.1", "localhost", "::1")


def asks(s) -> bool:
  """Does the plan ask the teacher anything?"""
  planned = set(s.opening + (s.each_round if s.rounds else ()))
  free = {"demonstrate"} if s.demonstrate.source == "gold" else set()
  return bool(planned & set(phases.ASKERS) - free)


def check(s) -> None:
  """Refuses a teacher that cannot be asked."""
  t = s.teacher
  faults.Script(t.builtin.faults, 0)
  if "@" in t.base_url.partition("://")[2].partition("/")[0]:
    raise errors.config("teacher.base_url", "(hidden)", "an address without user name or password")
  if t.kind == "builtin" and s.task.name not in checks.WORLDS and asks(s):
    allowed = f"openai or replay: no world is behind task {s.task.name}"
    raise errors.config("teacher.kind", t.kind, allowed)
  for field in ("demonstrate.rationales", "feedback.rationales"):
    if t.temperature == 0 and checks.look_up(s, field) > 1:
      raise errors.config(
        field, checks.look_up(s, field), "1 at teacher.temperature 0: all are the same"
      )
  if t.kind == "openai":
    if not t.base_url.startswith(("http://", "https://")):
      example = "--config.teacher.base_url=https://api.openai.com/v1"
      raise errors.config("teacher.base_url", t.base_url, "the server's address", example)
    if not is_local(t.base_url) and not os.environ.get(t.key_env):
      allowed = "an environment variable that holds the key"
      raise errors.config("teacher.key_env", t.key_env, allowed, f"export {t.key_env}=...")
  if t.kind == "replay":
    if not t.replay.path:
      raise errors.config(
        "teacher.replay.path",
        t.replay.path,
        "the recorded files",
        "--config.teacher.replay.path=FILE",
      )
    for field in ("path", "questions"):
      given = getattr(t.replay, field)
      for path in (given,) if isinstance(given, str) else given:
        if path and not pathlib.Path(path).is_file():
          raise errors.config(f"teacher.replay.{field}", path, "a file that exists")
