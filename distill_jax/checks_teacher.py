"""Which teachers can be asked, and which cannot: refused by name, before anything is paid for.

`s` is a settings.Settings throughout.
"""

import pathlib

from distill_jax import checks, errors, phases
from distill_jax.teacher import access, faults


def asks(s) -> bool:
  """Does the plan ask the teacher anything?"""
  planned = set(s.opening + (s.each_round if s.rounds else ()))
  free = {"demonstrate"} if s.demonstrate.source == "gold" else set()
  return bool(planned & set(phases.ASKERS) - free)


def check(s) -> None:
  """Refuses a teacher that cannot be asked."""
  t = s.teacher
  if t.prices.cached < 0 and t.prices.cached != -1:
    raise errors.config("teacher.prices.cached", t.prices.cached, "0 or more, or -1: as input")
  faults.Script(t.builtin.faults, 0)
  access.check_name(t.key_env)
  if t.base_url:
    access.check_address(t.base_url, insecure_http=t.insecure_http)
  if t.kind == "builtin" and s.task.name not in checks.WORLDS and asks(s):
    allowed = f"openai or replay: no world is behind task {s.task.name}"
    raise errors.config("teacher.kind", t.kind, allowed)
  for field in ("demonstrate.rationales", "feedback.rationales"):
    if t.temperature == 0 and checks.look_up(s, field) > 1:
      raise errors.config(
        field, checks.look_up(s, field), "1 at teacher.temperature 0: all are the same"
      )
  if t.kind == "openai":
    access.check_address(t.base_url, insecure_http=t.insecure_http)
    access.key(t.base_url, key_env=t.key_env, key_file=t.key_file)
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
