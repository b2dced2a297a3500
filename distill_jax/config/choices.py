"""Resolves the choices of a key that are the keys of an implementing table.

Tables in device code import jax, so they are imported when they are needed.
"""

from collections.abc import Callable, Iterable
from typing import cast

from distill_jax import formats, plan, tasks
from distill_jax.declare import Declaration, Table

Names = Iterable[str]  # of a table: its keys


def _schedules() -> tuple[str, ...]:
  from distill_jax.learning import optim

  return tuple(optim.SCHEDULES)


def _preference_losses() -> tuple[str, ...]:
  from distill_jax.learning import losses

  return tuple(cast(Names, losses.PREFERENCE))


def _families() -> tuple[str, ...]:
  from distill_jax.students import families

  return tuple(cast(Names, families.BY_TYPE))


TABLES: dict[str, Callable[[], tuple[str, ...]]] = {
  "plan.PHASES": lambda: tuple(plan.PHASES),
  "tasks.LOADERS": lambda: tuple(cast(Names, tasks.LOADERS)),
  "formats.MAKERS": lambda: tuple(cast(Names, formats.MAKERS)),
  "optim.SCHEDULES": _schedules,
  "losses.PREFERENCE": _preference_losses,
  "families.BY_TYPE": _families,
}


def of(declaration: Declaration) -> tuple[str, ...]:
  """The allowed values of a key; () if any value of its type is allowed."""
  choices = declaration.choices
  if isinstance(choices, Table):
    return (*choices.others, *TABLES[choices.name]())
  return choices
