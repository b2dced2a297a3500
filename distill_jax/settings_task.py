"""The settings of the task: the questions, and the built-in worlds.

Declarations only; see `declare.py`.
"""

import dataclasses

from distill_jax.declare import AnyOf, Table, Unless, When, group, key

WORLDS = ("arithmetic", "taxonomy")  # tasks that are generated, not read
TASKS = Table("tasks.LOADERS")

ON_FILES = Unless("task.name", WORLDS)
ON_OWN = When("task.name", ("file",))
CROSS_FILES = Unless("cross.name", ("", *WORLDS))
ON_ALSO = Unless("evaluate.also.name", ("",))
ALSO_FILES = Unless("evaluate.also.name", ("", *WORLDS))
TASK_NAMES = ("task.name", "cross.name", "evaluate.also.name")
ON_ARITHMETIC = AnyOf(tuple(When(name, ("arithmetic",)) for name in TASK_NAMES))
ON_TAXONOMY = AnyOf(tuple(When(name, ("taxonomy",)) for name in TASK_NAMES))


@dataclasses.dataclass(frozen=True)
class Columns:
  """Columns of your own file; empty = found by name, none = there is no such column."""

  question: str = key("", "The question.")
  answer: str = key("", "The answer.")
  choices: str = key("", "The list of options.")
  rationale: str = key("", "A rationale for the answer.")
  id: str = key("", "The ID of the question.")
  split: str = key("", "The split of the question: train, validation or test.")


@dataclasses.dataclass(frozen=True)
class Task:
  """The questions."""

  name: str = key(
    "arithmetic", "Built-in world, published data set, or file (your own).", choices=TASKS
  )
  path: str = key(
    "",
    "Directory or file with the data. It may move, but its content may not change.",
    mutable=True,
    when=(ON_FILES,),
  )
  hub: str = key(
    "",
    "The data set's name on the Hugging Face hub, instead of task.path.",
    mutable=True,
    when=(ON_FILES,),
  )
  train: int = key(0, "Training questions used; 0 = all.", ge=0, when=(ON_FILES,))
  validation: int = key(
    200, "Validation questions; taken from train if the data set has no validation split.", ge=1
  )
  test: int = key(0, "Test questions used; 0 = all.", ge=0, when=(ON_FILES,))
  kind: str = key(
    "auto",
    "Kind of the answers: auto (guessed from the data) | number | choice | boolean | expression"
    " (LaTeX) | text (the same words as the gold answer, or as one of several).",
    choices=("auto", "number", "choice", "boolean", "expression", "text"),
    when=(ON_OWN,),
  )
  columns: Columns = group(
    Columns,
    "Columns of your own file; empty = found by name, none = there is no such column.",
    when=(ON_OWN,),
  )
  grader: str = key(
    "",
    "MODULE:FUNCTION that takes (answer, gold) and returns a bool; empty = compare by task.kind.",
    when=(ON_OWN,),
  )


@dataclasses.dataclass(frozen=True)
class World:
  """The built-in world of arithmetic word problems."""

  seed: int = key(0, "Seed of the problems; the same seed gives the same problems.", ge=0)
  train: int = key(2000, "Training questions.", ge=1)
  test: int = key(500, "Test questions.", ge=1)
  out_of_domain: int = key(
    200, "Questions with more steps, from story families that training never shows.", ge=0
  )
  steps_min: int = key(1, "Minimum number of reasoning steps, 1 to 5.")
  steps_max: int = key(2, "Maximum number of reasoning steps, steps_min to 5.")
  operand_max: int = key(12, "Largest number in a question, 6 to 10,000.")
  families: int = key(
    0, "Story families in training; 0 = all except those kept for out_of_domain.", ge=0
  )
  distractors: float = key(0.0, "Share of questions with an irrelevant quantity.", ge=0, le=1)
  ood_extra_steps: int = key(
    1, "Maximum number of reasoning steps in out_of_domain, beyond steps_max.", ge=0
  )


@dataclasses.dataclass(frozen=True)
class Taxonomy:
  """The built-in world of multiple-choice questions over an invented taxonomy."""

  seed: int = key(0, "Seed of the taxonomy; the same seed gives the same questions.", ge=0)
  train: int = key(2000, "Training questions.", ge=1)
  test: int = key(500, "Test questions.", ge=1)
  out_of_domain: int = key(200, "Questions that need two facts in sequence.", ge=0)
  kinds: int = key(40, "Number of kinds of things in the taxonomy.")
  options: int = key(4, "Options per question, 3 to 5.")
  exceptions: float = key(0.1, "Share of kinds that lack a property of their group.", ge=0, le=1)


@dataclasses.dataclass(frozen=True)
class Cross:
  """A second task for the rounds after the opening; its test split is scored too."""

  name: str = key(
    "",
    "Task of the rounds after the opening; empty = config.task in all rounds.",
    choices=Table("tasks.LOADERS", ("",)),
  )
  path: str = key("", "As task.path.", mutable=True, when=(CROSS_FILES,))
  hub: str = key("", "As task.hub.", mutable=True, when=(CROSS_FILES,))
  train: int = key(0, "As task.train.", ge=0, when=(CROSS_FILES,))
  test: int = key(0, "As task.test.", ge=0, when=(CROSS_FILES,))


@dataclasses.dataclass(frozen=True)
class Also:
  """Another task, on whose test split the final student is scored; nothing is learned from it."""

  name: str = key("", "The task; empty = none.", choices=Table("tasks.LOADERS", ("",)))
  path: str = key("", "As task.path.", when=(ALSO_FILES,))
  hub: str = key("", "As task.hub.", when=(ALSO_FILES,))
  test: int = key(0, "As task.test.", ge=0, when=(ON_ALSO,))
