"""Opens the directory of a run to read from it, for evaluate, sample and export."""

import dataclasses
import json
import pathlib
import sys
from typing import Any

from distill_jax import console, errors, plan
from distill_jax.run_dir import absent, phase_dir
from distill_jax.run_dir.run_dir import CONFIG, RunDir, changed_keys
from distill_jax.runtime import base_model, lengths, results, resume
from distill_jax.runtime.context import RunContext
from distill_jax.settings import Settings


def open_run(settings: Settings, workdir: str) -> RunContext:
  """Opens a run directory to read from it; messages go to standard error.

  Raises:
    UserError: It is not a run directory, one of its files is damaged, the settings describe
      another student than the run's, or the data have changed.
  """
  if not workdir:
    raise errors.missing("workdir", "runs/quickstart")
  path = pathlib.Path(workdir)
  if not (path / CONFIG).exists():
    raise absent.error(workdir)
  run_dir = RunDir(path)
  run_dir.verify()
  stored = phase_dir.read_json(path / CONFIG)
  check_same_student(settings, stored)
  ctx = RunContext(settings, run_dir, console.Console(file=sys.stderr))
  groups = ("config.task.", "config.cross.", "config.world.", "config.taxonomy.")
  if not any(key.startswith(groups) for key in changed_keys(stored, _as_json(settings))):
    resume.check_questions(ctx)
  lengths.settle(ctx)
  return ctx


def _as_json(settings: Settings) -> dict[str, Any]:
  """The settings as they are stored: tuples become lists."""
  return json.loads(json.dumps(dataclasses.asdict(settings)))


def check_same_student(settings: Settings, stored: dict[str, Any]) -> None:
  """Checks that the settings describe the student of a run.

  How the student computes, and where the model it started from is stored, may differ.

  Args:
    settings: The settings.
    stored: The run's config.

  Raises:
    UserError: They describe another student.
  """
  given = _as_json(settings)
  free = {f"config.student.{name}" for name in ("dtype", "attention")}
  inits = {stored["student"]["init"], settings.student.init}
  if base_model.SCRATCH not in inits:
    free.add("config.student.init")
  other = {key for key in changed_keys(stored, given) if key.startswith("config.student.")}
  scratch_lora = inits == {base_model.SCRATCH} and settings.student.lora.rank > 0
  if scratch_lora and stored["seed"] != settings.seed:
    other.add("config.seed")  # it decides the frozen weights below the adapters
  if other - free:
    raise errors.UserError(
      f"{', '.join(sorted(other - free))} must have the value that this student was trained with:"
      " leave it out, or train another student in another --workdir",
      errors.CONFIG,
    )


def select_round(ctx: RunContext, round_index: int) -> int:
  """Resolves --round: a finished round, or with -1 the best one by validation accuracy.

  Raises:
    UserError: The round is not finished.
  """
  scores: dict[int, float] = {}
  for index in range(ctx.settings.rounds + 1):
    finished = ctx.run_dir.finished(index)
    if "evaluate" in finished and set(plan.TRAINERS) & set(finished):
      scores[index] = results.evaluation(finished["evaluate"])["accuracy"]
  if not scores and not set(plan.TRAINERS) & {*ctx.settings.opening, *ctx.settings.each_round}:
    raise errors.usage(f"{ctx.run_dir.path} trains no student; use evaluate --student=DIRECTORY")
  if not scores:
    raise errors.data(f"{ctx.run_dir.path} has no finished round yet")
  if round_index == -1:
    return max(scores, key=lambda index: (scores[index], -index))
  if round_index not in scores:
    raise errors.usage(f"--round={round_index} is not finished; choose one of {sorted(scores)}")
  return round_index
