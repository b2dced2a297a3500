"""Rationales of one program in several wordings.

Each has the equation "a + b = c" of every step and ends in the answer.
"""

from distill_jax.worlds import drawing

ORDER = ("First", "Second", "Third", "Fourth", "Fifth")
VERBS = {"+": "add {right} to {left}", "-": "take {right} away from {left}"}
VERBS |= {"*": "multiply {left} by {right}", "/": "divide {left} by {right}"}


def told(steps: tuple[drawing.Step, ...]) -> str:
  """Words each step as "Tom has 3 + 4 = 7 apples."."""
  return _rationale(steps, [step.line for step in steps])


def counted(steps: tuple[drawing.Step, ...]) -> str:
  """Words each step as "First, 3 + 4 = 7 apples."."""
  return _rationale(
    steps, [f"{ORDER[n]}, {step.equation} {noun(step)}." for n, step in enumerate(steps)]
  )


def reasoned(steps: tuple[drawing.Step, ...]) -> str:
  """Words each step as "Tom buys 4 more apples, so 3 + 4 = 7."."""
  return _rationale(steps, [f"{step.clause[:-1]}, so {step.equation}." for step in steps])


def asked(steps: tuple[drawing.Step, ...]) -> str:
  """Words each step as "How many apples does Tom have now? 3 + 4 = 7."."""
  return _rationale(steps, [f"{step.ask} {step.equation}." for step in steps])


def instructed(steps: tuple[drawing.Step, ...]) -> str:
  """Words each step as "Add 4 to 3: 3 + 4 = 7."."""
  return _rationale(steps, [f"{capital(operation(step))}: {step.equation}." for step in steps])


WORDINGS = (told, counted, reasoned, asked, instructed)


def decomposition(steps: tuple[drawing.Step, ...]) -> tuple[tuple[str, str], ...]:
  """(sub-question, solution) of each step. The sub-question repeats the step's clause."""
  return tuple((f"{step.clause} {step.ask}", step.line) for step in steps)


def operation(step: drawing.Step) -> str:
  """The operation in words: "take 4 away from 17"."""
  return VERBS[step.operation].format(left=step.left, right=step.right)


def noun(step: drawing.Step) -> str:
  """The unit of a step's result, in singular or plural."""
  return step.unit if step.result == 1 else drawing.plural(step.unit)


def capital(text: str) -> str:
  """The text with its first letter in upper case."""
  return text[:1].upper() + text[1:]


def _rationale(steps: tuple[drawing.Step, ...], lines: list[str]) -> str:
  return "\n".join([*lines, f"Answer: {steps[-1].result}"])
