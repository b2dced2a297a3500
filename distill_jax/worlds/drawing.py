"""From a family of story to a question with its program: its moves, numbers and words."""

import dataclasses
import functools
import hashlib
import random
import re

from distill_jax.worlds import stories

LARGEST_FACTOR = 12


@dataclasses.dataclass(frozen=True)
class Step:
  """One operation of a program: left `operation` right = result, of `unit`s."""

  operation: str  # + - * /
  left: int
  right: int
  result: int
  unit: str  # singular noun of what the result counts
  clause: str  # the sentence of the question that asks for this operation
  line: str  # the step told as a sentence that contains its equation
  ask: str  # the question that this step answers

  @property
  def equation(self) -> str:
    return f"{self.left} {self.operation} {self.right} = {self.result}"


@dataclasses.dataclass(frozen=True)
class DrawnProblem:
  family: str
  question: str
  steps: tuple[Step, ...]


class Counted(int):
  """A number whose format is a noun: f"{Counted(1):box}" is "1 box", of 2 "2 boxes"."""

  thing = ""

  def __format__(self, noun: str) -> str:
    noun = self.thing if noun == "thing" else noun
    return f"{int(self)} {noun if self == 1 else plural(noun)}" if noun else str(int(self))


class Solved(Counted):
  """An equation with the noun of its result: "3 + 4 = 7 boxes"."""

  sides = ""

  def __format__(self, noun: str) -> str:
    return f"{self.sides} = {super().__format__(noun)}"


def plural(noun: str) -> str:
  if noun.endswith(("s", "x", "ch", "sh")):
    return noun + "es"
  if noun.endswith("f"):
    return noun[:-1] + "ves"
  if noun.endswith("y") and noun[-2] not in "aeiou":
    return noun[:-1] + "ies"
  return noun + "s"


@functools.cache
def _walks(family: str, length: int) -> tuple[tuple[stories.Move, ...], ...]:
  """Every way through a story in exactly `length` moves, none taken twice."""
  story = next(s for s in stories.SEEN + stories.HELD_OUT if s.name == family)
  found = []

  def walk(state: str, seen: frozenset[str], path: tuple[stories.Move, ...]) -> None:
    if len(path) == length:
      found.append(path)
      return
    for move in story.moves:
      if move.source == state and move not in path and (not move.other or move.other in seen):
        walk(move.target, seen | {move.target}, (*path, move))

  walk(story.start[0], frozenset({story.start[0]}), ())
  return tuple(found)


def draw(
  rng: random.Random, story: stories.Story, *, steps: int, operand_max: int, distractors: float
) -> DrawnProblem | None:
  """One question of a family with its program; None if the numbers drawn do not work out."""
  moves = rng.choice(_walks(story.name, steps))
  start = rng.randint(2, operand_max)
  numbers = _numbers(rng, story, moves, start, operand_max)
  if numbers is None:
    return None
  name, other, third = rng.sample(stories.NAMES, 3)
  thing = rng.choice(story.things)
  words = {"name": name, "other": other, "thing": thing, "things": plural(thing)}
  program = tuple(_step(story, move, *n, words) for move, n in zip(moves, numbers, strict=True))
  said = [story.start[1].format(a=_counted(start, thing), **words), *(s.clause for s in program)]
  if rng.random() < distractors:
    aside = rng.choice(stories.DISTRACTORS).format(third=third, c=rng.randint(2, operand_max))
    said.insert(rng.randint(0, len(said)), aside)
  return DrawnProblem(story.name, " ".join([*said, program[-1].ask]), program)


def _numbers(rng, story, moves, start: int, operand_max: int) -> list[tuple[int, int, int]] | None:
  """(left, right, result) of each move; None if one has no operand that gives a sensible result."""
  value, known, found = start, {story.start[0]: start}, []
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
    found.append((left, right, value))
  return found


def largest(operand_max: int) -> int:
  """No quantity of a story exceeds this."""
  return 2 * operand_max


def _operand(rng, move: stories.Move, value: int, operand_max: int) -> int | None:
  factor = min(operand_max, LARGEST_FACTOR)
  if move.operation == "+":
    fit = range(2, operand_max + 1)
  elif move.operation == "-" and move.swap:
    fit = range(value + 1, operand_max + 1)
  elif move.operation == "-":
    fit = range(2, min(operand_max, value - 1) + 1)
  elif move.operation == "*":
    fit = range(2, min(factor, largest(operand_max) // value) + 1)
  else:
    fit = [n for n in range(2, factor + 1) if value % n == 0]
  return rng.choice(fit) if fit else None


def _counted(number: int, thing: str, sides: str = "") -> Counted:
  made = Solved(number) if sides else Counted(number)
  made.thing = thing
  if sides:
    made.sides = sides
  return made


def _step(story, move: stories.Move, left: int, right: int, result: int, words: dict) -> Step:
  line, ask = story.states[move.target]
  thing = words["thing"]
  unit = re.search(r"\{eq:(\w+)\}", line)[1]
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
_ASIDE = re.compile(
  "|".join(
    aside.format(third="[A-Z][a-z]+", c="[0-9]+")[:-1] + r"\. " for aside in stories.DISTRACTORS
  )
)


def content(question: str) -> str:
  """A question without names, things and what is beside the point: what makes it that question."""
  rest = _ASIDE.sub("", question)
  return re.sub(r"[A-Za-z]+", lambda word: "_" if word[0] in _WORDS else word[0], rest)


def share(seed: int, question: str) -> float:
  """In [0, 1): the place of a question's content among all contents."""
  digest = hashlib.sha256(f"{seed}\n{content(question)}".encode()).digest()
  return int.from_bytes(digest[:8], "big") / 2**64
