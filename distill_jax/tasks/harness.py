"""Questions and verdicts for evaluation harnesses of other projects.

It needs the standard library only, so a harness can import it from a distill_jax that is installed
without its dependencies.
"""

import dataclasses

from distill_jax import records
from distill_jax.tasks import task


def row(problem: records.Problem, prompt: records.Prompt) -> dict[str, str]:
  """Returns a question as a harness stores it.

  Args:
    problem: The question.
    prompt: The student's prompt for it.

  Returns:
    id; question, with one line per choice; prompt, "" unless it is plain text; gold; and problem,
    which `verdict` reads.
  """
  bare = dataclasses.replace(problem, rationale="", decomposition=(), facts=())
  return {
    "id": problem.id,
    "question": records.rendered(problem),
    "prompt": prompt if isinstance(prompt, str) else "",
    "gold": problem.gold,
    "problem": records.dump(bare),
  }


def verdict(problem: str, text: str, *, whole: bool = True) -> tuple[str | None, bool]:
  """Judges what a model wrote, as `distill-jax evaluate` does.

  Args:
    problem: The field `problem` of the question's row.
    text: What the model wrote.
    whole: Whether it ended by itself; see `Task.read_answer`.

  Returns:
    (the answer in canonical form, None if there is none; whether it is correct).
  """
  asked = records.load(records.Problem, problem, "problem")
  reader = task.Task("harness", lambda split: [], kind=asked.kind)
  answer = reader.read_answer(text, asked, whole=whole)
  return answer, reader.is_correct(answer, asked)
