"""One program told in several ways; each has "a + b = c" for every step and ends in the answer."""

from distill_jax.worlds import drawing

ORDER = ("First", "Second", "Third", "Fourth", "Fifth")
VERBS = {"+": "add {right} to {left}", "-": "take {right} away from {left}"}
VERBS |= {"*": "multiply {left} by {right}", "/": "divide {left} by {right}"}


def told(steps: tuple[drawing.Step, ...]) -> str:
  """ "Tom has 3 + 4 = 7 apples." """
  return _rationale(steps, [step.line for step in steps])


def counted(steps: tuple[drawing.Step, ...]) -> str:
  """ "First, 3 + 4 = 7 apples." """
  return _rationale(
    steps, [f"{ORDER[n]}, {step.equation} {noun(step)}." for n, step in enumerate(steps)]
  )


def reasoned(steps: tuple[drawing.Step, ...]) -> str:
  """ "Tom buys 4 more apples, so 3 + 4 = 7." """
  return _rationale(steps, [f"{step.clause[:-1]}, so {step.equation}." for step in steps])


def asked(steps: tuple[drawing.Step, ...]) -> str:
  """ "How many apples does Tom have now? 3 + 4 = 7." """
  return _rationale(steps, [f"{step.ask} {step.equation}." for step in steps])


def instructed(steps: tuple[drawing.Step, ...]) -> str:
  """ "Add 4 to 3: 3 + 4 = 7." """
  return _rationale(steps, [f"{capital(operation(step))}: {step.equation}." for step in steps])


WORDINGS = (told, counted, reasoned, asked, instructed)


def decomposition(steps: tuple[drawing.Step, ...]) -> tuple[tuple[str, str], ...]:
  """(sub-question, solution) of each step; the sub-question repeats what has happened."""
  return tuple((f"{step.clause} {step.ask}", step.line) for step in steps)


def operation(step: drawing.Step) -> str:
  """ "take 4 away from 17" """
  return VERBS[step.operation].format(left=step.left, right=step.right)


def noun(step: drawing.Step) -> str:
  return step.unit if step.result == 1 else drawing.plural(step.unit)


def capital(text: str) -> str:
  return text[:1].upper() + text[1:]


def _rationale(steps, lines: list[str]) -> str:
  return "\n".join([*lines, f"Answer: {steps[-1].result}"])
