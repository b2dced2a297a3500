"""Reads a config into frozen settings, and rejects what cannot work."""

import dataclasses
from typing import Any

from distill_jax import defaults
from distill_jax.config import rules, rules_teacher, typed, values
from distill_jax.settings import Settings
from distill_jax.teacher import pool, presets


def read_settings(config: dict[str, Any], *, teacher: bool = True) -> Settings:
  """Reads a plain nested dict (`ConfigDict.to_dict()`) into settings.

  Args:
    config: A value for every key; `teachers` has only what each further teacher changes.
    teacher: Whether a teacher will be asked, so that its key, files and address are checked too.

  Returns:
    The settings, with every further teacher complete, and with what follows from a vendor's model.

  Raises:
    UserError: A key is missing, unknown, of the wrong type or out of bounds; nothing reads it; or a
      combination cannot work. Exit code 3.
  """
  complete = presets.choose_kind(pool.merge_teachers(config))
  settings = typed.build(Settings, complete)
  values.check(settings)
  rules.check(settings)
  values.check_read(settings, config)
  settings = dataclasses.replace(
    settings,
    teacher=presets.fill_in(settings.teacher),
    teachers={name: presets.fill_in(other) for name, other in settings.teachers.items()},
  )
  if teacher:
    rules_teacher.check(settings)
  return defaults.settle(settings)
