"""The settings of a run: every key of the configuration, declared once.

Declarations only; see `declare.py`. `config/` reads a ConfigDict into these dataclasses and rejects
what cannot work. After a change, regenerate what is derived from them:
`python -m distill_jax.config.generate`.
"""

import dataclasses

from distill_jax.declare import (
  Above,
  AllOf,
  AnyOf,
  Planned,
  Table,
  Unless,
  When,
  group,
  key,
  mapping,
)
from distill_jax.settings_student import Lora as Lora
from distill_jax.settings_student import Mesh as Mesh
from distill_jax.settings_student import Rollout as Rollout
from distill_jax.settings_student import Scratch as Scratch
from distill_jax.settings_student import Student as Student
from distill_jax.settings_teacher import Prices as Prices
from distill_jax.settings_teacher import Teacher as Teacher
from distill_jax.settings_training import ON_INSTRUCT, ON_SFT, ON_TRIPLET
from distill_jax.settings_training import Losses as Losses
from distill_jax.settings_training import Pair as Pair
from distill_jax.settings_training import Prefer as Prefer
from distill_jax.settings_training import Sft as Sft
from distill_jax.settings_training import Train as Train
from distill_jax.settings_training import Triplet as Triplet

WORLDS = ("arithmetic", "taxonomy")  # tasks that are generated, not read
PHASES, TASKS = Table("plan.PHASES"), Table("tasks.LOADERS")


ON_FILES = Unless("task.name", WORLDS)
CROSS_FILES = Unless("cross.name", ("", *WORLDS))
ON_ARITHMETIC = AnyOf((When("task.name", ("arithmetic",)), When("cross.name", ("arithmetic",))))
ON_TAXONOMY = AnyOf((When("task.name", ("taxonomy",)), When("cross.name", ("taxonomy",))))
ON_SHOTS = When("format", ("cot", "answer_only"))
ON_STAGED = When("format", ("staged",))
ON_SOCRATIC = When("format", ("socratic",))
ON_ITERATIVE = When("socratic.mode", ("iterative",))
# The teacher writes the demonstrations; answers alone are always gold.
ON_TEACHER = AllOf(
  (
    When("demonstrate.source", ("teacher",)),
    Unless("format", ("answer_only",)),
    Unless("staged.stages", (("summarize",),)),
  ),
  words="where the teacher writes the demonstrations",
)
ON_GOLD = When("format", ("staged", "socratic"))
ON_EXAM = Planned("exam")
ON_SAMPLING = Above("exam.temperature")
ON_CORRECT = When("feedback.kind", ("correct",))
ON_VOTES = Above("evaluate.num_votes", 1)
ON_PATIENCE = Above("stop.patience")


@dataclasses.dataclass(frozen=True)
class Stop:
  """When to end before the last round."""

  patience: int = key(
    2, "Rounds in a row without a gain on validation after which the run stops; 0 = never.", ge=0
  )
  min_gain: float = key(
    0.0,
    "Share of validation questions a round must gain to count as a gain.",
    ge=0,
    when=(ON_PATIENCE,),
  )


@dataclasses.dataclass(frozen=True)
class Task:
  """The questions."""

  name: str = key("arithmetic", "Built-in world or published data set.", choices=TASKS)
  path: str = key("", "Directory (or file) with the published data files.", when=(ON_FILES,))
  hub: str = key("", "Or the data set's name on the Hugging Face hub.", when=(ON_FILES,))
  train: int = key(0, "Training questions used; 0 = all.", ge=0, when=(ON_FILES,))
  validation: int = key(
    200, "Validation questions, taken from train where the data set has no such split.", ge=1
  )
  test: int = key(0, "Test questions used; 0 = all.", ge=0, when=(ON_FILES,))


