"""The built-in world of multiple choice: invented creatures, what they are like and what they can
do.

A pure function of its settings. Train, validation and test ask about the same facts and share no
question: the hash of a question's content (what it asks and its options, in any order) decides
which of them it may serve in. out_of_domain asks for two facts, one after the other (what the food
of a kind is like), which the others ask for one at a time.
"""

import math
import random

from distill_jax import errors, records
from distill_jax.worlds import grading, lore, queries, tellings

SPLITS = ("train", "validation", "test", "out_of_domain")
SHARES = {"train": (0.0, 0.7), "validation": (0.7, 0.85), "test": (0.85, 1.0)}
NAME = "taxonomy"


class TaxonomyWorld:
  """Problems of four splits; a shorter split is the beginning of a longer one."""

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
    """Counts are problems a split. `options`: of a question, 3 to 5. `exceptions`: the share of
    kinds that are not all that their group is. Raises errors.UserError."""
    self.sizes = dict(zip(SPLITS, (train, validation, test, out_of_domain), strict=True))
    _refuse("kinds", kinds, lore.FEWEST <= kinds <= lore.MOST, f"{lore.FEWEST} to {lore.MOST}")
    _refuse("options", options, 3 <= options <= len(queries.LABELS), "3 to 5")
    _refuse("exceptions", exceptions, 0 <= exceptions <= 1, "a share of the kinds, 0 to 1")
    self._seed, self._options = seed, options
    self.lore = lore.invent(seed=seed, kinds=kinds, exceptions=exceptions)
    for name, size in self.sizes.items():
      most = self._supply(name)
      allowed = f"0 to {most} problems with {kinds} kinds and {options} options"
      _refuse(name, size, 0 <= size <= most, allowed)
    self._queries: dict[str, list[queries.Query]] = {}
    self._problems: dict[str, list[records.Problem]] = {}
    self._by_question: dict[tuple[str, ...], records.Problem] = {}

  def problems(self, split: str) -> list[records.Problem]:
    """All problems of a split, in order. Raises errors.UserError for an unknown split."""
    if split not in self.sizes:
      raise errors.usage(f"no split {split!r}; there are {', '.join(SPLITS)}")
    if split not in self._problems:
      self._queries[split] = self._draw_split(split)
      self._problems[split] = [
        self._record(split, index, query) for index, query in enumerate(self._queries[split])
      ]
    return list(self._problems[split])

  def query(self, problem_id: str) -> queries.Query:
    """What a problem asks. Raises errors.UserError if there is no such problem."""
    world, _, rest = problem_id.partition("/")
    split, _, index = rest.partition("/")
    known = world == NAME and split in self.sizes and index.isdecimal() and index.isascii()
    if not known or len(index) > 9 or int(index) >= self.sizes[split]:
      raise errors.data(f"no problem {problem_id!r} in this world")
    self.problems(split)
    return self._queries[split][int(index)]

  def wording(self, problem_id: str, variant: int, answer: str = "") -> str:
    """A chain of thought; variant 0 is the gold one, then the other wordings, over and over. With
    a wrong `answer` it is that of somebody who is mistaken just so far."""
    return tellings.told(*self._believed(problem_id, variant, answer))

  def staged(self, problem_id: str, variant: int, answer: str = "") -> tuple[tuple[str, str], ...]:
    """("recall", key information), then (label, why it fits or not) of each option."""
    told = self._believed(problem_id, variant, answer)
    return (("recall", tellings.recalled(*told)), *tellings.judged(*told))

  def decomposed(
    self, problem_id: str, variant: int, answer: str = ""
  ) -> tuple[tuple[str, str], ...]:
    """(sub-question, solution) pairs, in order; the last solution states the answer."""
    return tellings.decomposed(*self._believed(problem_id, variant, answer))

  def first_wrong_step(self, problem_id: str, attempt_text: str) -> tuple[int, str] | None:
    """(step number from 1, what is wrong with it), None if the attempt is right."""
    return grading.first_wrong_step(self.lore, self.query(problem_id), attempt_text)

  def find(self, question_text: str, choices=()) -> records.Problem | None:
    """The problem of any split with this question: rendered, its choices with it in any layout; or
    bare, with its `choices`."""
    if not self._by_question:
      for split in SPLITS:
        for problem in self.problems(split):
          self._by_question[_words(problem.question, problem.choices)] = problem
    return self._by_question.get(_words(question_text, choices))

  def _believed(self, problem_id: str, variant: int, answer: str):
    query = self.query(problem_id)
    known = self.lore
    if answer not in ("", queries.answer(known, query)):
      known = queries.mistaken(known, query, answer)
    return known, query, tellings.STYLES[variant % len(tellings.STYLES)]

  def _draw_split(self, split: str) -> list[queries.Query]:
    seen: set[str] = set()
    return [self._draw(split, index, seen) for index in range(self.sizes[split])]

  def _draw(self, split: str, index: int, seen: set[str]) -> queries.Query:
    """Draws until the question belongs in the split and is new."""
    rng = random.Random(f"{NAME}/{self._seed}/{split}/{index}")
    forms = _forms(split)
    low, high = SHARES.get(split, (0.0, 1.0))
    while True:
      query = queries.draw(rng, self.lore, forms, self._options)
      if query.content not in seen and low <= queries.share(self._seed, query) < high:
        seen.add(query.content)
        return query

  def _supply(self, split: str) -> int:
    """How many questions a split may have: half of those there are, so that new ones are found
    soon."""
    low, high = SHARES.get(split, (0.0, 1.0))
    every = 0
    for form in _forms(split):
      for subject in queries.subjects(self.lore, form):
        right, wrong = queries.pools(self.lore, form, subject)
        every += len(right) * math.comb(len(wrong), self._options - 1)
    return int(every * (high - low) / 2)

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


def _words(question: str, choices) -> tuple[str, ...]:
  """Question and choices without layout."""
  text = " ".join([question, *(f"{label} {text}" for label, text in choices)])
  return tuple("".join(c if c.isalnum() else " " for c in text).lower().split())


def _refuse(name: str, value, fits: bool, allowed: str) -> None:
  if not fits:
    raise errors.config(f"{NAME}.{name}", value, allowed)
