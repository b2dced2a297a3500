"""The taxonomy world (multiple choice) as a task; see worlds/taxonomy.py."""

import inspect
from typing import Any

from distill_jax.tasks import task
from distill_jax.worlds import taxonomy

SHOTS = (
  (
    "Which of these can sing?\n(A) spoon\n(B) lark\n(C) brick",
    "sing if tuneful, tuneful fits, a bird and a flute are tuneful, bird fits, flute fits.\n"
    "(A) spoon is a tool, tool fails.\n(B) lark is a bird, bird fits.\n"
    "(C) brick is a stone, stone fails.\nAnswer: B",
  ),
  (
    "What is oak like?\n(A) woody\n(B) salty\n(C) hollow",
    "oak is a tree, a tree is woody and green, woody fits, green fits.\n(A) woody fits.\n"
    "(B) salty fails.\n(C) hollow fails.\nAnswer: A",
  ),
  (
    "Which of these is a fish?\n(A) owl\n(B) fern\n(C) trout",
    "fish fits.\n(A) owl is a bird, bird fails.\n(B) fern is a plant, plant fails.\n"
    "(C) trout is a fish, fish fits.\nAnswer: C",
  ),
)


def load(**options: Any) -> task.Task:
  """Returns the task of a world with these options; see `worlds.taxonomy.TaxonomyWorld`."""
  world = taxonomy.TaxonomyWorld(**options)
  return task.Task("taxonomy", world.problems, shots=SHOTS, kind="choice", world=world)


# `tasks.get` checks options against this signature.
load.__signature__ = inspect.signature(taxonomy.TaxonomyWorld)  # pyright: ignore[reportFunctionMemberAccess]
