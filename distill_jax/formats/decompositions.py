"""Decompositions of a problem: its steps as (sub-question, solution) pairs.

GSM8K has both. StrategyQA has facts and sub-questions, but no solutions; a sub-question may refer
to earlier answers ("Is #1 below #2?"). See `with_solutions`.
"""

import re
from collections.abc import Iterable, Sequence

from distill_jax import records
from distill_jax.tasks import answers, expressions, statements, texts

_REFERENCE = re.compile(r"#([1-9])(?![0-9])")  # "#2": the answer of the second step
_WORD = re.compile(r"[a-z0-9]{3,40}")
_SHORT = 3  # longest answer, in words, that replaces a reference without parentheses

Steps = Sequence[tuple[str, str]]


def with_solutions(problem: records.Problem, steps: Steps) -> tuple[tuple[str, str], ...]:
  """Returns the steps with a solution each; () if that is not possible.

  Steps without solutions, as in StrategyQA, get the problem's facts as solutions. Each but the last
  gets the fact that shares most words with its question; ties go to a fact not used yet, then to
  the fact nearest in order. The last question is answered by the facts left over and the gold
  answer, which every solution of the last step ends in.
  """
  steps = tuple(steps)
  if all(solution for _, solution in steps):
    return steps
  if not problem.facts:
    return ()
  used: list[int] = []
  solved = []
  for index, (question, solution) in enumerate(steps[:-1]):
    best = _best_fact(question, problem.facts, used, index)
    used.append(best)
    solved.append((question, solution or problem.facts[best]))
  left = [fact for n, fact in enumerate(problem.facts) if n not in used]
  question, solution = steps[-1]
  return (*solved, (question, solution or " ".join([*left, f"Answer: {problem.gold}"])))


def _best_fact(question: str, facts: Sequence[str], used: Sequence[int], index: int) -> int:
  words = _words(question)

  def rank(n: int) -> tuple[int, bool, int]:
    return len(words & _words(facts[n])), n not in used, -abs(n - index)

  return max(range(len(facts)), key=rank)


def _words(text: str) -> set[str]:
  return set(_WORD.findall(text.lower()))


def resolve_references(
  problem: records.Problem, steps: Iterable[tuple[str, str]]
) -> list[tuple[str, str]]:
  """Returns the steps with each reference to an earlier answer replaced by that answer.

  A number problem is left as it is: there "#2" is only a number.
  """
  if problem.kind == "number":
    return list(steps)
  resolved: list[tuple[str, str]] = []
  for question, solution in steps:
    short_answers = [_short_answer(earlier) for _, earlier in resolved]

    def answer_of(reference: re.Match, short_answers: list[str] = short_answers) -> str:
      step = int(reference[1])
      return short_answers[step - 1] if step <= len(short_answers) else reference[0]

    resolved.append((_REFERENCE.sub(answer_of, question), solution))
  return resolved


def strip_answer(solution: str) -> str:
  """A solution without the answer stated at its end."""
  body, mark, stated = solution.rpartition("Answer:")
  return body.strip() if mark and len(stated) <= statements.LONGEST_LINE else solution


def read_answer(problem: records.Problem, solution: str) -> str | None:
  """The answer that a solution states, read as the problem's kind."""
  if problem.kind == "choice":
    return answers.read_choice(solution, tuple(label for label, _ in problem.choices))
  if problem.kind == "boolean":
    return answers.read_boolean(solution)
  if problem.kind == "expression":
    return expressions.read_expression(solution)
  if problem.kind == "text":
    return texts.read_text(solution)
  return answers.read_number(solution)


def _short_answer(solution: str) -> str:
  """A solution's answer, as a later question quotes it."""
  _, mark, stated = solution.rpartition("Answer:")
  text = (stated if mark else solution).strip().rstrip(".")
  return text if len(text.split()) <= _SHORT else f"({text})"
