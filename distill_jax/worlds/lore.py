"""An invented body of knowledge: kinds of creatures, their groups, what these are like, who eats
whom.

A kind is like its group, but for exceptions; what it is like decides what it can do. Whatever
there is, is like two things, and of two groups the same thing is true: so no kind and no property
is the answer more often than another, and to count words is of no use.
"""

import dataclasses
import itertools
import random

GROUPS = ("dron", "vemp", "tulk", "gorm", "snad", "brel", "quon", "yorp", "frit", "jelm")
ABILITIES = {
  "winged": "fly", "finned": "swim", "clawed": "dig", "furry": "bear frost", "tall": "pick fruit",
  "strong": "pull carts", "loud": "give alarm", "bright": "light caves", "slim": "slip away",
  "quick": "win races",
}  # fmt: skip
PROPERTIES = tuple(ABILITIES)
_FIRST = ("zib", "mor", "tal", "ven", "gos", "pli", "rud", "wem", "kas", "fen", "lur", "dax")
_SECOND = ("bo", "lin", "tok", "mar", "su", "vet", "nip", "gar", "dle", "wix", "pum", "hes")
FEWEST, MOST = 2 * len(GROUPS), len(_FIRST) * len(_SECOND)  # kinds

Pair = tuple[str, str]  # two properties, in the order of PROPERTIES


@dataclasses.dataclass(frozen=True)
class Lore:
  """What is the case."""

  group: dict[str, str]  # of each kind
  rules: dict[str, Pair]  # what each group is like
  exceptions: dict[str, Pair]  # what a kind is like that is not like its group
  food: dict[str, str]  # what each kind eats; every kind is eaten by one

  @property
  def kinds(self) -> tuple[str, ...]:
    return tuple(self.group)

  def nature(self, kind: str) -> Pair:
    """What a creature of this kind is like."""
    return self.exceptions[kind] if kind in self.exceptions else self.rules[self.group[kind]]

  def believing(self, natures: dict[str, Pair]) -> "Lore":
    """The same, but for what these kinds are like."""
    odd = {kind: pair for kind, pair in self.exceptions.items() if kind not in natures}
    odd |= {kind: pair for kind, pair in natures.items() if pair != self.rules[self.group[kind]]}
    return dataclasses.replace(self, exceptions=odd)


def invent(*, seed: int, kinds: int, exceptions: float) -> Lore:
  """The body of knowledge of a seed; `exceptions` is the share of kinds that are exceptional."""
  rng = random.Random(f"lore/{seed}")
  side = next(n for n in itertools.count(1) if n * n >= kinds)
  names = [first + second for first in _FIRST[:side] for second in _SECOND[:side]]
  names = rng.sample(names, kinds)
  words = rng.sample(PROPERTIES, len(PROPERTIES))
  pairs = zip(words, words[1:] + words[:1], strict=True)  # a ring: every word with two others
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


def ordered(words) -> Pair:
  one, other = sorted(words, key=PROPERTIES.index)
  return one, other
