"""Which teachers can be asked, and which cannot: refused by name, before anything is paid for.

`s` is a settings.Settings throughout.
"""

import pathlib

from distill_jax import errors
from distill_jax import plan as plans
from distill_jax.config import rules
from distill_jax.teacher import pool
from distill_jax.teacher.builtin import faults
from distill_jax.teacher.client import credentials, request_body


def askers(s) -> list[str]:
  """The phases of the plan that ask a teacher."""
  planned = s.opening + (s.each_round if s.rounds else ())
  free = {"demonstrate"} if s.demonstrate.source == "gold" else set()
  return [phase for phase in dict.fromkeys(planned) if phase in set(plans.ASKERS) - free]


def check(s) -> None:
  """Refuses teachers that cannot be asked; of those that nobody asks, what makes no sense."""
  _check_pool(s)
  for field in ("demonstrate.rationales", "feedback.rationales"):
    if s.teacher.temperature == 0 and rules.look_up(s, field) > 1:
      raise errors.config(
        field, rules.look_up(s, field), "1 at teacher.temperature 0: all are the same"
      )
  asked = pool.teachers_used(s, askers(s)) or [pool.MAIN]
  for name in (pool.MAIN, *s.teachers):
    try:
      _check_values(pool.get(s, name))
      if name in asked:
        _check_use(s, name, pool.get(s, name))
    except errors.UserError as refusal:
      if name == pool.MAIN:
        raise
      said = str(refusal).replace("config.teacher.", f"config.teachers.{name}.")
      raise errors.UserError(said, refusal.code) from None


def _check_pool(s) -> None:
  for phase in pool.phase_teachers(s):
    if phase not in plans.ASKERS:
      allowed = f"about phases that ask a teacher: {', '.join(plans.ASKERS)}"
      example = "--config.teacher.by_phase=\"('feedback=NAME',)\""
      raise errors.config("teacher.by_phase", s.teacher.by_phase, allowed, example)
  pool.phase_weights(s, "")


def _check_values(t) -> None:
  if t.prices.cached < 0 and t.prices.cached != -1:
    raise errors.config("teacher.prices.cached", t.prices.cached, "0 or more, or -1: as input")
  if 0 < t.max_tokens_retry_limit < t.max_tokens:
    allowed = f"0, or at least teacher.max_tokens={t.max_tokens}, from which it is doubled"
    raise errors.config("teacher.max_tokens_retry_limit", t.max_tokens_retry_limit, allowed)
  faults.Script(t.builtin.faults, 0)
  credentials.check_name(t.key_env)
  if t.base_url:
    credentials.check_address(t.base_url, insecure_http=t.insecure_http)
  request_body.parse_extra_body(t.extra_body)
  if t.batch and t.kind != "openai":
    raise errors.config("teacher.batch", t.batch, f"empty with teacher.kind={t.kind}")
  if t.kind in ("replay", "student"):
    for field, none in (("structured", False), ("extra_body", "")):
      if (value := getattr(t, field)) != none:
        allowed = f"{none!r} with teacher.kind={t.kind}: no server is asked"
        raise errors.config(f"teacher.{field}", value, allowed)


def _check_use(s, name: str, t) -> None:
  """Can the teacher `t` of that name be asked?"""
  if t.kind == "builtin" and s.task.name not in rules.WORLDS and askers(s):
    allowed = f"openai, replay or student: no world is behind task {s.task.name}"
    raise errors.config("teacher.kind", t.kind, allowed)
  if t.kind == "openai" and (t.base_url or t.batch != "files"):
    credentials.check_address(t.base_url, insecure_http=t.insecure_http)
    credentials.key(t.base_url, key_env=t.key_env, key_file=t.key_file)
  if t.kind == "student":
    _check_student(s, name, t)
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


def _check_student(s, name: str, t) -> None:
  if not t.model or not pathlib.Path(t.model).is_dir():
    example = "--config.teacher.model=DIR"
    raise errors.config("teacher.model", t.model, "a folder as export writes it", example)
  tailors = "feedback" in askers(s) and s.feedback.kind == "correct"
  if tailors and name in pool.phase_weights(s, "feedback"):
    allowed = "blind where a student is the teacher: it reads no mistakes"
    raise errors.config("feedback.kind", s.feedback.kind, allowed, "--config.feedback.kind=blind")