@dataclasses.dataclass(frozen=True)
class World:
  """The built-in world of arithmetic word problems."""

  seed: int = key(0, "Which world: equal seeds give equal problems.", ge=0)
  train: int = key(2000, "Training questions.", ge=1)
  test: int = key(500, "Test questions.", ge=1)
  out_of_domain: int = key(
    200, "Questions with more steps, from story families that training never shows.", ge=0
  )
  steps_min: int = key(1, "Fewest reasoning steps, 1 to 5.")
  steps_max: int = key(2, "Most reasoning steps, steps_min to 5.")
  operand_max: int = key(12, "Largest number in a question, 6 to 10,000.")
  families: int = key(
    0, "Story families in training; 0 = all except those kept for out_of_domain.", ge=0
  )
  distractors: float = key(0.0, "Share of questions with an irrelevant quantity.", ge=0, le=1)
  ood_extra_steps: int = key(1, "Steps that out_of_domain has beyond steps_max.", ge=0)


@dataclasses.dataclass(frozen=True)
class Taxonomy:
  """The built-in world of multiple-choice questions over an invented taxonomy."""

  seed: int = key(0, "Which taxonomy: equal seeds give equal questions.", ge=0)
  train: int = key(2000, "Training questions.", ge=1)
  test: int = key(500, "Test questions.", ge=1)
  out_of_domain: int = key(200, "Questions that need two facts in sequence.", ge=0)
  kinds: int = key(40, "Kinds of things.")
  options: int = key(4, "Options of a question, 3 to 5.")
  exceptions: float = key(0.1, "Share of kinds that lack a property of their group.", ge=0, le=1)


@dataclasses.dataclass(frozen=True)
class Cross:
  """A second task for the rounds after the opening; its test split is scored too."""

  name: str = key(
    "", "As task.name; empty = the same task throughout.", choices=Table("tasks.LOADERS", ("",))
  )
  path: str = key("", "As task.path.", when=(CROSS_FILES,))
  hub: str = key("", "As task.hub.", when=(CROSS_FILES,))
  train: int = key(0, "As task.train.", ge=0, when=(CROSS_FILES,))
  test: int = key(0, "As task.test.", ge=0, when=(CROSS_FILES,))


@dataclasses.dataclass(frozen=True)
class Cot:
  """Chains of thought."""

  shots: int = key(
    0, "Worked examples before each question, in training and evaluation.", ge=0, when=(ON_SHOTS,)
  )


@dataclasses.dataclass(frozen=True)
class Instruct:
  """Instruction, input and output, with or without a chain of thought."""

  instruction: str = key("Solve the problem.", "The instruction.")
  elicitation: str = key("Let's think step by step.", "Text that elicits a chain of thought.")


@dataclasses.dataclass(frozen=True)
class Staged:
  """Recall, analyze, summarize."""

  stages: tuple[str, ...] = key(
    ("recall", "analyze", "summarize"), "The stages; recall and analyze may be left out."
  )
  interval: int = key(
    100,
    "Batches of one stage before the next (analyze in proportion to its examples); 0 = mixed.",
    ge=0,
  )
  repeat: bool = key(False, "Repeat an option's text where it is analyzed.")
  reflect: tuple[str, ...] = key(
    ("recall", "analyze"),
    "Stages that the exam samples and that pairs are made of.",
    when=(ON_EXAM,),
  )
  starts: int = key(
    0, "Right recalls of a question whose analyses are sampled; 0 = all.", ge=0, when=(ON_EXAM,)
  )


@dataclasses.dataclass(frozen=True)
class Socratic:
  """Sub-questions and their solutions."""

  mode: str = key(
    "iterative",
    "iterative (a decomposer and a solver: two students) | unified (one student writes both).",
    choices=("iterative", "unified"),
  )
  questions: str = key(
    "model",
    "Whose sub-questions are answered: the model's, or the problem's own (an upper bound).",
    choices=("model", "gold"),
    when=(ON_ITERATIVE,),
  )
  max_steps: int = key(8, "Sub-questions of one problem, at most.", ge=1, when=(ON_ITERATIVE,))
  solutions: bool = key(True, "The decomposer sees the solutions so far.", when=(ON_ITERATIVE,))
  calculator: bool = key(False, "Mark equations in training and compute their results in decoding.")


