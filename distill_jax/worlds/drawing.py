"""Draws a question and the program that solves it from a story family."""

import dataclasses
import functools
import hashlib
import random
import re

from distill_jax.worlds import stories

LARGEST_FACTOR = 12  # of a multiplication or division


@dataclasses.dataclass(frozen=True)
class Step:
  """One step of a program: left `operation` right = result, in `unit`s."""

  operation: str  # + - * /
  left: int
  right: int
  result: int
  unit: str  # singular noun of what the result counts
  clause: str  # the sentence of the question that asks for this operation
  line: str  # a sentence that contains the equation
  ask: str  # the question that this step answers

  @property
  def equation(self) -> str:
    """The equation as text: "3 + 4 = 7"."""
    return f"{self.left} {self.operation} {self.right} = {self.result}"


@dataclasses.dataclass(frozen=True)
class DrawnProblem:
  """A question with the program that solves it."""

  family: str
  question: str
  steps: tuple[Step, ...]


class Counted(int):
  """A number whose format spec is a noun: f"{Counted(1):box}" is "1 box", for 2 it is "2 boxes".

  The spec "thing" stands for the attribute `thing`.
  """

  thing = ""

  def __format__(self, noun: str) -> str:
    noun = self.thing if noun == "thing" else noun
    return f"{int(self)} {noun if self == 1 else plural(noun)}" if noun else str(int(self))


class Solved(Counted):
  """A counted result that is formatted with its equation: "3 + 4 = 7 boxes"."""

  sides = ""

  def __format__(self, noun: str) -> str:
    return f"{self.sides} = {super().__format__(noun)}"


def plural(noun: str) -> str:
  """The plural of a noun."""
  if noun.endswith(("s", "x", "ch", "sh")):
    return noun + "es"
  if noun.endswith("f"):
    return noun[:-1] + "ves"
  if noun.endswith("y") and noun[-2] not in "aeiou":
    return noun[:-1] + "ies"
  return noun + "s"


@functools.cache
def _walks(family: str, length: int) -> tuple[tuple[stories.Move, ...], ...]:
  """Every path through a story of exactly `length` moves, without a repeated move."""
  story = next(s for s in stories.SEEN + stories.HELD_OUT if s.name == family)
  paths = []

  def walk(state: str, seen: frozenset[str], path: tuple[stories.Move, ...]) -> None:
    if len(path) == length:
      paths.append(path)
      return
    for move in story.moves:
      if move.source == state and move not in path and (not move.other or move.other in seen):
        walk(move.target, seen | {move.target}, (*path, move))

  walk(story.start[0], frozenset({story.start[0]}), ())
  return tuple(paths)


def draw(
  rng: random.Random, story: stories.Story, *, steps: int, operand_max: int, distractors: float
) -> DrawnProblem | None:
  """Draws a question of a story family.

  Args:
    rng: Source of randomness.
    story: The family.
    steps: Number of steps of the program.
    operand_max: Largest number in the question.
    distractors: Probability of a quantity that no step needs.

  Returns:
    The question with its program; None if the numbers drawn do not give sensible results.
  """
  moves = rng.choice(_walks(story.name, steps))
  start = rng.randint(2, operand_max)
  numbers = _numbers(rng, story, moves, start, operand_max)
  if numbers is None:
    return None
  name, other, third = rng.sample(stories.NAMES, 3)
  thing = rng.choice(story.things)
  words = {"name": name, "other": other, "thing": thing, "things": plural(thing)}
  program = tuple(_step(story, move, *n, words) for move, n in zip(moves, numbers, strict=True))
  first = story.start[1].format(a=_counted(start, thing), **words)
  sentences = [first, *(step.clause for step in program)]
  if rng.random() < distractors:
    distractor = rng.choice(stories.DISTRACTORS).format(third=third, c=rng.randint(2, operand_max))
    sentences.insert(rng.randint(0, len(sentences)), distractor)
  return DrawnProblem(story.name, " ".join([*sentences, program[-1].ask]), program)


def _numbers(
  rng: random.Random,
  story: stories.Story,
  moves: tuple[stories.Move, ...],
  start: int,
  operand_max: int,
) -> list[tuple[int, int, int]] | None:
  """(left, right, result) of each move; None if a move has no operand with a sensible result."""
  value, known, numbers = start, {story.start[0]: start}, []
  for move in moves:
    right = known[move.other] if move.other else _operand(rng, move, value, operand_max)
    if right is None:
      return None
    left, right = (right, value) if move.swap else (value, right)
    value = {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[
      move.operation
    ]
    if value > largest(operand_max):
      return None
    known[move.target] = value
    numbers.append((left, right, value))
  return numbers


def largest(operand_max: int) -> int:
  """The largest quantity that a story may reach."""
  return 2 * operand_max


def _operand(rng: random.Random, move: stories.Move, value: int, operand_max: int) -> int | None:
  """The operand that a move adds; None if no operand gives a sensible result."""
  factor = min(operand_max, LARGEST_FACTOR)
  if move.operation == "+":
    options = range(2, operand_max + 1)
  elif move.operation == "-" and move.swap:
    options = range(value + 1, operand_max + 1)
  elif move.operation == "-":
    options = range(2, min(operand_max, value - 1) + 1)
  elif move.operation == "*":
    options = range(2, min(factor, largest(operand_max) // value) + 1)
  else:
    options = [n for n in range(2, factor + 1) if value % n == 0]
  return rng.choice(options) if options else None


def _counted(number: int, thing: str, sides: str = "") -> Counted:
  """A counted number, with the left side of its equation if `sides` is given."""
  if not sides:
    counted = Counted(number)
  else:
    counted = Solved(number)
    counted.sides = sides
  counted.thing = thing
  return counted


def _step(
  story: stories.Story, move: stories.Move, left: int, right: int, result: int, words: dict
) -> Step:
  line, ask = story.states[move.target]
  thing = words["thing"]
  unit = re.findall(r"\{eq:(\w+)\}", line)[0]
  stated = left if move.swap else right
  solved = _counted(result, thing, f"{left} {move.operation} {right}")
  return Step(
    operation=move.operation,
    left=left,
    right=right,
    result=result,
    unit=thing if unit == "thing" else unit,
    clause=move.clause.format(b=_counted(stated, thing), **words),
    line=line.format(eq=solved, **words),
    ask=ask.format(**words),
  )


_THINGS = {thing for story in stories.SEEN + stories.HELD_OUT for thing in story.things}
_WORDS = frozenset(stories.NAMES) | _THINGS | {plural(thing) for thing in _THINGS}
# A sentence that states a distractor.
_DISTRACTOR = re.compile(
  "|".join(
    text.format(third="[A-Z][a-z]+", c="[0-9]+")[:-1] + r"\. " for text in stories.DISTRACTORS
  )
)


def content(question: str) -> str:
  """A question without its names, things and distractors: what makes it that question."""
  rest = _DISTRACTOR.sub("", question)
  return re.sub(r"[A-Za-z]+", lambda word: "_" if word[0] in _WORDS else word[0], rest)


def share(seed: int, question: str) -> float:
  """Position of a question's content in the hashed order of all contents, in [0, 1)."""
  digest = hashlib.sha256(f"{seed}\n{content(question)}".encode()).digest()
  return int.from_bytes(digest[:8], "big") / 2**64
