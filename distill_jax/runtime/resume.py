"""Facts about the start of a run, stored in the manifest of its directory, checked on restarts.

questions   digest of each split: the data may move, but not change
teachers    name of each server in cache keys: the server may move
recorded    digests of the files that a teacher replays: they may move, but not change
init        where the base model is: it may move, but not change
positions   length of a learned position table: evaluate.max_new_tokens may change
"""

import dataclasses
import hashlib
from collections.abc import Iterable

from distill_jax import errors, records, together
from distill_jax.run_dir import digests, phase_dir
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import base_model
from distill_jax.runtime.context import RunContext
from distill_jax.settings import Settings, Teacher
from distill_jax.tasks.task import SPLITS
from distill_jax.teacher import has_replies, pool

QUESTIONS, TEACHERS, RECORDED, INIT = "questions", "teachers", "recorded", "init"


@together.on_first
def check_start(ctx: RunContext) -> None:
  """Stores the facts of a new run; compares them if the run was started before.

  Raises:
    UserError: The data, the recorded files of a teacher, or the weights of a base model that has
      moved differ from those that the run was started with.
  """
  if base_model.POSITIONS not in ctx.run_dir.facts:
    ctx.run_dir.note(base_model.POSITIONS, base_model.max_row_length(ctx.settings))
  if QUESTIONS not in ctx.run_dir.facts:
    ctx.run_dir.note(QUESTIONS, question_digests(ctx))
  else:
    check_questions(ctx)
  check_recorded(ctx)
  init = ctx.settings.student.init
  if ctx.run_dir.started and ctx.run_dir.facts.get(INIT, init) != init:
    base_model.weights_dir(ctx.settings, ctx.base)
  ctx.run_dir.note(INIT, init)


@together.on_first
def check_questions(ctx: RunContext) -> None:
  """Compares the questions with those that the run was started with.

  Raises:
    UserError: They differ.
  """
  known, current = ctx.run_dir.facts.get(QUESTIONS, {}), question_digests(ctx)
  changed = [name for name in known | current if known.get(name) != current.get(name)]
  if known and changed:
    task = ctx.settings.task
    source = task.path or task.hub or task.name
    if all(name.startswith("cross/") for name in changed):
      cross = ctx.settings.cross
      source = cross.path or cross.hub or cross.name
    raise errors.data(
      f"{source} does not have the questions that {ctx.run_dir.path} was started with "
      f"({', '.join(changed)} differ): restore them, name the right files with "
      "--config.task.path, or use another --workdir"
    )


def check_recorded(ctx: RunContext) -> None:
  """Stores digests of the files that teachers replay; compares them if the run was started before.

  Raises:
    UserError: They differ, or cannot be read.
  """
  known: dict[str, list[str]] = ctx.run_dir.facts.get(RECORDED, {})
  current: dict[str, list[str]] = {}
  for name, teacher in {pool.MAIN: ctx.settings.teacher, **ctx.settings.teachers}.items():
    if teacher.kind != "replay":
      continue
    files = [*teacher.replay.path, *filter(None, [teacher.replay.questions])]
    current[name] = [_digest_of_file(file) for file in files]
    if known.get(name, current[name]) != current[name]:
      raise errors.data(
        f"{', '.join(files)}: not the recorded files that {ctx.run_dir.path} was started with; "
        "restore them, or use another --workdir"
      )
  if current:
    ctx.run_dir.note(RECORDED, known | current)


def _digest_of_file(file: str) -> str:
  with phase_dir.report_os_errors(file):
    return digests.sha256(file)


def question_digests(ctx: RunContext) -> dict[str, str]:
  """Returns {split: digest of its questions}, without empty splits."""
  splits = {name: ctx.task.problems(name) for name in SPLITS}
  later = ctx.round_task(1)
  if later is not ctx.task:
    splits |= {f"cross/{name}": later.problems(name) for name in ("train", "test")}
  return {name: digest(problems) for name, problems in splits.items() if problems}


def digest(problems: Iterable[records.Problem]) -> str:
  """Returns the SHA-256 of questions with all their fields, in order."""
  total = hashlib.sha256()
  for problem in problems:
    total.update(f"{records.dump(problem)}\n".encode())
  return total.hexdigest()


def name_servers(settings: Settings, run_dir: RunDir) -> Settings:
  """Returns the settings in which a server that has moved keeps its name in cache keys.

  A server without a `teacher.identity` is named by the address that the run was started with, or
  had when it stored its first reply. It is remembered if this process has claimed the directory.
  """
  known: dict[str, str] = run_dir.facts.get(TEACHERS, {})
  if known and not (run_dir.started or _has_replies(settings, run_dir)):
    known = {}  # the address may have been wrong
  teachers = {pool.MAIN: settings.teacher, **settings.teachers}
  addresses = {name: _address(t) for name, t in teachers.items() if t.kind == "openai"}
  if run_dir.claimed:
    run_dir.note(TEACHERS, addresses | known)
  named = {
    name: dataclasses.replace(teacher, identity=known[name])
    for name, teacher in teachers.items()
    if name in addresses and known.get(name, addresses[name]) != addresses[name]
    if not teacher.identity
  }
  main = named.pop(pool.MAIN, settings.teacher)
  return dataclasses.replace(settings, teacher=main, teachers={**settings.teachers, **named})


def _has_replies(settings: Settings, run_dir: RunDir) -> bool:
  return together.once("has replies", lambda: has_replies(settings.teacher, run_dir.path))


def _address(teacher: Teacher) -> str:
  return teacher.base_url.rstrip("/") or ("files" if teacher.batch == "files" else "")
