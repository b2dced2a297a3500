"""The arithmetic world as a task; see worlds/arithmetic.py."""

import inspect
from typing import Any

from distill_jax.tasks import task
from distill_jax.worlds import arithmetic

SHOTS = (
  (
    "Rob has 7 apples in a basket. Rob buys 5 more apples. How many apples does Rob have now?",
    "Rob has 7 + 5 = 12 apples.\nAnswer: 12",
  ),
  (
    "Joy has 4 boxes. Each box has 6 cards. Joy sells 9 cards. How many cards does Joy have now?",
    "Joy has 4 * 6 = 24 cards.\nJoy has 24 - 9 = 15 cards.\nAnswer: 15",
  ),
  (
    "Rob bakes 12 buns. Joy is 8 years old. Rob puts the buns on 3 equal plates. How many buns does"
    " each plate have?",
    "Each plate has 12 / 3 = 4 buns.\nAnswer: 4",
  ),
)


def load(**options: Any) -> task.Task:
  """Returns the task of a world with these options; see `worlds.arithmetic.ArithmeticWorld`."""
  world = arithmetic.ArithmeticWorld(**options)
  return task.Task("arithmetic", world.problems, shots=SHOTS, world=world)


# `tasks.get` checks options against this signature.
load.__signature__ = inspect.signature(arithmetic.ArithmeticWorld)  # pyright: ignore[reportFunctionMemberAccess]
