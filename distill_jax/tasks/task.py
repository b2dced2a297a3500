"""What the rest of the house sees of any data set: its problems, and the reading of its answers."""

import re
from collections.abc import Callable

from distill_jax import errors, records
from distill_jax.tasks import answers, expressions, shots

SPLITS = ("train", "validation", "test", "out_of_domain")

# The lines that `render` puts below a question.
_CHOICE = re.compile(r"\(([A-Za-z0-9]{1,2})\) (.+)")


class Task:
  """Problems by split, with the reading and the comparing of their answers."""

  def __init__(
    self,
    name: str,
    problems: Callable[[str], list[records.Problem]],
    shots: tuple[tuple[str, str], ...] = shots.NUMBER,
    *,
    kind: str = "number",
    world=None,
  ):
    """`problems` gives a split's problems; `shots` are (question, rationale) to show before one;
    `kind` is that of its problems; `world` is who makes them, None for published data."""
    self.name, self.shots, self.kind, self.world = name, shots, kind, world
    self._problems = problems

  def problems(self, split: str) -> list[records.Problem]:
    """The problems of train, validation, test or out_of_domain; [] where there are none.

    Raises errors.UserError for any other split.
    """
    if split not in SPLITS:
      raise errors.usage(f"no split {split!r}; there are {', '.join(SPLITS)}")
    return self._problems(split)

  def render(self, problem: records.Problem) -> str:
    """The question as the student sees it, one line a choice where there are choices."""
    choices = [f"({label}) {text}" for label, text in problem.choices]
    return "\n".join([problem.question, *choices])

  def parse_question(self, question: str) -> records.Problem:
    """A question that someone types, as a problem whose gold nobody knows: `render` undone."""
    lines = question.strip().split("\n")
    choices = []
    while self.kind == "choice" and len(lines) > 1 and (found := _CHOICE.fullmatch(lines[-1])):
      choices.insert(0, found.groups())
      lines.pop()
    return records.Problem("", "", "\n".join(lines), "", self.kind, choices=tuple(choices))

  def read_answer(self, text: str, problem: records.Problem) -> str | None:
    """The answer of a rationale in canonical form (a number, a label, yes or no, the normal form
    of an expression), None if it has none."""
    if problem.kind == "choice":
      return answers.read_choice(text, tuple(label for label, _ in problem.choices))
    if problem.kind == "boolean":
      return answers.read_boolean(text)
    if problem.kind == "text":
      return expressions.read_expression(text)
    return answers.read_number(text)

  def is_correct(self, answer: str | None, problem: records.Problem) -> bool:
    """Whether `answer`, as `read_answer` gives it, is the problem's gold."""
    if problem.kind == "number":
      return answers.same_number(answer, problem.gold)
    if problem.kind == "text":
      return answer is not None and answer == expressions.normalize(problem.gold)
    return answer == problem.gold
