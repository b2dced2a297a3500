"""The built-in world of multiple choice as a task; see worlds/taxonomy.py for what it makes."""

from distill_jax.tasks import task
from distill_jax.worlds import taxonomy

SHOTS = (
  (
    "Which of these can sing?\n(A) spoon\n(B) lark\n(C) brick",
    "Birds can sing.\n(A) A spoon is a tool, tools are not birds: no.\n(B) A lark is a bird: yes.\n"
    "(C) A brick is a stone, stones are not birds: no.\nAnswer: B",
  ),
  (
    "What is an oak like?\n(A) woody\n(B) salty\n(C) hollow",
    "An oak is a tree.\n(A) Trees are woody: yes.\n(B) Trees are not salty: no.\n"
    "(C) Trees are not hollow: no.\nAnswer: A",
  ),
  (
    "Which of these is a fish?\n(A) owl\n(B) fern\n(C) trout",
    "(A) An owl is a bird: no.\n(B) A fern is a plant: no.\n(C) A trout is a fish: yes.\nAnswer: C",
  ),
)


def load(
  *,
  seed: int,
  train: int,
  validation: int,
  test: int,
  out_of_domain: int,
  kinds: int,
  options: int,
  exceptions: float,
) -> task.Task:
  """The world with these settings (worlds.taxonomy.World) as a task."""
  world = taxonomy.World(
    seed=seed,
    train=train,
    validation=validation,
    test=test,
    out_of_domain=out_of_domain,
    kinds=kinds,
    options=options,
    exceptions=exceptions,
  )
  return task.Task("taxonomy", world.problems, shots=SHOTS, kind="choice", world=world)
