"""Queries: questions about a lore, and the facts that decide each option.

A link is a fact as data:

  ("is", kind, group)                     ("like", group, property, property)
  ("eats", kind, kind)                    ("who", property, group, group), the inverse of "like"
  ("can", property, ability)              ("but", kind, property, property), an exception

("fit", word, whether it fits) is a verdict, not a fact. The opening states what would fit, and on
an option's line the same word has the same verdict. So an option is judged by recalling a fact and
then looking up its word in the opening: a small student learns to copy from its context long before
it learns to compare.
"""

import dataclasses
import hashlib
import random
from collections.abc import Collection
from typing import Any

from distill_jax.worlds import lore

LABELS = "ABCDE"
EXCEPTIONAL = 0.15  # share of options that are exceptional, if there are any to choose

Link = tuple[Any, ...]  # see above


@dataclasses.dataclass(frozen=True)
class Form:
  """A way to ask a question.

  Attributes:
    name: Name of the form.
    ask: The question, with {} for its subject.
    subject: What the question is about: property, ability, group or kind.
    options: What its options are: property, ability or kind.
    eaten: Whether it is about the food of a kind instead of the kind itself.
  """

  name: str
  ask: str
  subject: str
  options: str
  eaten: bool = False


SEEN = (
  Form("able", "Which of these can {}?", "ability", "kind"),
  Form("like", "Which of these is {}?", "property", "kind"),
  Form("member", "Which of these is a {}?", "group", "kind"),
  Form("abilities", "What can {} do?", "kind", "ability"),
  Form("properties", "What is {} like?", "kind", "property"),
  Form("food", "What is the food of {}?", "kind", "kind"),
)
TWO_HOPS = (
  Form("able food", "Which of these has food that can {}?", "ability", "kind", eaten=True),
  Form("food like", "Which of these has food that is {}?", "property", "kind", eaten=True),
  Form("food's abilities", "What can the food of {} do?", "kind", "ability", eaten=True),
  Form("food's properties", "What is the food of {} like?", "kind", "property", eaten=True),
)
FORMS = {form.name: form for form in SEEN + TWO_HOPS}


@dataclasses.dataclass(frozen=True)
class Query:
  """A question: its form, its subject and its options. A property stands for its ability."""

  form: Form
  subject: str
  options: tuple[str, ...]

  @property
  def text(self) -> str:
    """The question as text."""
    return self.form.ask.format(word_for(self.form.subject, self.subject))

  @property
  def choices(self) -> tuple[tuple[str, str], ...]:
    """(label, text) of each option."""
    texts = [word_for(self.form.options, option) for option in self.options]
    return tuple(zip(LABELS, texts, strict=False))

  @property
  def content(self) -> str:
    """What identifies the question, whatever the order of its options."""
    return "/".join([self.form.name, self.subject, *sorted(self.options)])


def word_for(role: str, word: str) -> str:
  """The text of a word in a question; in the role "ability" a property stands for its ability."""
  return lore.ABILITIES[word] if role == "ability" else word


def share(seed: int, query: Query) -> float:
  """Position of a question's content in the hashed order of all contents, in [0, 1)."""
  digest = hashlib.sha256(f"taxonomy/{seed}\n{query.content}".encode()).digest()
  return int.from_bytes(digest[:8], "big") / 2**64


def subjects(known: lore.Lore, form: Form) -> tuple[str, ...]:
  """All subjects of a form."""
  return {"kind": known.kinds, "group": lore.GROUPS}.get(form.subject, lore.PROPERTIES)


def fits(known: lore.Lore, form: Form, subject: str, option: str) -> bool:
  """Whether an option is right."""
  if form.name == "food":
    return known.food[subject] == option
  if form.name == "member":
    return known.group[option] == subject
  kind, word = (subject, option) if form.subject == "kind" else (option, subject)
  return word in known.nature(known.food[kind] if form.eaten else kind)


def pools(known: lore.Lore, form: Form, subject: str) -> tuple[list[str], list[str]]:
  """Returns (all options that fit, all options that do not)."""
  every = known.kinds if form.options == "kind" else lore.PROPERTIES
  every = [option for option in every if form.name != "food" or option != subject]
  right = [option for option in every if fits(known, form, subject, option)]
  return right, [option for option in every if option not in right]


def draw(rng: random.Random, known: lore.Lore, forms: tuple[Form, ...], options: int) -> Query:
  """Draws a question with exactly one option that fits, at any position.

  Exceptional options are drawn more often than by chance, equally as right and as wrong options.

  Args:
    rng: Source of randomness.
    known: The facts.
    forms: Forms to draw from.
    options: Number of options.
  """
  form = rng.choice(forms)
  subject = rng.choice(subjects(known, form))
  right, wrong = pools(known, form, subject)
  while not right or len(wrong) < options - 1:
    subject = rng.choice(subjects(known, form))
    right, wrong = pools(known, form, subject)
  chosen = [_pick(rng, known, form, subject, right)]
  while len(chosen) < options:
    rest = [option for option in wrong if option not in chosen]
    chosen.append(_pick(rng, known, form, subject, rest))
  rng.shuffle(chosen)
  return Query(form, subject, tuple(chosen))


