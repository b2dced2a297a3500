"""Sub-questions and their solutions (Shridhar et al. 2023, Socratic CoT).

Iterative: a decomposer asks and a solver answers, until there are no more sub-questions. Unified:
one student writes all of it.

decomposer                      solver
Question: Tom has 3 apples ...  Question: Tom has 3 apples ...
Sub-question: | How many ...?   Sub-question: How many ...?
                                Solution: | 3 + 4 = 7. Answer: 7
Sub-question: | No more questions.

At each | the student continues, in one line. The last solution ends in "Answer: N"; if a student's
does not, the answer is read from its text. Parts are separated and the asking is ended by words,
which every tokenizer preserves. The paper does not say whether its decomposer sees the solutions,
so that is a setting. In a chat the student's lines are its turns, and the lines between them are
the user's.
"""

from collections.abc import Iterable, Sequence

from distill_jax import errors, records
from distill_jax.formats import calculator, cot, decompositions, turns

END = "No more questions."

Steps = Sequence[tuple[str, str]]  # (sub-question, solution)


class Iterative:
  """A decomposer and a solver, two students that alternate."""

  students = ("decomposer", "solver")
  stages = ("",)
  stop = ("\n",)
  request_kind = "decompose"

  def __init__(
    self,
    questions: str = "model",
    max_steps: int = 8,
    solutions: bool = True,
    calculator: bool = False,
    is_chat: turns.IsChat = turns.never,
  ):
    """Configures the conversation.

    Args:
      questions: Source of the sub-questions: "model", the decomposer, or "gold", the problem.
      max_steps: Limit on the decomposer's sub-questions.
      solutions: Whether the decomposer sees the solutions so far.
      calculator: Whether the solver writes calculator marks.
      is_chat: Whether the students are prompted with messages.
    """
    self._use_gold, self._max_steps = questions == "gold", max_steps
    self._solutions, self._calculator, self._is_chat = solutions, calculator, is_chat

  def prompt(
    self, question: str, shots: turns.Shots = (), style: str = "", hint: str = ""
  ) -> records.Prompt:
    """The decomposer's first prompt."""
    turns.reject_unsupported(shots=shots, style=style, hint=hint)
    return self._decomposer_prompt(question, ())

  def conversation(
    self,
    problem: records.Problem,
    question: str,
    shots: turns.Shots = (),
    *,
    style: str = "",
    given: Sequence[tuple[str, str]] = (),
    hint: str = "",
  ) -> turns.Conversation:
    """Alternates decomposer and solver; returns all steps and the answer of the last one.

    If the last solution has no answer, only that solution is returned, so no earlier answer is
    taken for it.

    Raises:
      errors.UserError: Gold sub-questions are asked for, and the problem has none.
    """
    turns.reject_unsupported(shots=shots, style=style, given=given, hint=hint)
    steps: list[tuple[str, str]] = []
    gold = self._gold_questions(problem)
    for n in range(len(gold) if self._use_gold else self._max_steps):
      if self._use_gold:
        sub_question = gold[n]
      else:
        (text,) = yield (turns.Turn("decomposer", self._decomposer_prompt(question, steps)),)
        sub_question = turns.one_line(text)
      if not sub_question or sub_question.lower().startswith(END.lower().rstrip(".")):
        break
      shown = decompositions.resolve_references(problem, [*steps, (sub_question, "")])
      (text,) = yield (turns.Turn("solver", self._solver_prompt(question, shown)),)
      solution = turns.one_line(text)
      if self._calculator:
        solution = calculator.correct_marks(solution)
      steps.append((sub_question, solution))
    return _attempt_text(problem, decompositions.resolve_references(problem, steps))

  def target(self, text: str, answer: str) -> str:
    """The lines of `text` with `answer` at the end."""
    return cot.target(text, answer)

  def written(self, rationale: records.Rationale) -> str:
    """The text of the rationale; thinking is left out."""
    return rationale.text

  def examples(
    self,
    problem: records.Problem,
    question: str,
    rationale: records.Rationale,
    shots: turns.Shots = (),
  ) -> list[records.Example]:
    """One example per step for each student, and the decomposer's END.

    Returns [] if steps lack solutions (see decompositions.with_solutions).
    """
    turns.reject_unsupported(shots=shots)
    steps = _taught_steps(problem, rationale, self._calculator)
    if not steps:
      return []
    examples = []
    for n, (sub_question, solution) in enumerate(steps):
      prompt = self._decomposer_prompt(question, steps[:n])
      examples.append(records.Example(problem.id, prompt, sub_question, "decomposer"))
      shown = decompositions.resolve_references(problem, [*steps[:n], (sub_question, "")])
      prompt = self._solver_prompt(question, shown)
      examples.append(records.Example(problem.id, prompt, solution, "solver"))
    last_prompt = self._decomposer_prompt(question, steps)
    return [*examples, records.Example(problem.id, last_prompt, END, "decomposer")]

  def _gold_questions(self, problem: records.Problem) -> list[str]:
    gold = [turns.one_line(sub_question) for sub_question, _ in problem.decomposition]
    if self._use_gold and not gold:
      raise errors.config(
        "socratic.questions",
        "gold",
        f"model: {problem.id or 'this question'} has no gold sub-questions",
      )
    return gold

  def _decomposer_prompt(self, question: str, steps: Steps) -> records.Prompt:
    """The decomposer's prompt. It refers to earlier answers as the data set does ("#1")."""
    shown = steps if self._solutions else [(sub_question, "") for sub_question, _ in steps]
    if self._is_chat():
      lines = [f"Solution: {solution}\n" if solution else "" for _, solution in shown]
      cues = [f"{line}Sub-question:" for line in ("", *lines)]
      asked = [sub_question for sub_question, _ in shown]
      return turns.after_question(question, list(zip(cues, asked, strict=False)), cues[-1])
    return f"Question: {question}\n{_lines(shown)}Sub-question:\n"

  def _solver_prompt(self, question: str, steps: Steps) -> records.Prompt:
    """The solver's prompt. The last step has no solution yet."""
    if self._is_chat():
      exchanges = [(f"Sub-question: {q}\nSolution:", solution) for q, solution in steps]
      return turns.after_question(question, exchanges[:-1], exchanges[-1][0])
    return f"Question: {question}\n{_lines(steps)}Solution:\n"


