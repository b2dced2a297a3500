"""What plans are made of: the phases, in one table.

phases/NAME.py has run(run, number, here): it reads what came before through `run`, writes records
into its folder `here`, and ends with here.finish(facts). A line of the table says what others have
to know of it before it is loaded, which loads jax.
"""

import importlib
from typing import NamedTuple


class Phase(NamedTuple):
  after: str = ""  # the phase that has to stand before it in a plan
  asks: bool = False  # the teacher
  writes: bool = False  # rationales to train on; its facts have kept and dropped
  trains: bool = False  # and leaves weights; its facts have steps and loss


TABLE = {
  "demonstrate": Phase(asks=True, writes=True),
  "exam": Phase(),
  "feedback": Phase(after="exam", asks=True, writes=True),
  "rationalize": Phase(after="exam", writes=True),
  "pair": Phase(after="exam"),
  "train": Phase(trains=True),
  "prefer": Phase(after="pair", trains=True),
}

ASKERS = tuple(name for name, phase in TABLE.items() if phase.asks)
WRITERS = tuple(name for name, phase in TABLE.items() if phase.writes)
TRAINERS = tuple(name for name, phase in TABLE.items() if phase.trains)


def asked(name: str, run, number: int):
  """Two lists of rationales.Wanted: what a phase that asks the teacher would ask, and what it may
  ask at the most beside that, depending on what is not known yet."""
  return importlib.import_module(f"{__name__}.{name}").asked(run, number)


def play(name: str, run, number: int, here) -> None:
  """Plays the phase in NAME.py: one of the table, or evaluate, which ends every round."""
  importlib.import_module(f"{__name__}.{name}").run(run, number, here)
