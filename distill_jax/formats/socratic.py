"""Sub-questions and their solutions (Shridhar et al. 2023, Socratic CoT). Iterative: a decomposer
asks, a solver answers, until there are no more questions. Unified: one student writes all of it.

decomposer                      solver
Question: Tom has 3 apples ...  Question: Tom has 3 apples ...
Sub-question: | How many ...?   Sub-question: How many ...?
                                Solution: | 3 + 4 = 7. Answer: 7
Sub-question: | No more questions.

At each | a student goes on, in one line. The last solution ends in "Answer: N"; where a student's
does not, what can be read in it counts. What separates parts and ends the asking are words, which
every tokenizer keeps. Whether the paper's decomposer sees the solutions is not known: a setting.
"""

from collections.abc import Generator

from distill_jax import errors, records
from distill_jax.formats import calculator, cot, decompositions, turns

END = "No more questions."


class Iterative:
  students = ("decomposer", "solver")
  stages = ("",)
  stop = ("\n",)
  request_kind = "decompose"

  def __init__(self, questions="model", max_steps=8, solutions=True, calculator=False):
    """`questions`: whose sub-questions are answered, the decomposer's ("model") or the problem's
    own ("gold"). `max_steps`: of the decomposer's. `solutions`: does it see those so far?"""
    self._gold, self._max_steps = questions == "gold", max_steps
    self._solutions, self._calculator = solutions, calculator

  def prompt(self, question: str, shots=(), style: str = "") -> str:
    """The decomposer's first prompt."""
    turns.reject_unsupported(shots=shots, style=style)
    return self._ask(question, ())

  def conversation(
    self, problem: records.Problem, question: str, shots=(), *, style="", given=()
  ) -> Generator[tuple[turns.Turn, ...], list[str], str]:
    """Alternates the two; returns all sub-questions and solutions, and the answer of the last one.

    If the last solution has none, it alone is returned, so that no earlier one's is taken for it.
    Raises errors.UserError for gold sub-questions that the problem does not have.
    """
    turns.reject_unsupported(shots=shots, style=style, given=given)
    steps, gold = [], self._of(problem)
    for number in range(len(gold) if self._gold else self._max_steps):
      if self._gold:
        asked = gold[number]
      else:
        (text,) = yield (turns.Turn("decomposer", self._ask(question, steps)),)
        asked = turns.one_line(text)
      if not asked or asked.lower().startswith(END.lower().rstrip(".")):
        break
      prompt = _solve(question, decompositions.resolve_references(problem, [*steps, (asked, "")]))
      (text,) = yield (turns.Turn("solver", prompt),)
      solution = turns.one_line(text)
      steps.append((asked, calculator.correct_marks(solution) if self._calculator else solution))
    return _whole(problem, decompositions.resolve_references(problem, steps))

  def target(self, text: str, answer: str) -> str:
    """The lines of `text` with this answer at their end."""
    return cot.target(text, answer)

  def examples(
    self, problem: records.Problem, question: str, rationale: records.Rationale, shots=()
  ) -> list[records.Example]:
    """For each step one for the decomposer and one for the solver, and the decomposer's end; none
    if steps lack their solutions (see decompositions.with_solutions)."""
    turns.reject_unsupported(shots=shots)
    steps = _taught(problem, rationale, self._calculator)
    example = lambda *parts: records.Example(problem.id, *parts)
    found = []
    for number, (asked, solution) in enumerate(steps):
      found.append(example(self._ask(question, steps[:number]), asked, "decomposer"))
      shown = decompositions.resolve_references(problem, [*steps[:number], (asked, "")])
      found.append(example(_solve(question, shown), solution, "solver"))
    return found + [example(self._ask(question, steps), END, "decomposer")] * bool(steps)

  def _of(self, problem) -> list[str]:
    gold = [turns.one_line(asked) for asked, _ in problem.decomposition]
    if self._gold and not gold:
      raise errors.config(
        "socratic.questions", "gold", f"model: {problem.id or 'this'} comes without sub-questions"
      )
    return gold

  def _ask(self, question: str, steps) -> str:
    """What the decomposer sees; it refers to earlier answers as the data do ("#1")."""
    steps = steps if self._solutions else [(asked, "") for asked, _ in steps]
    return f"Question: {question}\n{_laid(steps)}Sub-question:\n"


class Unified:
  students = ("student",)
  stages = ("",)
  stop = (cot.STOP,)
  request_kind = "decompose"

  def __init__(self, calculator=False):
    self._calculator = calculator

  def prompt(self, question: str, shots=(), style: str = "") -> str:
    """What the student sees."""
    turns.reject_unsupported(shots=shots, style=style)
    return f"Question: {question}\nSteps:\n"

  def conversation(
    self, problem: records.Problem, question: str, shots=(), *, style="", given=()
  ) -> Generator[tuple[turns.Turn, ...], list[str], str]:
    """One turn; returns its text, without calculator marks."""
    turns.reject_unsupported(given=given)
    (text,) = yield (turns.Turn("student", self.prompt(question, shots, style)),)
    text = cot.cut_at_stop(text)
    return calculator.remove_marks(calculator.correct_marks(text)) if self._calculator else text

  def target(self, text: str, answer: str) -> str:
    """The lines of `text` with this answer at their end."""
    return cot.target(text, answer)

  def examples(
    self, problem: records.Problem, question: str, rationale: records.Rationale, shots=()
  ) -> list[records.Example]:
    """One, with all sub-questions and solutions and the answer line; none if steps lack their
    solutions."""
    steps = _taught(problem, rationale, self._calculator)
    prompt = self.prompt(question, shots)
    target = _closed(decompositions.resolve_references(problem, steps))
    return [records.Example(problem.id, prompt, target)] * bool(steps)


def _taught(problem, rationale, marks: bool) -> list[tuple[str, str]]:
  """The rationale's steps, the last with its answer, with calculator marks if they are wanted."""
  steps = [
    tuple(map(turns.one_line, step))
    for step in decompositions.with_solutions(problem, rationale.parts)
  ]
  if marks:
    steps = [(asked, calculator.add_marks(solution)) for asked, solution in steps]
  if steps:
    asked, solution = steps[-1]
    answer = rationale.answer or problem.gold
    steps[-1] = (asked, f"{decompositions.strip_answer(solution)} Answer: {answer}".strip())
  return steps


def _laid(steps) -> str:
  return "".join(
    f"Sub-question: {asked}\n" + (f"Solution: {solution}\n" if solution else "")
    for asked, solution in steps
  )


def _solve(question: str, steps) -> str:
  """What the solver sees: the last step is still without a solution."""
  return f"Question: {question}\n{_laid(steps)}Solution:\n"


def _closed(steps) -> str:
  """All steps, with the answer of the last on a line of its own."""
  if not steps:
    return ""
  *before, (asked, solution) = steps
  stated = solution.rpartition("Answer:")[2].strip()
  body = decompositions.strip_answer(solution)
  return f"{_laid([*before, (asked, body)])}Answer: {stated}"


def _whole(problem, steps) -> str:
  """An attempt, as text that task.read_answer reads."""
  steps = [(asked, calculator.remove_marks(solution)) for asked, solution in steps]
  if not steps:
    return ""
  *before, (asked, solution) = steps
  answer = decompositions.read_answer(problem, solution)
  if answer is None:
    return solution
  return _closed([*before, (asked, f"{decompositions.strip_answer(solution)} Answer: {answer}")])
