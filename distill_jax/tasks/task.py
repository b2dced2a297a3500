"""Task: the problems of a data set, and how their answers are read and compared."""

import re
from collections.abc import Callable

from distill_jax import errors, records
from distill_jax.tasks import answers, expressions, shots, texts
from distill_jax.worlds import arithmetic, taxonomy

SPLITS = ("train", "validation", "test", "out_of_domain")

# A line that `render` puts below a question: "(A) text".
_CHOICE = re.compile(r"\(([A-Za-z0-9]{1,2})\) (.+)")


class Task:
  """Problems by split, and how their answers are read and compared.

  Attributes:
    name: Name of the task.
    shots: Worked examples as (question, rationale) pairs.
    kind: Kind of its problems: number, choice, boolean, expression or text.
    world: The world that generates the problems; None for published data.
    grader: Judges an answer in place of the comparison by kind; see `own`.
  """

  def __init__(
    self,
    name: str,
    problems: Callable[[str], list[records.Problem]],
    shots: tuple[tuple[str, str], ...] = shots.NUMBER,
    *,
    kind: str = "number",
    world: arithmetic.ArithmeticWorld | taxonomy.TaxonomyWorld | None = None,
    grader: Callable[[str, str], bool] | None = None,
  ):
    """`problems` returns the problems of a split; for the rest see the attributes."""
    self.name, self.shots, self.kind, self.world = name, shots, kind, world
    self.grader = grader
    self._problems = problems

  def problems(self, split: str) -> list[records.Problem]:
    """The problems of train, validation, test or out_of_domain; [] if the task has none.

    Raises:
      errors.UserError: There is no such split.
    """
    if split not in SPLITS:
      raise errors.usage(f"no split {split!r}; choose one of {', '.join(SPLITS)}")
    return self._problems(split)

  def render(self, problem: records.Problem) -> str:
    """The question as the student sees it, with one line per choice below it."""
    return records.rendered(problem)

  def parse_question(self, question: str) -> records.Problem:
    """The problem of a rendered question, without a gold answer: the inverse of `render`."""
    lines = question.strip().split("\n")
    choices = []
    while self.kind == "choice" and len(lines) > 1 and (match := _CHOICE.fullmatch(lines[-1])):
      choices.insert(0, match.groups())
      lines.pop()
    return records.Problem("", "", "\n".join(lines), "", self.kind, choices=tuple(choices))

  def read_answer(self, text: str, problem: records.Problem, *, whole: bool = True) -> str | None:
    """Reads the answer of a rationale.

    Args:
      text: The rationale.
      problem: Its question.
      whole: Whether the text ended by itself. A text that was cut off is read only after an
        explicit marker, never by its last number, label or word.

    Returns:
      The answer in canonical form (a number, a label, "yes" or "no", or the normal form of an
      expression or a text); None if the text has none.
    """
    if self.grader is not None:
      return texts.open_answer(text, whole=whole)
    if problem.kind == "choice":
      labels = tuple(label for label, _ in problem.choices)
      options = tuple(option for _, option in problem.choices)
      return answers.read_choice(text, labels, options, last_label=whole)
    if problem.kind == "boolean":
      return answers.read_boolean(text, last_word=whole)
    if problem.kind == "expression":
      return expressions.read_expression(text)
    if problem.kind == "text":
      return texts.read_text(text, last_line=whole)
    return answers.read_number(text, last_number=whole)

  def is_correct(self, answer: str | None, problem: records.Problem) -> bool:
    """Whether `answer`, as returned by `read_answer`, is the problem's gold."""
    if self.grader is not None:
      return answer is not None and self.grader(answer, problem.gold)
    if problem.kind == "number":
      return answers.same_number(answer, problem.gold)
    if problem.kind == "expression":
      return answer is not None and answer == expressions.normalize(problem.gold)
    if problem.kind == "text":
      golds = (problem.gold, *problem.accepted)
      return answer is not None and texts.normalize(answer) in map(texts.normalize, golds)
    return answer == problem.gold
