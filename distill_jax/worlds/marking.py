"""Where an attempt first leaves its problem's program, and why."""

import re

from distill_jax.worlds import drawing, stories, wordings

LONGEST_ATTEMPT = 20_000  # characters
_EQUATION = re.compile(
  r"(?<![0-9.,])(-?[0-9]{1,15}+) {0,3}([-+*/x×÷−]) {0,3}(-?[0-9]{1,15}+) {0,3}= {0,3}\$?"
  r"(-?[0-9]{1,15}+)(?![0-9])",
  re.ASCII,
)
_ANSWER = re.compile(r"\banswer[*_ ]{0,4}(?::|is)[*_ ]{0,4}\$?(-?[0-9]{1,15}+)(?![0-9])", re.I)
_SIGNS = {"x": "*", "×": "*", "÷": "/", "−": "-"}


def first_wrong_step(steps: tuple[drawing.Step, ...], attempt: str) -> tuple[int, str] | None:
  """(number of the first wrong step, from 1; a sentence that says what is wrong), None if right.

  The answer line counts as the step after the last. Equations that are written "a + b = c" are
  read; an attempt is right if they are the program's, in its order, and its answer line agrees.
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


def _answer_line(steps, attempt: str) -> tuple[int, str] | None:
  answers, right = _ANSWER.findall(attempt), steps[-1].result
  if not answers:
    return len(steps) + 1, f'the last line, "Answer: {right}", is missing'
  if int(answers[-1]) != right:
    return len(steps) + 1, f"the last step gives {right}, so the answer is not {answers[-1]}"
  return None


def _parts(match: re.Match) -> tuple[int, str, int, int]:
  left, sign, right, result = match.groups()
  return int(left), _SIGNS.get(sign, sign), int(right), int(result)


def _same(step: drawing.Step, left: int, sign: str, right: int) -> bool:
  if sign != step.operation:
    return False
  if sign in "+*":
    return {left, right} == {step.left, step.right}
  return (left, right) == (step.left, step.right)


def _should(step: drawing.Step) -> str:
  """ "take 4 away from 17, because Tom eats 4 apples" """
  reason = step.clause[:-1]
  if reason.split()[0] not in stories.NAMES:
    reason = reason[:1].lower() + reason[1:]
  return f"{wordings.operation(step)}, because {reason}"
