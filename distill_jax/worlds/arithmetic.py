"""The built-in world: multi-step word problems that know their own programs.

A pure function of the settings. Which split a question may serve in is decided by the hash of its
content (without names, things and what is beside the point), so that train, validation and test
share no question, nor one that differs in a name only; out_of_domain has families of its own.
"""

import random

from distill_jax import errors, records
from distill_jax.worlds import drawing, marking, stories, wordings

SPLITS = ("train", "validation", "test", "out_of_domain")
SHARES = {"train": (0.0, 0.7), "validation": (0.7, 0.85), "test": (0.85, 1.0)}
MOST_STEPS = 5
# Wordings whose lines are solutions; the one left out puts the question first.
SOLUTIONS = tuple(words for words in wordings.WORDINGS if words is not wordings.asked)
PATIENCE = 100  # draws in search of a new question before one may be repeated


class ArithmeticWorld:
  """Problems of four splits; a shorter split is the beginning of a longer one."""

  def __init__(
    self,
    *,
    seed: int,
    train: int,
    validation: int,
    test: int,
    out_of_domain: int,
    steps_min: int,
    steps_max: int,
    operand_max: int,
    families: int,
    distractors: float,
    ood_extra_steps: int,
  ):
    """Counts are problems a split. `families`: how many of the story families train, validation
    and test have (0: all but the held-out ones). `distractors`: the probability of a quantity
    beside the point. Raises errors.UserError."""
    counts = (train, validation, test, out_of_domain)
    self.sizes = dict(zip(SPLITS, counts, strict=True))
    self._seed, self._operand_max, self._distractors = seed, operand_max, distractors
    for name, size in self.sizes.items():
      _refuse(name, size, size >= 0, "0 or more problems")
    _refuse("steps_min", steps_min, 1 <= steps_min <= MOST_STEPS, f"1 to {MOST_STEPS}")
    allowed = f"steps_min ({steps_min}) to {MOST_STEPS}"
    _refuse("steps_max", steps_max, steps_min <= steps_max <= MOST_STEPS, allowed)
    _refuse("operand_max", operand_max, 6 <= operand_max <= 10_000, "6 to 10000")
    known = len(stories.SEEN)
    _refuse("families", families, 0 <= families <= known, f"0 (all) to {known}")
    _refuse("distractors", distractors, 0 <= distractors <= 1, "a probability")
    _refuse("ood_extra_steps", ood_extra_steps, ood_extra_steps >= 0, "0 or more steps")
    self.families = tuple(story.name for story in stories.SEEN[: families or known])
    self._steps = (steps_min, steps_max)
    harder = min(steps_max + ood_extra_steps, MOST_STEPS)
    self._harder_steps = (steps_max + 1, harder) if harder > steps_max else self._steps
    self._drawn: dict[str, list[drawing.DrawnProblem]] = {}
    self._problems: dict[str, list[records.Problem]] = {}
    self._by_question: dict[str, records.Problem] = {}

  def problems(self, split: str) -> list[records.Problem]:
    """All problems of a split, in order. Raises errors.UserError for an unknown split."""
    if split not in self.sizes:
      raise errors.usage(f"no split {split!r}; there are {', '.join(SPLITS)}")
    if split not in self._problems:
      self._drawn[split] = self._draw_split(split)
      self._problems[split] = [
        self._record(split, index, drawn) for index, drawn in enumerate(self._drawn[split])
      ]
    return list(self._problems[split])

  def problem(self, split: str, index: int) -> records.Problem:
    return self.problems(split)[index]

  def program(self, problem_id: str) -> tuple[drawing.Step, ...]:
    """The steps of a problem. Raises errors.UserError if there is no such problem."""
    return self._find_drawn(problem_id).steps

  def family(self, problem_id: str) -> str:
    """The name of a problem's family of story."""
    return self._find_drawn(problem_id).family

  def wording(self, problem_id: str, variant: int) -> str:
    """A right rationale; variant 0 is the gold one, then the other wordings, over and over."""
    return wordings.WORDINGS[variant % len(wordings.WORDINGS)](self.program(problem_id))

  def decomposed(self, problem_id: str, variant: int) -> tuple[tuple[str, str], ...]:
    """(sub-question, solution) of each step; variant 0 is the gold one, then other wordings of the
    solutions, over and over."""
    steps = self.program(problem_id)
    texts = SOLUTIONS[variant % len(SOLUTIONS)](steps).split("\n")
    gold = wordings.decomposition(steps)
    return tuple((asked, text) for (asked, _), text in zip(gold, texts[:-1], strict=True))

  def first_wrong_step(self, problem_id: str, attempt_text: str) -> tuple[int, str] | None:
    """(step number from 1, what is wrong with it), None if the attempt is right."""
    return marking.first_wrong_step(self.program(problem_id), attempt_text)

  def find(self, question_text: str) -> records.Problem | None:
    """The problem of any split with this question, whatever the white space in it."""
    if not self._by_question:
      for split in reversed(SPLITS):
        self._by_question |= {problem.question: problem for problem in self.problems(split)}
    return self._by_question.get(" ".join(question_text.split()))

  def _find_drawn(self, problem_id: str) -> drawing.DrawnProblem:
    world, _, rest = problem_id.partition("/")
    split, _, index = rest.partition("/")
    known = world == "arithmetic" and split in self.sizes and index.isdecimal() and index.isascii()
    if not known or len(index) > 9 or int(index) >= self.sizes[split]:
      raise errors.data(f"no problem {problem_id!r} in this world")
    self.problems(split)
    return self._drawn[split][int(index)]

  def _draw_split(self, split: str) -> list[drawing.DrawnProblem]:
    seen, found, patience = set(), [], PATIENCE
    for index in range(self.sizes[split]):
      drawn = self._draw(split, index, seen, patience)
      if drawn.question in seen:  # the supply runs dry; do not search as long again
        patience //= 4
      seen.add(drawn.question)
      found.append(drawn)
    return found

  def _draw(self, split: str, index: int, seen: set[str], patience: int) -> drawing.DrawnProblem:
    """Draws until the question belongs in the split and, as long as patience lasts, is new."""
    rng = random.Random(f"arithmetic/{self._seed}/{split}/{index}")
    outside = split == "out_of_domain"
    pool = stories.HELD_OUT if outside else stories.SEEN[: len(self.families)]
    while True:
      drawn = drawing.draw(
        rng,
        rng.choice(pool),
        steps=rng.randint(*(self._harder_steps if outside else self._steps)),
        operand_max=self._operand_max,
        distractors=self._distractors,
      )
      if drawn is None or not (outside or self._belongs(drawn.question, split)):
        continue
      if drawn.question not in seen or patience == 0:
        return drawn
      patience -= 1

  def _belongs(self, question: str, split: str) -> bool:
    low, high = SHARES[split]
    return low <= drawing.share(self._seed, question) < high

  def _record(self, split: str, index: int, drawn: drawing.DrawnProblem) -> records.Problem:
    return records.Problem(
      id=f"arithmetic/{split}/{index}",
      split=split,
      question=drawn.question,
      gold=str(drawn.steps[-1].result),
      rationale=wordings.told(drawn.steps),
      decomposition=wordings.decomposition(drawn.steps),
    )


def _refuse(name: str, value, fits: bool, allowed: str) -> None:
  if not fits:
    raise errors.config(f"world.{name}", value, allowed)