def _pick(rng: random.Random, known: lore.Lore, form: Form, subject: str, pool: list[str]) -> str:
  odd = [option for option in pool if exceptional(known, form, subject, option)]
  return rng.choice(odd if odd and rng.random() < EXCEPTIONAL else pool)


def exceptional(known: lore.Lore, form: Form, subject: str, option: str) -> bool:
  """Whether the kind's exception, and not its group, decides if the option fits."""
  if form.name in ("food", "member"):
    return False
  kind, word = (subject, option) if form.subject == "kind" else (option, subject)
  kind = known.food[kind] if form.eaten else kind
  rule = known.rules[known.group[kind]]
  return (word in known.nature(kind)) != (word in rule)


def answer(known: lore.Lore, query: Query) -> str:
  """The label of the option that fits."""
  verdicts = [fits(known, query.form, query.subject, option) for option in query.options]
  assert sum(verdicts) == 1, query
  return LABELS[verdicts.index(True)]


def opening(known: lore.Lore, query: Query) -> tuple[Link, ...]:
  """The links that all options share. They come first and end in what would fit."""
  form, subject = query.form, query.subject
  if form.name == "member":
    return (("fit", subject, True),)
  if form.subject != "kind":
    groups = [group for group in lore.GROUPS if subject in known.rules[group]]
    can = (("can", subject, lore.ABILITIES[subject]),) if form.subject == "ability" else ()
    return (*can, ("fit", subject, True), ("who", subject, *groups), *_fit(groups, groups))
  food = known.food[subject]
  eats = (("eats", subject, food),)
  if form.name == "food":
    return (*eats, ("fit", food, True))
  kind = food if form.eaten else subject
  group, nature = known.group[kind], known.nature(kind)
  links = (("is", kind, group), ("like", group, *known.rules[group]), *_exception(known, kind))
  return (*(eats if form.eaten else ()), *links, *_fit(nature, nature))


def chain(known: lore.Lore, query: Query, option: str) -> tuple[Link, ...]:
  """The links that decide one option, after the opening. It fits if one of its words does."""
  form, subject = query.form, query.subject
  right = fits(known, form, subject, option)
  if form.name == "member":
    return (("is", option, known.group[option]), ("fit", known.group[option], right))
  if form.subject == "kind":
    can = (("can", option, lore.ABILITIES[option]),) if form.options == "ability" else ()
    return (*can, ("fit", option, right))
  kind = known.food[option] if form.eaten else option
  group, odd = known.group[kind], _exception(known, kind)
  verdicts = _fit(known.nature(kind), (subject,)) if odd else (("fit", group, right),)
  eats = (("eats", option, kind),) if form.eaten else ()
  return (*eats, ("is", kind, group), *odd, *verdicts)


def _fit(words: Collection[str], right: Collection[str]) -> tuple[Link, ...]:
  return tuple(("fit", word, word in right) for word in words)


def _exception(known: lore.Lore, kind: str) -> tuple[Link, ...]:
  return (("but", kind, *known.exceptions[kind]),) if kind in known.exceptions else ()


def mistaken(known: lore.Lore, query: Query, label: str) -> lore.Lore:
  """The lore in which option `label` is the answer of a query.

  It differs from `known` only in the facts that decide this option and the right one.
  """
  form, subject = query.form, query.subject
  gold = query.options[LABELS.index(answer(known, query))]
  wrong = query.options[LABELS.index(label)]
  if form.name == "food":
    return dataclasses.replace(known, food=known.food | {subject: wrong})
  if form.name == "member":
    other = known.group[wrong]
    return dataclasses.replace(known, group=known.group | {gold: other, wrong: subject})
  if form.subject == "kind":
    kind = known.food[subject] if form.eaten else subject
    return known.believing({kind: _instead(known, kind, gold, wrong)})
  gold, wrong = (known.food[o] if form.eaten else o for o in (gold, wrong))
  other = next(word for word in lore.PROPERTIES if word not in known.nature(gold))
  natures = {gold: _instead(known, gold, subject, other)}
  return known.believing(natures | {wrong: _instead(known, wrong, known.nature(wrong)[0], subject)})


def _instead(known: lore.Lore, kind: str, old: str, new: str) -> lore.Pair:
  """The properties of a kind with `new` in place of `old`."""
  return lore.ordered(new if word == old else word for word in known.nature(kind))