@dataclasses.dataclass(frozen=True)
class Demonstrate:
  """Demonstrations: rationales for training questions, before any exam."""

  source: str = key(
    "teacher",
    "teacher | gold (the data set's own rationales or decompositions).",
    choices=("teacher", "gold"),
  )
  rationales: int = key(
    1, "Rationales requested for each question, afresh in each round.", ge=1, when=(ON_TEACHER,)
  )
  questions: int = key(0, "Training questions to annotate; 0 = all.", ge=0)
  show_gold: bool = key(False, "Show the teacher the right answer.", when=(ON_TEACHER, ON_GOLD))
  passes: int = key(
    1, "Passes of requests; each asks again for unusable replies.", ge=1, when=(ON_TEACHER,)
  )
  relabel: str = key(
    "keep",
    "If replies disagree with gold: keep (drop the replies) | majority (the majority becomes the"
    " answer) | drop (questions whose majority disagrees).",
    choices=("keep", "majority", "drop"),
    when=(ON_TEACHER,),
  )
  distance: int = key(
    0,
    "Edits by which rationales of a question must differ; 0 = not identical.",
    ge=0,
    when=(ON_TEACHER,),
  )


@dataclasses.dataclass(frozen=True)
class Exam:
  """Attempts at training questions."""

  questions: int = key(0, "Training questions in the exam; 0 = all.", ge=0, when=(ON_EXAM,))
  samples: int = key(4, "Attempts per question.", ge=1, when=(ON_EXAM,))
  styles: tuple[str, ...] = key(
    ("",),
    "Prompt styles; format=instruct has cot and plain, others have one (the empty name).",
    when=(ON_EXAM,),
  )
  temperature: float = key(1.0, "Sampling temperature; 0 = greedy.", ge=0, when=(ON_EXAM,))
  top_p: float = key(1.0, "Nucleus sampling; 1 = off.", ge=0, le=1, when=(ON_EXAM, ON_SAMPLING))
  top_k: int = key(0, "Top-k sampling; 0 = off.", ge=0, when=(ON_EXAM, ON_SAMPLING))
  max_new_tokens: int = key(128, "Tokens of the longest attempt.", ge=1)


@dataclasses.dataclass(frozen=True)
class Feedback:
  """The teacher's answer to mistakes."""

  kind: str = key(
    "correct",
    "correct (the teacher sees the mistake) | blind (it annotates the question afresh).",
    choices=("correct", "blind"),
  )
  show_gold: bool = key(True, "Show the teacher the right answer.", when=(ON_CORRECT,))
  mistakes: int = key(1, "Different mistakes of one question that are sent.", ge=1)
  rationales: int = key(1, "Rationales requested for each mistake.", ge=1)


@dataclasses.dataclass(frozen=True)
class Contrast:
  """Texts that the triplet loss contrasts."""

  positives: int = key(10, "Right rationales kept per question.", ge=0)
  negatives: int = key(4, "Wrong attempts kept per question.", ge=0)


@dataclasses.dataclass(frozen=True)
class Evaluate:
  """Scoring on held-out questions."""

  max_new_tokens: int = key(256, "Tokens of the longest answer (of each turn).", ge=1)
  num_votes: int = key(
    1, "Answers per question, of which the most frequent counts; 1 = one greedy answer.", ge=1
  )
  temperature: float = key(
    0.7, "Sampling temperature where there are several.", ge=0, when=(ON_VOTES,)
  )


