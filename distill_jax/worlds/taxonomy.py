"""The taxonomy world: multiple choice about invented creatures, their properties and abilities.

A pure function of its settings. Train, validation and test ask about the same facts but share no
question: the hash of a question's content (what it asks and its options, in any order) decides
which split it may be used in. out_of_domain asks for two facts in sequence (what the food of a kind
is like), which the other splits ask for one at a time.
"""

import math
import random
from collections.abc import Iterable

from distill_jax import errors, records
from distill_jax.worlds import grading, lore, queries, tellings

SPLITS = ("train", "validation", "test", "out_of_domain")
SHARES = {"train": (0.0, 0.7), "validation": (0.7, 0.85), "test": (0.85, 1.0)}
NAME = "taxonomy"


class TaxonomyWorld:
  """Problems of four splits. A smaller split is a prefix of a larger one.

  Attributes:
    sizes: Number of problems in each split.
    lore: The facts.
  """

  def __init__(
    self,
    *,
    seed: int,
    train: int,
    validation: int,
    test: int,
    out_of_domain: int,
    kinds: int,
    options: int,
    exceptions: float,
  ):
    """Creates the world. Problems are generated when a split is first used.

    Args:
      seed: Seed of the lore and of the problems.
      train: Number of training problems.
      validation: Number of validation problems.
      test: Number of test problems.
      out_of_domain: Number of out-of-domain problems.
      kinds: Number of kinds of creatures.
      options: Options per question, 3 to 5.
      exceptions: Share of kinds that differ from their group in one property.

    Raises:
      errors.UserError: A setting is out of range.
    """
    self.sizes: dict[str, int] = dict(
      zip(SPLITS, (train, validation, test, out_of_domain), strict=True)
    )
    _check("kinds", kinds, lore.FEWEST <= kinds <= lore.MOST, f"{lore.FEWEST} to {lore.MOST}")
    _check("options", options, 3 <= options <= len(queries.LABELS), "3 to 5")
    _check("exceptions", exceptions, 0 <= exceptions <= 1, "a share of the kinds, 0 to 1")
    self._seed, self._options = seed, options
    self.lore = lore.invent(seed=seed, kinds=kinds, exceptions=exceptions)
    for name, size in self.sizes.items():
      most = self._supply(name)
      allowed = f"0 to {most} problems with {kinds} kinds and {options} options"
      _check(name, size, 0 <= size <= most, allowed)
    self._queries: dict[str, list[queries.Query]] = {}
    self._problems: dict[str, list[records.Problem]] = {}
    self._by_question: dict[tuple[str, ...], records.Problem] = {}

  def problems(self, split: str) -> list[records.Problem]:
    """All problems of a split, in order.

    Raises:
      errors.UserError: There is no such split.
    """
    if split not in self.sizes:
      raise errors.usage(f"no split {split!r}; choose one of {', '.join(SPLITS)}")
    if split not in self._problems:
      self._queries[split] = self._draw_split(split)
      self._problems[split] = [
        self._record(split, index, query) for index, query in enumerate(self._queries[split])
      ]
    return list(self._problems[split])

  def query(self, problem_id: str) -> queries.Query:
    """The query of a problem.

    Raises:
      errors.UserError: There is no such problem.
    """
    world, _, rest = problem_id.partition("/")
    split, _, index = rest.partition("/")
    known = world == NAME and split in self.sizes and index.isdecimal() and index.isascii()
    if not known or len(index) > 9 or int(index) >= self.sizes[split]:
      raise errors.data(f"no problem {problem_id!r} in this world")
    self.problems(split)
    return self._queries[split][int(index)]

  def wording(self, problem_id: str, variant: int, answer: str = "") -> str:
    """A chain of thought.

    Variant 0 is the gold one; further variants cycle through the styles. With a wrong `answer`,
    only the facts that lead to that answer are wrong.
    """
    return tellings.told(*self._believed(problem_id, variant, answer))

  def staged(self, problem_id: str, variant: int, answer: str = "") -> tuple[tuple[str, str], ...]:
    """("recall", key information), then (label, why it fits or not) of each option."""
    believed = self._believed(problem_id, variant, answer)
    return (("recall", tellings.recalled(*believed)), *tellings.judged(*believed))

  def decomposed(
    self, problem_id: str, variant: int, answer: str = ""
  ) -> tuple[tuple[str, str], ...]:
    """(sub-question, solution) pairs in order. The last solution states the answer."""
    return tellings.decomposed(*self._believed(problem_id, variant, answer))

  def first_wrong_step(self, problem_id: str, attempt_text: str) -> tuple[int, str] | None:
    """Returns (step number from 1, what is wrong with it), or None if the attempt is correct."""
    return grading.first_wrong_step(self.lore, self.query(problem_id), attempt_text)

  def find(
    self, question_text: str, choices: Iterable[tuple[str, str]] = ()
  ) -> records.Problem | None:
    """The problem of any split with this question, or None if there is none.

    Args:
      question_text: The question: rendered with its choices, in any layout, or without them.
      choices: The (label, text) choices, if they are not in `question_text`.
    """
    if not self._by_question:
      for split in SPLITS:
        for problem in self.problems(split):
          self._by_question[_words(problem.question, problem.choices)] = problem
    return self._by_question.get(_words(question_text, choices))

  def _believed(
    self, problem_id: str, variant: int, answer: str
  ) -> tuple[lore.Lore, queries.Query, tellings.Style]:
    """The facts as someone with this answer believes them, the query, and the style to use."""
    query = self.query(problem_id)
    known = self.lore
    if answer not in ("", queries.answer(known, query)):
      known = queries.mistaken(known, query, answer)
    return known, query, tellings.STYLES[variant % len(tellings.STYLES)]

  def _draw_split(self, split: str) -> list[queries.Query]:
    seen: set[str] = set()
    return [self._draw(split, index, seen) for index in range(self.sizes[split])]

  def _draw(self, split: str, index: int, seen: set[str]) -> queries.Query:
    """Draws until the question belongs to the split and is new."""
    rng = random.Random(f"{NAME}/{self._seed}/{split}/{index}")
    forms = _forms(split)
    low, high = SHARES.get(split, (0.0, 1.0))
    while True:
      query = queries.draw(rng, self.lore, forms, self._options)
      if query.content not in seen and low <= queries.share(self._seed, query) < high:
        seen.add(query.content)
        return query

  def _supply(self, split: str) -> int:
    """Largest size of a split: half of its possible questions, so new ones are found quickly."""
    low, high = SHARES.get(split, (0.0, 1.0))
    total = 0
    for form in _forms(split):
      for subject in queries.subjects(self.lore, form):
        right, wrong = queries.pools(self.lore, form, subject)
        total += len(right) * math.comb(len(wrong), self._options - 1)
    return int(total * (high - low) / 2)

  def _record(self, split: str, index: int, query: queries.Query) -> records.Problem:
    style = tellings.STYLES[0]
    return records.Problem(
      id=f"{NAME}/{split}/{index}",
      split=split,
      question=query.text,
      gold=queries.answer(self.lore, query),
      kind="choice",
      rationale=tellings.told(self.lore, query, style),
      choices=query.choices,
      decomposition=tellings.decomposed(self.lore, query, style),
      facts=tellings.facts(self.lore, query),
    )


def _forms(split: str) -> tuple[queries.Form, ...]:
  return queries.TWO_HOPS if split == "out_of_domain" else queries.SEEN


def _words(question: str, choices: Iterable[tuple[str, str]]) -> tuple[str, ...]:
  """The words of question and choices, without layout."""
  text = " ".join([question, *(f"{label} {text}" for label, text in choices)])
  return tuple("".join(c if c.isalnum() else " " for c in text).lower().split())


def _check(name: str, value: float, fits: bool, allowed: str) -> None:
  if not fits:
    raise errors.config(f"{NAME}.{name}", value, allowed)
