"""distill-jax data show: what was understood of the data of a task."""

import dataclasses
import json
import sys
from typing import Any

from distill_jax import console, errors, records
from distill_jax.runtime import context
from distill_jax.settings import Settings
from distill_jax.tasks import own, task


def show(settings: Settings, n: int) -> None:
  """Prints counts, kind, columns, what was left out and `n` questions; as JSON in a pipe.

  Raises:
    UserError: The data cannot be read or understood.
  """
  if n < 0:
    raise errors.usage(f"--n={n} must be 0 or more")
  if settings.task.grader:
    own.open_grader(settings.task.grader)
  facts: dict[str, Any] = {"task": settings.task.name}
  if settings.task.name == own.NAME:
    data = own.understand_settings(settings.task)
    opened = task.Task(own.NAME, lambda split: data.splits.get(split, []), kind=data.kind)
    facts |= {"source": data.source, "kind": data.kind, "kind_is_guessed": data.is_guessed}
    facts |= {"columns": data.columns.described(), "split_by": data.split_by}
    facts |= {"left_out": dict(data.left_out), "notes": data.notes}
  else:
    opened = context.open_task(settings)
    facts["kind"] = opened.kind
  splits = {name: opened.problems(name) for name in task.SPLITS}
  facts["counts"] = {name: len(problems) for name, problems in splits.items()}
  shown = [p for problems in splits.values() for p in problems][:n]
  if sys.stdout.isatty():
    print(console.plain(_as_text(facts, opened, shown)))
  else:
    questions = [{**dataclasses.asdict(p), "rendered": opened.render(p)} for p in shown]
    print(json.dumps({**facts, "questions": questions}))


def _as_text(facts: dict[str, Any], opened: task.Task, shown: list[records.Problem]) -> str:
  guessed = " (guessed; set task.kind to change it)" if facts.get("kind_is_guessed") else ""
  lines = [f"source    {facts['source']}"] if "source" in facts else []
  lines.append(f"answers   {facts['kind']}{guessed}")
  counts = ", ".join(f"{name} {n}" for name, n in facts["counts"].items() if n)
  by = f", by {facts['split_by']}" if "split_by" in facts else ""
  lines.append(f"questions {counts}{by}")
  if "columns" in facts:
    used = ", ".join(f"{role}: {name}" for role, name in facts["columns"].items())
    lines.append(f"columns   {used}")
  lines += [f"note      {note}" for note in facts.get("notes", ())]
  for problem in shown:
    lines += ["", f"{problem.id} ({problem.split})", opened.render(problem)]
    accepted = "".join(f", or {other}" for other in problem.accepted)
    lines.append(f"-> {problem.gold}{accepted}")
    if problem.rationale:
      lines.append(f"   with a rationale of {len(problem.rationale)} characters")
  return "\n".join(lines)