@dataclasses.dataclass(frozen=True)
class TinyThinkerCompat:
  """TinyThinker's released code; also demonstrate.relabel=majority, demonstrate.distance=0."""

  options_split_on_commas: bool = key(
    False,
    'Options are joined and split again at ", ", which breaks those with a comma.',
    when=(ON_STAGED,),
  )
  teachers_order: bool = key(
    False, "Summaries are learned from analyses in the teacher's order.", when=(ON_STAGED,)
  )
  nll_on_pads: bool = key(
    False,
    "The NLL term is a mean over the chosen side and its padding up to the longest pair.",
    when=(Planned("prefer"),),
  )


@dataclasses.dataclass(frozen=True)
class Compat:
  """Deviations of the papers' released code, for comparison."""

  tinythinker: TinyThinkerCompat = group(TinyThinkerCompat, "TinyThinker's released code.")


@dataclasses.dataclass(frozen=True)
class Settings:
  """All settings of a run."""

  recipe: str = key("base", "Name in reports.")
  seed: int = key(0, "Decides initial weights, order of rows and samples.", ge=0)
  format: str = key(
    "cot",
    "How a rationale is laid out and how the student is prompted.",
    choices=Table("formats.MAKERS"),
  )
  opening: tuple[str, ...] = key(
    ("demonstrate", "exam", "train"), "Phases of round 0.", choices=PHASES
  )
  each_round: tuple[str, ...] = key(
    ("exam", "feedback", "train"),
    "Phases of rounds 1 to `rounds`, each from the previous round's student.",
    choices=PHASES,
  )
  rounds: int = key(3, "Rounds after the opening.", ge=0)
  accumulate_rationales: bool = key(
    True, "A round trains on all rationales so far; otherwise on those of this round only."
  )
  start_from: str = key(
    "previous",
    "Weights that a round's training starts from: the previous round's student, or the base.",
    choices=("previous", "base"),
  )
  stop: Stop = group(Stop, "When to end before the last round.")
  task: Task = group(Task, "The questions.")
  world: World = group(World, "The arithmetic world.", when=(ON_ARITHMETIC,))
  taxonomy: Taxonomy = group(Taxonomy, "The taxonomy world.", when=(ON_TAXONOMY,))
  cross: Cross = group(Cross, "A second task for the rounds after the opening.")
  teacher: Teacher = group(Teacher, "The teacher.")
  teachers: dict[str, Teacher] = mapping(
    "Further teachers by name, each with the fields that differ from `teacher`:"
    " --config.teachers=\"{'cheap': {'model': 'MODEL'}}\"."
  )
  student: Student = group(Student, "The student.")
  mesh: Mesh = group(Mesh, "Devices along each mesh axis.")
  cot: Cot = group(Cot, "Chains of thought.")
  instruct: Instruct = group(Instruct, "Instruction format.", when=(ON_INSTRUCT,))
  staged: Staged = group(Staged, "Recall, analyze, summarize.", when=(ON_STAGED,))
  socratic: Socratic = group(Socratic, "Sub-questions.", when=(ON_SOCRATIC,))
  demonstrate: Demonstrate = group(Demonstrate, "Demonstrations.", when=(Planned("demonstrate"),))
  exam: Exam = group(Exam, "Attempts at training questions.")
  feedback: Feedback = group(Feedback, "Answers to mistakes.", when=(Planned("feedback"),))
  contrast: Contrast = group(Contrast, "Texts of the triplet loss.", when=(ON_TRIPLET,))
  pair: Pair = group(Pair, "Preference pairs.", when=(Planned("pair"),))
  prefer: Prefer = group(Prefer, "Preference training.", when=(Planned("prefer"),))
  train: Train = group(Train, "Training.")
  sft: Sft = group(Sft, "Cross-entropy.", when=(ON_SFT,))
  triplet: Triplet = group(Triplet, "The triplet loss.", when=(ON_TRIPLET,))
  evaluate: Evaluate = group(Evaluate, "Scoring on held-out questions.")
  rollout: Rollout = group(Rollout, "Bulk sampling.")
  compat: Compat = group(Compat, "Deviations of the papers' released code.")
