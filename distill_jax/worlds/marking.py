"""Marks an attempt at an arithmetic problem: where it first departs from the program, and why."""

import re

from distill_jax.worlds import drawing, stories, wordings

LONGEST_ATTEMPT = 20_000  # characters
# "3 + 4 = 7", with integers only.
_EQUATION = re.compile(
  r"(?<![0-9.,])(-?[0-9]{1,15}+) {0,3}([-+*/x×÷−]) {0,3}(-?[0-9]{1,15}+) {0,3}= {0,3}\$?"
  r"(-?[0-9]{1,15}+)(?![0-9])",
  re.ASCII,
)
# "Answer: 7", "the answer is 7".
_ANSWER = re.compile(r"\banswer[*_ ]{0,4}(?::|is)[*_ ]{0,4}\$?(-?[0-9]{1,15}+)(?![0-9])", re.I)
_SIGNS = {"x": "*", "×": "*", "÷": "/", "−": "-"}


def first_wrong_step(steps: tuple[drawing.Step, ...], attempt: str) -> tuple[int, str] | None:
  """Returns (number of the first wrong step, from 1; what is wrong), or None if all is right.

  Only equations written as "a + b = c" are read. An attempt is right if they are the program's, in
  its order, and its answer line agrees. The answer line counts as the step after the last.
  """
  attempt = attempt[:LONGEST_ATTEMPT]
  written = [_parts(match) for match in _EQUATION.finditer(attempt)]
  for number, (left, sign, right, result) in enumerate(written, start=1):
    if number > len(steps):
      return number, f"no step {number} is needed: the answer is {steps[-1].result}"
    step = steps[number - 1]
    if not _same(step, left, sign, right):
      return number, f"step {number} should {_should(step)}"
    if result != step.result:
      return number, f"{left} {sign} {right} is {step.result}, not {result}"
  if len(written) < len(steps):
    missing = len(written) + 1
    return missing, f"step {missing} is missing: it should {_should(steps[missing - 1])}"
  return _answer_line(steps, attempt)


def _answer_line(steps: tuple[drawing.Step, ...], attempt: str) -> tuple[int, str] | None:
  answers, right = _ANSWER.findall(attempt), steps[-1].result
  if not answers:
    return len(steps) + 1, f'the last line, "Answer: {right}", is missing'
  if int(answers[-1]) != right:
    return len(steps) + 1, f"the last step gives {right}, so the answer is not {answers[-1]}"
  return None


def _parts(match: re.Match) -> tuple[int, str, int, int]:
  """(left, operation, right, result) of an equation."""
  left, sign, right, result = map(str, match.groups())
  return int(left), _SIGNS.get(sign, sign), int(right), int(result)


def _same(step: drawing.Step, left: int, sign: str, right: int) -> bool:
  """Whether an equation's left side is the step's, up to the order of a sum or product."""
  if sign != step.operation:
    return False
  if sign in "+*":
    return {left, right} == {step.left, step.right}
  return (left, right) == (step.left, step.right)


def _should(step: drawing.Step) -> str:
  """What a step should do: "take 4 away from 17, because Tom eats 4 apples"."""
  reason = step.clause[:-1]
  if reason.split()[0] not in stories.NAMES:
    reason = reason[:1].lower() + reason[1:]
  return f"{wordings.operation(step)}, because {reason}"