class Unified:
  """One student that writes all sub-questions and solutions in one turn."""

  students = ("student",)
  stages = ("",)
  request_kind = "decompose"
  stop_texts: tuple[str, ...] | None = (cot.BLANK_LINE,)  # see cot.Cot

  def __init__(self, calculator: bool = False, is_chat: turns.IsChat = turns.never):
    """Configures the conversation.

    Args:
      calculator: Whether the student writes calculator marks.
      is_chat: Whether the student is prompted with messages.
    """
    self._calculator, self._is_chat = calculator, is_chat

  @property
  def stop(self) -> tuple[str, ...]:
    """Texts that end the turn."""
    return cot.stop_of(self.stop_texts, cot.Cot.next_question, self._is_chat)

  def prompt(
    self, question: str, shots: turns.Shots = (), style: str = "", hint: str = ""
  ) -> records.Prompt:
    """The student's prompt."""
    turns.reject_unsupported(shots=shots, style=style, hint=hint)
    if self._is_chat():
      return turns.after_question(question, (), "Steps:")
    return f"Question: {question}\nSteps:\n"

  def conversation(
    self,
    problem: records.Problem,
    question: str,
    shots: turns.Shots = (),
    *,
    style: str = "",
    given: Sequence[tuple[str, str]] = (),
    hint: str = "",
  ) -> turns.Conversation:
    """One turn; returns its text without calculator marks."""
    turns.reject_unsupported(given=given, hint=hint)
    (text,) = yield (turns.Turn("student", self.prompt(question, shots, style)),)
    text = cot.cut_at_stop(text, self.stop)
    return calculator.remove_marks(calculator.correct_marks(text)) if self._calculator else text

  def target(self, text: str, answer: str) -> str:
    """The lines of `text` with `answer` at the end."""
    return cot.target(text, answer)

  def written(self, rationale: records.Rationale) -> str:
    """The text of the rationale; thinking is left out."""
    return rationale.text

  def examples(
    self,
    problem: records.Problem,
    question: str,
    rationale: records.Rationale,
    shots: turns.Shots = (),
  ) -> list[records.Example]:
    """One example with all steps and the answer line; [] if steps lack solutions."""
    prompt = self.prompt(question, shots)
    steps = _taught_steps(problem, rationale, self._calculator)
    if not steps:
      return []
    target = _steps_and_answer(decompositions.resolve_references(problem, steps))
    return [records.Example(problem.id, prompt, target)]


def _taught_steps(
  problem: records.Problem, rationale: records.Rationale, with_marks: bool
) -> list[tuple[str, str]]:
  """The rationale's steps, with the answer in the last one and calculator marks if wanted."""
  solved = decompositions.with_solutions(problem, rationale.parts)
  steps = [(turns.one_line(question), turns.one_line(solution)) for question, solution in solved]
  if with_marks:
    steps = [(question, calculator.add_marks(solution)) for question, solution in steps]
  if steps:
    question, solution = steps[-1]
    answer = rationale.answer or problem.gold
    steps[-1] = (question, f"{decompositions.strip_answer(solution)} Answer: {answer}".strip())
  return steps


def _lines(steps: Iterable[tuple[str, str]]) -> str:
  """Steps as lines of a prompt; an empty solution has no line."""
  return "".join(
    f"Sub-question: {question}\n" + (f"Solution: {solution}\n" if solution else "")
    for question, solution in steps
  )


def _steps_and_answer(steps: Steps) -> str:
  """All steps as lines, and the last step's answer on a line of its own."""
  if not steps:
    return ""
  *earlier, (question, solution) = steps
  stated = solution.rpartition("Answer:")[2].strip()
  body = decompositions.strip_answer(solution)
  return f"{_lines([*earlier, (question, body)])}Answer: {stated}"


def _attempt_text(problem: records.Problem, steps: Steps) -> str:
  """The text of an attempt, in the form that task.read_answer reads."""
  steps = [(question, calculator.remove_marks(solution)) for question, solution in steps]
  if not steps:
    return ""
  *earlier, (question, solution) = steps
  answer = decompositions.read_answer(problem, solution)
  if answer is None:
    return solution
  last = (question, f"{decompositions.strip_answer(solution)} Answer: {answer}")
  return _steps_and_answer([*earlier, last])
