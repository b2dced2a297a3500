"""Opens the tasks that the settings name."""

import dataclasses

from distill_jax import tasks
from distill_jax.settings import Also, Cross, Settings, Task
from distill_jax.tasks import own


def open_task(settings: Settings, group: str = "task") -> tasks.Task:
  """Opens the task that is named in config.task, or in config.cross or config.evaluate.also.

  Args:
    settings: The settings.
    group: task, cross or also.
  """
  groups: dict[str, Task | Cross | Also] = {
    "task": settings.task,
    "cross": settings.cross,
    "also": settings.evaluate.also,
  }
  chosen = groups[group]
  train = 0 if isinstance(chosen, Also) else chosen.train
  worlds = {"arithmetic": settings.world, "taxonomy": settings.taxonomy}
  validation = settings.task.validation if group == "task" else 0
  if chosen.name not in worlds:
    of_own: dict[str, object] = {}
    if chosen.name == own.NAME and isinstance(chosen, Task):
      of_own = {"kind": chosen.kind, "grader": chosen.grader}
      of_own["column"] = dataclasses.asdict(chosen.columns)
    return tasks.get(
      chosen.name,
      path=chosen.path,
      hub=chosen.hub,
      train=train,
      validation=validation,
      test=chosen.test,
      **of_own,
    )
  options = dataclasses.asdict(worlds[chosen.name])
  for split, limit in (("train", train), ("test", chosen.test)):
    if limit:
      options[split] = min(options[split], limit)
  return tasks.get(chosen.name, **options, validation=validation)
