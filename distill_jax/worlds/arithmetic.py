"""The arithmetic world: multi-step word problems, each with the program that solves it.

A world is a pure function of its settings. The hash of a question's content (without names, things
and distractors) determines its split, so train, validation and test share no questions, not even
questions that differ only in names. out_of_domain uses separate story families.
"""

import random

from distill_jax import errors, records
from distill_jax.worlds import drawing, marking, stories, wordings

SPLITS = ("train", "validation", "test", "out_of_domain")
SHARES = {"train": (0.0, 0.7), "validation": (0.7, 0.85), "test": (0.85, 1.0)}
MOST_STEPS = 5
# Wordings whose lines can be used as solutions. The excluded one starts each line with a question.
SOLUTIONS = tuple(words for words in wordings.WORDINGS if words is not wordings.asked)
PATIENCE = 100  # draws without a new question after which a question may be repeated


class ArithmeticWorld:
  """Problems of four splits. A smaller split is a prefix of a larger one.

  Attributes:
    sizes: Number of problems in each split.
    families: Names of the story families of train, validation and test.
  """

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
    """Creates the world. Problems are generated when a split is first used.

    Args:
      seed: Seed of the problems.
      train: Number of training problems.
      validation: Number of validation problems.
      test: Number of test problems.
      out_of_domain: Number of out-of-domain problems.
      steps_min: Fewest steps of a problem.
      steps_max: Most steps of a problem.
      operand_max: Largest number in a question.
      families: Number of story families in train, validation and test; 0 for all except those held
        out for out_of_domain.
      distractors: Probability that a question has a quantity that no step needs.
      ood_extra_steps: Maximum number of steps of out_of_domain problems beyond `steps_max`.

    Raises:
      errors.UserError: A setting is out of range.
    """
    counts = (train, validation, test, out_of_domain)
    self.sizes: dict[str, int] = dict(zip(SPLITS, counts, strict=True))
    self._seed, self._operand_max, self._distractors = seed, operand_max, distractors
    for name, size in self.sizes.items():
      _check(name, size, size >= 0, "0 or more problems")
    _check("steps_min", steps_min, 1 <= steps_min <= MOST_STEPS, f"1 to {MOST_STEPS}")
    allowed = f"steps_min ({steps_min}) to {MOST_STEPS}"
    _check("steps_max", steps_max, steps_min <= steps_max <= MOST_STEPS, allowed)
    _check("operand_max", operand_max, 6 <= operand_max <= 10_000, "6 to 10000")
    known = len(stories.SEEN)
    _check("families", families, 0 <= families <= known, f"0 (all) to {known}")
    _check("distractors", distractors, 0 <= distractors <= 1, "a probability, 0 to 1")
    _check("ood_extra_steps", ood_extra_steps, ood_extra_steps >= 0, "0 or more steps")
    self.families = tuple(story.name for story in stories.SEEN[: families or known])
    self._steps = (steps_min, steps_max)
    most = min(steps_max + ood_extra_steps, MOST_STEPS)
    self._ood_steps = (steps_max + 1, most) if most > steps_max else self._steps
    self._drawn: dict[str, list[drawing.DrawnProblem]] = {}
    self._problems: dict[str, list[records.Problem]] = {}
    self._by_question: dict[str, records.Problem] = {}

  def problems(self, split: str) -> list[records.Problem]:
    """All problems of a split, in order.

    Raises:
      errors.UserError: There is no such split.
    """
    if split not in self.sizes:
      raise errors.usage(f"no split {split!r}; choose one of {', '.join(SPLITS)}")
    if split not in self._problems:
      self._drawn[split] = self._draw_split(split)
      self._problems[split] = [
        self._record(split, index, drawn) for index, drawn in enumerate(self._drawn[split])
      ]
    return list(self._problems[split])

  def problem(self, split: str, index: int) -> records.Problem:
    """One problem of a split."""
    return self.problems(split)[index]

  def program(self, problem_id: str) -> tuple[drawing.Step, ...]:
    """The steps that solve a problem.

    Raises:
      errors.UserError: There is no such problem.
    """
    return self._find_drawn(problem_id).steps

  def family(self, problem_id: str) -> str:
    """The name of a problem's story family.

    Raises:
      errors.UserError: There is no such problem.
    """
    return self._find_drawn(problem_id).family

  def wording(self, problem_id: str, variant: int) -> str:
    """A correct rationale. Variant 0 is the gold one; further variants cycle through WORDINGS."""
    return wordings.WORDINGS[variant % len(wordings.WORDINGS)](self.program(problem_id))

  def decomposed(self, problem_id: str, variant: int) -> tuple[tuple[str, str], ...]:
    """The (sub-question, solution) pairs of a problem's steps.

    Variant 0 is the gold one; further variants cycle through other wordings of the solutions.
    """
    steps = self.program(problem_id)
    texts = SOLUTIONS[variant % len(SOLUTIONS)](steps).split("\n")
    gold = wordings.decomposition(steps)
    return tuple((question, text) for (question, _), text in zip(gold, texts[:-1], strict=True))

  def first_wrong_step(self, problem_id: str, attempt_text: str) -> tuple[int, str] | None:
    """Returns (step number from 1, what is wrong with it), or None if the attempt is correct."""
    return marking.first_wrong_step(self.program(problem_id), attempt_text)

  def find(self, question_text: str) -> records.Problem | None:
    """The problem of any split with this question, ignoring white space; None if there is none."""
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
    seen, problems, patience = set(), [], PATIENCE
    for index in range(self.sizes[split]):
      drawn = self._draw(split, index, seen, patience)
      if drawn.question in seen:  # few new questions are left, so search less from here on
        patience //= 4
      seen.add(drawn.question)
      problems.append(drawn)
    return problems

  def _draw(self, split: str, index: int, seen: set[str], patience: int) -> drawing.DrawnProblem:
    """Draws until the question belongs to the split and, for up to `patience` draws, is new."""
    rng = random.Random(f"arithmetic/{self._seed}/{split}/{index}")
    outside = split == "out_of_domain"
    pool = stories.HELD_OUT if outside else stories.SEEN[: len(self.families)]
    while True:
      drawn = drawing.draw(
        rng,
        rng.choice(pool),
        steps=rng.randint(*(self._ood_steps if outside else self._steps)),
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


def _check(name: str, value: float, fits: bool, allowed: str) -> None:
  if not fits:
    raise errors.config(f"world.{name}", value, allowed)
