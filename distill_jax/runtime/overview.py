"""Describes a run to its readers: the first line of output, README.md and questions.jsonl."""

import math
import urllib.parse
from collections.abc import Iterator, Sequence

import jax

from distill_jax import records, students, together
from distill_jax.run_dir import questions, readme
from distill_jax.runtime import base_model
from distill_jax.runtime.context import RunContext
from distill_jax.runtime.student import build_mesh
from distill_jax.settings import Teacher
from distill_jax.students import families, trainable
from distill_jax.tasks import task
from distill_jax.teacher import pool


@together.on_first
def write_for_readers(ctx: RunContext) -> None:
  """Writes README.md and questions.jsonl into the run directory, unless they are up to date."""
  readme.write(ctx.run_dir.path)
  questions.write(ctx.run_dir, all_problems(ctx))


def all_problems(ctx: RunContext) -> Iterator[tuple[str, records.Problem]]:
  """Yields (split, problem) of every question of a run, each id once.

  The training questions of a second task (config.cross) are in `train`, its test in `cross`.
  """
  splits = {split: ctx.task.problems(split) for split in task.SPLITS}
  splits["train"] = [*splits["train"], *ctx.round_task(1).problems("train")]
  splits |= ctx.final_problems()
  seen: set[str] = set()
  for split, problems in splits.items():
    for problem in problems:
      if problem.id not in seen:
        seen.add(problem.id)
        yield split, problem


@together.on_first
def first_line(ctx: RunContext, askers: Sequence[str]) -> str:
  """Describes a run in one line: task, questions, teacher, student, devices, directory.

  Args:
    ctx: The run context.
    askers: The phases of the plan that ask a teacher.
  """
  settings = ctx.settings
  names = pool.teachers_used(settings, askers)
  teachers = " and ".join(describe_teacher(pool.get(settings, name)) for name in names)
  parts = (
    f"task {_describe_task(ctx)}",
    f"teacher {teachers}" if teachers else "no teacher",
    _describe_student(ctx),
    _describe_devices(ctx),
    f"directory {ctx.run_dir.path}",
  )
  return f"{settings.recipe}: {'; '.join(parts)}"


def _describe_task(ctx: RunContext) -> str:
  counts = {split: len(ctx.task.problems(split)) for split in task.SPLITS}
  listed = ", ".join(f"{count} {split}" for split, count in counts.items() if count)
  text = f"{ctx.task.name} ({listed} questions)"
  if cross := ctx.settings.cross.name:
    later = ctx.round_task(1)
    counts = {split: len(later.problems(split)) for split in ("train", "test")}
    text += f", then {cross} ({counts['train']} train, {counts['test']} test questions)"
  if also := ctx.settings.evaluate.also.name:
    text += f", also tested on {also} ({len(ctx.problems('also'))} questions)"
  return text


def describe_teacher(teacher: Teacher) -> str:
  """Describes a teacher in a few words, without a password that its address may contain."""
  if teacher.kind == "builtin":
    return f"built-in ({teacher.builtin.error_rate:.0%} wrong replies)"
  if teacher.kind == "replay":
    return f"replay of {', '.join(teacher.replay.path)}"
  if teacher.kind == "student":
    return f"student {teacher.model}"
  if teacher.batch == "files":
    return f"{teacher.model} (offline, batch files)"
  address = urllib.parse.urlsplit(teacher.base_url)
  host = address.netloc.rpartition("@")[2] or teacher.base_url
  return f"{teacher.model or 'the only model'} at {host}"


def _describe_student(ctx: RunContext) -> str:
  settings, names, base = ctx.settings.student, ctx.format.students, known_base(ctx)
  kind = next(name for name, family in families.BY_TYPE.items() if family is base.family)
  count = f"{count_params(students.of(base.config).shapes(base.config)):,} parameters"
  if settings.init != base_model.SCRATCH:
    text = f"{kind} {settings.init} with {count}"
  elif (ctx.run_dir.path / "tokenizer").exists():
    text = f"{kind} from scratch with {count}"
  else:  # its tokenizer, trained later, may need fewer tokens
    text = f"{kind} from scratch with at most {count}"
  if settings.lora.rank:
    targets = tuple(sorted(settings.lora.targets))
    adapters = trainable.Trainable(base.config, settings.lora.rank, targets=targets)
    text += f" and {count_params(adapters.shapes):,} in LoRA adapters"
    text += f" over weights in {settings.lora.base}" if settings.lora.base else ""
  if len(names) > 1:
    return f"{len(names)} students ({', '.join(names)}), each {text}"
  return f"student {text}"


def known_base(ctx: RunContext) -> base_model.BaseModel:
  """Returns the base model, before a student from scratch has its tokenizer.

  Its vocabulary is then the largest one that its tokenizer may have.
  """
  settings, path = ctx.settings, ctx.run_dir.path
  if settings.student.init != base_model.SCRATCH or (path / "tokenizer").exists():
    return ctx.base
  vocab = settings.student.scratch.vocab
  return base_model.open_base(settings, path, started=ctx.run_dir.started, vocab=vocab)


def count_params(shapes: object) -> int:
  """Returns the number of parameters in a pytree of arrays or shapes."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def _describe_devices(ctx: RunContext) -> str:
  devices = build_mesh(ctx.settings).devices.flatten()
  return f"{len(devices)} x {devices[0].device_kind}"
