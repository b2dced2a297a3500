"""Reads a ConfigDict into frozen settings, and rejects what cannot work."""

from distill_jax.config import rules, rules_teacher, typed
from distill_jax.settings import Settings
from distill_jax.teacher import pool


def read_settings(config: dict, *, teacher: bool = True) -> Settings:
  """Settings from a plain nested dict (ConfigDict.to_dict()). `teacher`: one will be asked, so that
  its key, files and address are looked at too.

  Raises UserError (exit code 3) for whatever is missing, unknown, of the wrong type, or makes no
  sense.
  """
  settings = typed.group(Settings, pool.merge_teachers(config), "")
  rules.check(settings)
  if teacher:
    rules_teacher.check(settings)
  return settings
