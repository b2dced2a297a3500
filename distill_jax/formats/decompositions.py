"""A problem's sub-questions and solutions, as data: (sub-question, solution) pairs.

GSM8K's have both. StrategyQA's have questions only, which may point back ("Is #1 below #2?"), and
facts beside them; see `with_solutions`.
"""

import re

from distill_jax.tasks import answers

_BACK = re.compile(r"#([1-9])(?![0-9])")
_WORD = re.compile(r"[a-z0-9]{3,40}")
_SHORT = 3  # words of a solution that stands for itself


def with_solutions(problem, steps) -> tuple[tuple[str, str], ...]:
  """The steps with a solution each; () if there are none.

  Where the data set has questions without solutions, as StrategyQA, the facts are their solutions:
  each but the last takes the fact that shares most words with it, one not taken yet before one that
  is, the next in order before others. The last question is answered by what is left of the facts
  and by the answer itself, which every solution of it ends in. Without facts nobody can be taught.
  """
  steps = tuple(steps)
  if all(solution for _, solution in steps) or not problem.facts:
    return steps if all(solution for _, solution in steps) else ()
  taken, found = [], []
  for number, (asked, solution) in enumerate(steps[:-1]):
    best = _likeliest(asked, problem.facts, taken, number)
    taken.append(best)
    found.append((asked, solution or problem.facts[best]))
  left = [fact for n, fact in enumerate(problem.facts) if n not in taken]
  asked, solution = steps[-1]
  return (*found, (asked, solution or " ".join([*left, f"Answer: {problem.gold}"])))


def _likeliest(asked: str, facts, taken, number: int) -> int:
  words = lambda text: set(_WORD.findall(text.lower()))
  rank = lambda n: (len(words(asked) & words(facts[n])), n not in taken, -abs(n - number))
  return max(range(len(facts)), key=rank)


def resolve_references(problem, steps) -> list[tuple[str, str]]:
  """The steps with earlier answers where a question points back to them; a number problem's "#2" is
  only a number."""
  if problem.kind == "number":
    return list(steps)
  found = []
  for number, (asked, solution) in enumerate(steps):
    told = lambda mark, known=number: (
      _short(found[int(mark[1]) - 1][1]) if int(mark[1]) <= known else mark[0]
    )
    found.append((_BACK.sub(told, asked), solution))
  return found


def strip_answer(solution: str) -> str:
  """A solution without the answer that it states at its end."""
  body, mark, stated = solution.rpartition("Answer:")
  return body.strip() if mark and len(stated) <= answers.LONGEST_LINE else solution


def read_answer(problem, solution: str) -> str | None:
  """The answer a solution states, of the problem's kind."""
  if problem.kind == "choice":
    return answers.read_choice(solution, tuple(label for label, _ in problem.choices))
  if problem.kind == "boolean":
    return answers.read_boolean(solution)
  return answers.read_number(solution)


def _short(solution: str) -> str:
  """A solution's answer, as it stands in a later question."""
  _, mark, stated = solution.rpartition("Answer:")
  text = (stated if mark else solution).strip().rstrip(".")
  return text if len(text.split()) <= _SHORT else f"({text})"
