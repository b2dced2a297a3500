"""Rules about teachers: one that cannot be asked is rejected before anything is paid for."""

import pathlib

from distill_jax import errors, plan
from distill_jax.config.values import look_up
from distill_jax.settings import WORLDS, Settings, Teacher
from distill_jax.teacher import pool, presets
from distill_jax.teacher.client import credentials, headers, request_body


def askers(settings: Settings) -> list[str]:
  """The phases of the plan that send requests to a teacher."""
  planned = settings.opening + (settings.each_round if settings.rounds else ())
  free = {"demonstrate"} if settings.demonstrate.source == "gold" else set[str]()
  return [phase for phase in dict.fromkeys(planned) if phase in set(plan.ASKERS) - free]


def check(settings: Settings) -> None:
  """Checks every teacher, and of those that are asked whether they can be reached.

  Raises:
    UserError: A teacher's settings contradict each other, or it cannot be asked.
  """
  _check_pool(settings)
  for field in ("demonstrate.rationales", "feedback.rationales"):
    if settings.teacher.temperature == 0 and look_up(settings, field) > 1:
      allowed = "1 at teacher.temperature 0, where all replies are equal"
      raise errors.config(field, look_up(settings, field), allowed)
  asked = pool.teachers_used(settings, askers(settings)) or [pool.MAIN]
  for name in (pool.MAIN, *settings.teachers):
    try:
      teacher = pool.get(settings, name)
      _check_values(teacher)
      if name in asked:
        _check_use(settings, name, teacher)
    except errors.UserError as error:
      if name == pool.MAIN:
        raise
      message = str(error).replace("config.teacher.", f"config.teachers.{name}.")
      raise errors.UserError(message, error.code) from None


def check_prices(settings: Settings) -> None:
  """Checks that the price of every teacher that is asked is known: otherwise no cap can hold.

  Raises:
    UserError: A price is not known.
  """
  for name in pool.teachers_used(settings, askers(settings)):
    teacher = pool.get(settings, name)
    if presets.unpriced(teacher):
      group = "teacher" if name == pool.MAIN else f"teachers.{name}"
      raise errors.UserError(
        f"the price of {teacher.model} at {teacher.base_url} is not known, so"
        f" config.teacher.max_dollars cannot hold; set --config.{group}.prices.input=DOLLARS and"
        f" --config.{group}.prices.output=DOLLARS per million tokens (0 if nobody charges for it)",
        errors.CONFIG,
      )


def free_notes(settings: Settings) -> list[str]:
  """Returns a line for each teacher on this machine whose model some vendor charges for."""
  notes: list[str] = []
  for name in pool.teachers_used(settings, askers(settings)):
    teacher = pool.get(settings, name)
    if vendor := hidden_vendor(teacher):
      group = "teacher" if name == pool.MAIN else f"teachers.{name}"
      notes.append(
        f"{teacher.base_url} is on this machine and counts as free, but {vendor} charges for"
        f" {teacher.model}: if it is a proxy, set config.{group}.prices, or no cap in dollars holds"
      )
  return notes


def hidden_vendor(teacher: Teacher) -> str:
  """The vendor that charges for the model of a free teacher on this machine; "" if none is known.

  The server may be a proxy.
  """
  free = teacher.prices.input == teacher.prices.output == 0
  if teacher.kind != "openai" or presets.billed(teacher) or not free:
    return ""
  paid = (name for name, vendor in presets.VENDORS.items() if not vendor.free)
  costs = ((name, presets.known_prices(name, teacher.model)) for name in paid)
  return next((name for name, found in costs if found and found.output > 0), "")


def _check_pool(settings: Settings) -> None:
  for phase in pool.phase_teachers(settings):
    if phase not in plan.ASKERS:
      allowed = f"about phases that ask a teacher: {', '.join(plan.ASKERS)}"
      example = "--config.teacher.by_phase=feedback=NAME"
      raise errors.config("teacher.by_phase", settings.teacher.by_phase, allowed, example)
  pool.phase_weights(settings, "")


def _check_values(teacher: Teacher) -> None:
  for name in ("input", "output", "cached"):
    price = getattr(teacher.prices, name)
    if price < 0 and price != presets.UNKNOWN:
      allowed = "0 or more, or -1: the known price of the model"
      raise errors.config(f"teacher.prices.{name}", price, allowed)
  if 0 < teacher.max_tokens_retry_limit < teacher.max_tokens:
    allowed = f"0, or at least teacher.max_tokens={teacher.max_tokens}, from which it is doubled"
    field = "teacher.max_tokens_retry_limit"
    raise errors.config(field, teacher.max_tokens_retry_limit, allowed)
  credentials.check_name(teacher.key_env)
  if teacher.base_url:
    credentials.check_address(teacher.base_url, insecure_http=teacher.insecure_http)
  request_body.parse_extra_body(teacher.extra_body)
  headers.parse(teacher.extra_headers)


def _check_use(settings: Settings, name: str, teacher: Teacher) -> None:
  if teacher.kind == "builtin" and settings.task.name not in WORLDS and askers(settings):
    allowed = f"openai, replay or student: task {settings.task.name} has no built-in world"
    raise errors.config("teacher.kind", teacher.kind, allowed)
  if teacher.kind == "openai" and (teacher.base_url or teacher.batch != "files"):
    credentials.check_address(teacher.base_url, insecure_http=teacher.insecure_http)
    credentials.key(teacher.base_url, key_env=teacher.key_env, key_file=teacher.key_file)
    headers.resolve(teacher.extra_headers)
  if teacher.kind == "student":
    _check_student(settings, name, teacher)
  if teacher.kind == "replay":
    _check_replay(teacher)


def _check_replay(teacher: Teacher) -> None:
  replay = teacher.replay
  if not replay.path:
    example = "--config.teacher.replay.path=FILE"
    raise errors.config("teacher.replay.path", replay.path, "the recorded files", example)
  for field, paths in (("path", replay.path), ("questions", (replay.questions,))):
    for path in paths:
      if path and not pathlib.Path(path).is_file():
        raise errors.config(f"teacher.replay.{field}", path, "a file that exists")


def _check_student(settings: Settings, name: str, teacher: Teacher) -> None:
  if not teacher.model or not pathlib.Path(teacher.model).is_dir():
    example = "--config.teacher.model=DIR"
    raise errors.config("teacher.model", teacher.model, "a directory written by export", example)
  corrects = "feedback" in askers(settings) and settings.feedback.kind == "correct"
  if corrects and name in pool.phase_weights(settings, "feedback"):
    allowed = "blind if a student teaches: it cannot read mistakes"
    example = "--config.feedback.kind=blind"
    raise errors.config("feedback.kind", settings.feedback.kind, allowed, example)
