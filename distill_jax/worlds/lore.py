"""An invented body of knowledge: kinds of creatures, their groups, what these are like, who eats
whom.

A kind is like its group, but for exceptions; what it is like decides what it can do. Every group
has as many properties as any other and every property as many groups, and an exceptional kind has
one property more for the one it lacks: so no kind and no property is the answer more often than
another, and to count words is of no use.
"""

import dataclasses
import itertools
import random

GROUPS = ("dron", "vemp", "tulk", "gorm", "snad", "brel", "quon", "yorp")
ABILITIES = {
  "winged": "fly", "finned": "swim", "clawed": "dig", "furry": "bear frost", "tall": "pick fruit",
  "strong": "pull carts", "loud": "give alarm", "bright": "light caves", "slim": "slip away",
  "quick": "win races",
}  # fmt: skip
PROPERTIES = tuple(ABILITIES)
HALF = len(PROPERTIES) // 2  # properties of a group
_FIRST = ("zib", "mor", "tal", "ven", "gos", "pli", "rud", "wem", "kas", "fen", "lur", "dax")
_SECOND = ("bo", "lin", "tok", "mar", "su", "vet", "nip", "gar", "dle", "wix", "pum", "hes")
FEWEST, MOST = 16, len(_FIRST) * len(_SECOND)  # kinds


@dataclasses.dataclass(frozen=True)
class Lore:
  """What is the case."""

  group: dict[str, str]  # of each kind
  rules: dict[str, frozenset[str]]  # the properties of each group
  exceptions: frozenset[tuple[str, str]]  # (kind, property) that its group's rule gets wrong
  food: dict[str, str]  # what each kind eats; every kind is eaten by one

  @property
  def kinds(self) -> tuple[str, ...]:
    return tuple(self.group)

  def has(self, kind: str, word: str) -> bool:
    """Is a creature of this kind `word` (a property)?"""
    return (word in self.rules[self.group[kind]]) != ((kind, word) in self.exceptions)


def invent(*, seed: int, kinds: int, exceptions: float) -> Lore:
  """The body of knowledge of a seed; `exceptions` is the share of kinds that are exceptional."""
  rng = random.Random(f"lore/{seed}")
  side = next(n for n in itertools.count(1) if n * n >= kinds)
  names = [first + second for first in _FIRST[:side] for second in _SECOND[:side]]
  names = rng.sample(names, kinds)
  rules = _rules(rng)
  group = {name: GROUPS[number % len(GROUPS)] for number, name in enumerate(names)}
  odd = set()
  for name in rng.sample(names, round(exceptions * kinds)):
    own = rules[group[name]]
    odd.add((name, rng.choice([word for word in PROPERTIES if word in own])))
    odd.add((name, rng.choice([word for word in PROPERTIES if word not in own])))
  ring = rng.sample(names, kinds)
  food = dict(zip(ring, ring[1:] + ring[:1], strict=True))
  return Lore(group, rules, frozenset(odd), food)


def _rules(rng: random.Random) -> dict[str, frozenset[str]]:
  """Half of the properties for every group, half of the groups for every property: properties
  change places between two groups until nothing of the first order is left."""
  rules = [{PROPERTIES[(n + i) % len(PROPERTIES)] for i in range(HALF)} for n in _starts()]
  for _ in range(400):
    one, other = rng.sample(rules, 2)
    mine, theirs = sorted(one - other), sorted(other - one)
    if mine and theirs:
      given, taken = rng.choice(mine), rng.choice(theirs)
      one ^= {given, taken}
      other ^= {given, taken}
  return {name: frozenset(words) for name, words in zip(GROUPS, rules, strict=True)}


def _starts() -> tuple[int, ...]:
  """The first property of each group: a group takes HALF in a row, and two groups take all."""
  return tuple(HALF * (number % 2) + number // 2 for number in range(len(GROUPS)))
