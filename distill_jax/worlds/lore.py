"""The lore: an invented body of knowledge about creatures.

It has kinds of creatures, the group of each kind, the properties of each group, and who eats whom.
A kind has the properties of its group, except for a few exceptional kinds. Properties decide what a
creature can do. Every kind has two properties, and every property belongs to two groups, so no kind
and no property is the answer more often than another, and counting words does not help.
"""

import dataclasses
import itertools
import random
from collections.abc import Iterable

GROUPS = ("dron", "vemp", "tulk", "gorm", "snad", "brel", "quon", "yorp", "frit", "jelm")
ABILITIES = {
  "winged": "fly", "finned": "swim", "clawed": "dig", "furry": "bear frost", "tall": "pick fruit",
  "strong": "pull carts", "loud": "give alarm", "bright": "light caves", "slim": "slip away",
  "quick": "win races",
}  # fmt: skip
PROPERTIES = tuple(ABILITIES)
_FIRST = ("zib", "mor", "tal", "ven", "gos", "pli", "rud", "wem", "kas", "fen", "lur", "dax")
_SECOND = ("bo", "lin", "tok", "mar", "su", "vet", "nip", "gar", "dle", "wix", "pum", "hes")
FEWEST, MOST = 2 * len(GROUPS), len(_FIRST) * len(_SECOND)  # number of kinds

Pair = tuple[str, str]  # two properties, in the order of PROPERTIES


@dataclasses.dataclass(frozen=True)
class Lore:
  """The facts of a world."""

  group: dict[str, str]  # kind -> its group
  rules: dict[str, Pair]  # group -> its properties
  exceptions: dict[str, Pair]  # exceptional kind -> its properties
  food: dict[str, str]  # kind -> the kind it eats; every kind is eaten by exactly one

  @property
  def kinds(self) -> tuple[str, ...]:
    """All kinds, in order."""
    return tuple(self.group)

  def nature(self, kind: str) -> Pair:
    """The properties of a kind."""
    return self.exceptions[kind] if kind in self.exceptions else self.rules[self.group[kind]]

  def believing(self, natures: dict[str, Pair]) -> "Lore":
    """The same lore, with these properties for these kinds."""
    odd = {kind: pair for kind, pair in self.exceptions.items() if kind not in natures}
    odd |= {kind: pair for kind, pair in natures.items() if pair != self.rules[self.group[kind]]}
    return dataclasses.replace(self, exceptions=odd)


def invent(*, seed: int, kinds: int, exceptions: float) -> Lore:
  """Invents the lore of a seed; `exceptions` is the share of kinds that are exceptional."""
  rng = random.Random(f"lore/{seed}")
  side = next(n for n in itertools.count(1) if n * n >= kinds)
  names = [first + second for first in _FIRST[:side] for second in _SECOND[:side]]
  names = rng.sample(names, kinds)
  words = rng.sample(PROPERTIES, len(PROPERTIES))
  pairs = zip(words, words[1:] + words[:1], strict=True)  # a ring: every word is in two pairs
  rules = {name: ordered(pair) for name, pair in zip(GROUPS, pairs, strict=True)}
  known = Lore({name: GROUPS[n % len(GROUPS)] for n, name in enumerate(names)}, rules, {}, {})
  odd = {}
  for name in rng.sample(names, round(exceptions * kinds)):
    own = known.nature(name)
    gained = rng.choice([word for word in PROPERTIES if word not in own])
    odd[name] = ordered((rng.choice(own), gained))
  ring = rng.sample(names, kinds)
  food = dict(zip(ring, ring[1:] + ring[:1], strict=True))
  return dataclasses.replace(known, exceptions=odd, food=food)


def ordered(words: Iterable[str]) -> Pair:
  """Two properties in the order of PROPERTIES."""
  one, other = sorted(words, key=PROPERTIES.index)
  return one, other
