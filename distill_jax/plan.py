"""The phases that a plan is made of, in one table.

`config.opening` and `config.each_round` are plans: tuples of the names below. This module imports
nothing of the package, so the config rules, the run context and the phases can all read it.
"""

from typing import NamedTuple


class Phase(NamedTuple):
  """What must be known about a phase before its module is loaded.

  Attributes:
    after: The phase that must come before it in a plan, or "".
    asks: Whether it sends requests to the teacher.
    writes: Whether it writes rationales to train on. Its facts then have `kept` and `dropped`.
    trains: Whether it trains and saves weights. Its facts then have `steps` and `loss`.
  """

  after: str = ""
  asks: bool = False
  writes: bool = False
  trains: bool = False


PHASES = {
  "demonstrate": Phase(asks=True, writes=True),
  "exam": Phase(),
  "feedback": Phase(after="exam", asks=True, writes=True),
  "rationalize": Phase(after="exam", writes=True),
  "pair": Phase(after="exam"),
  "train": Phase(trains=True),
  "prefer": Phase(after="pair", trains=True),
}

ASKERS = tuple(name for name, phase in PHASES.items() if phase.asks)
WRITERS = tuple(name for name, phase in PHASES.items() if phase.writes)
TRAINERS = tuple(name for name, phase in PHASES.items() if phase.trains)
