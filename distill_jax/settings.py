"""The settings of a run: every key of the configuration, declared once.

Declarations only; see `declare.py`. `config/` reads a ConfigDict into these dataclasses and rejects
what cannot work. After a change, regenerate what is derived from them:
`python -m distill_jax.config.generate`.
"""

import dataclasses

from distill_jax.declare import Above, AllOf, Planned, Table, Unless, When, group, key, mapping
from distill_jax.settings_student import ON_PRETRAINED
from distill_jax.settings_student import Lora as Lora
from distill_jax.settings_student import Mesh as Mesh
from distill_jax.settings_student import Rollout as Rollout
from distill_jax.settings_student import Scratch as Scratch
from distill_jax.settings_student import Student as Student
from distill_jax.settings_task import ON_ARITHMETIC, ON_TAXONOMY
from distill_jax.settings_task import WORLDS as WORLDS
from distill_jax.settings_task import Also as Also
from distill_jax.settings_task import Cross as Cross
from distill_jax.settings_task import Task as Task
from distill_jax.settings_task import Taxonomy as Taxonomy
from distill_jax.settings_task import World as World
from distill_jax.settings_teacher import Prices as Prices
from distill_jax.settings_teacher import Teacher as Teacher
from distill_jax.settings_training import ON_INSTRUCT, ON_SFT, ON_TRIPLET
from distill_jax.settings_training import Losses as Losses
from distill_jax.settings_training import Pair as Pair
from distill_jax.settings_training import Prefer as Prefer
from distill_jax.settings_training import Sft as Sft
from distill_jax.settings_training import Train as Train
from distill_jax.settings_training import Triplet as Triplet

PHASES = Table("plan.PHASES")

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
    2,
    "Stop after this many rounds in a row without a gain in validation accuracy; 0 = never.",
    ge=0,
  )
  min_gain: float = key(
    0.0,
    "Increase in validation accuracy above which a round counts as a gain.",
    ge=0,
    when=(ON_PATIENCE,),
  )


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
    ("recall", "analyze", "summarize"), "Stages of a rationale; recall and analyze are optional."
  )
  interval: int = key(
    100,
    "Consecutive batches of one stage before those of the next (for analyze, in proportion to its"
    " number of examples); 0 = stages are mixed within a batch.",
    ge=0,
  )
  repeat: bool = key(False, "Repeat the text of an option at the start of its analysis.")
  reflect: tuple[str, ...] = key(
    ("recall", "analyze"),
    "Stages that the exam samples and that preference pairs compare.",
    when=(ON_EXAM,),
  )
  starts: int = key(
    0,
    "Maximum number of correct recalls per question whose analyses are sampled; 0 = all.",
    ge=0,
    when=(ON_EXAM,),
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
    "Source of the sub-questions: model (the decomposer) | gold (the data set: an upper bound).",
    choices=("model", "gold"),
    when=(ON_ITERATIVE,),
  )
  max_steps: int = key(
    8, "Maximum number of sub-questions per problem.", ge=1, when=(ON_ITERATIVE,)
  )
  solutions: bool = key(
    True, "Whether the decomposer sees the solutions so far.", when=(ON_ITERATIVE,)
  )
  calculator: bool = key(
    False, "Train with <<...>> marks around equations and compute their results in decoding."
  )


@dataclasses.dataclass(frozen=True)
class Demonstrate:
  """Demonstrations: rationales for training questions, before any exam."""

  source: str = key(
    "teacher",
    "teacher | gold (the data set's own rationales or decompositions).",
    choices=("teacher", "gold"),
  )
  rationales: int = key(
    1,
    "Rationales requested for each question; each round requests new ones.",
    ge=1,
    when=(ON_TEACHER,),
  )
  questions: int = key(0, "Training questions to annotate; 0 = all.", ge=0)
  show_gold: bool = key(False, "Show the teacher the correct answer.", when=(ON_TEACHER, ON_GOLD))
  passes: int = key(
    1,
    "Passes over the questions; each pass after the first replaces unusable replies.",
    ge=1,
    when=(ON_TEACHER,),
  )
  relabel: str = key(
    "keep",
    "If the teacher disagrees with gold: keep (keep gold, drop the replies that disagree)"
    " | majority (the most frequent answer replaces gold) | drop (drop the question if its most"
    " frequent answer is not gold).",
    choices=("keep", "majority", "drop"),
    when=(ON_TEACHER,),
  )
  distance: int = key(
    0,
    "Rationales for a question must differ by more than this many edits; 0 = not identical.",
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
    "Prompt styles of the exam; format=instruct has cot and plain, others only '' (one style).",
    when=(ON_EXAM,),
  )
  temperature: float = key(1.0, "Sampling temperature; 0 = greedy.", ge=0, when=(ON_EXAM,))
  top_p: float = key(1.0, "Nucleus sampling; 1 = off.", ge=0, le=1, when=(ON_EXAM, ON_SAMPLING))
  top_k: int = key(0, "Top-k sampling; 0 = off.", ge=0, when=(ON_EXAM, ON_SAMPLING))
  max_new_tokens: int = key(
    0,
    "Maximum number of tokens of an attempt; 0 = from the data for a pretrained student, 128 from"
    " scratch.",
    ge=0,
  )


@dataclasses.dataclass(frozen=True)
class Feedback:
  """The teacher's answer to mistakes."""

  kind: str = key(
    "correct",
    "correct (the teacher sees and corrects the mistake) | blind (it sees only the question).",
    choices=("correct", "blind"),
  )
  show_gold: bool = key(True, "Show the teacher the correct answer.", when=(ON_CORRECT,))
  cut: bool = key(
    False, "Also send attempts that were cut off at exam.max_new_tokens; their answer is unknown."
  )
  mistakes: int = key(1, "Maximum number of distinct mistakes per question to send.", ge=1)
  rationales: int = key(1, "Rationales requested for each mistake.", ge=1)


@dataclasses.dataclass(frozen=True)
class Contrast:
  """The positives and negatives of the triplet loss."""

  positives: int = key(10, "Maximum number of correct rationales per question.", ge=0)
  negatives: int = key(4, "Maximum number of wrong attempts per question.", ge=0)


@dataclasses.dataclass(frozen=True)
class Evaluate:
  """Scoring on held-out questions."""

  max_new_tokens: int = key(
    0,
    "Maximum number of tokens of an answer (of each turn); 0 = from the data for a pretrained"
    " student, 256 from scratch.",
    ge=0,
  )
  num_votes: int = key(
    1, "Answers per question; the most frequent one is scored. 1 = one greedy answer.", ge=1
  )
  temperature: float = key(
    0.7, "Sampling temperature if num_votes is above 1.", ge=0, when=(ON_VOTES,)
  )
  base: bool = key(
    True,
    "Also score a pretrained student on validation before training (row `base` of the table).",
    when=(ON_PRETRAINED,),
  )
  base_shots: int = key(
    0,
    "Also score a pretrained student before training with this many worked examples in its"
    " prompt; 0 = do not.",
    ge=0,
    when=(ON_PRETRAINED, ON_SHOTS),
  )
  also: Also = group(Also, "Another task for the final test, such as one out of domain.")


@dataclasses.dataclass(frozen=True)
class TinyThinkerCompat:
  """TinyThinker's released code. It also uses demonstrate.relabel=majority and .distance=0."""

  options_split_on_commas: bool = key(
    False,
    'Join the options and split them again at ", ", which breaks options with a comma.',
    when=(ON_STAGED,),
  )
  teachers_order: bool = key(
    False, "Train summaries on analyses in the teacher's order of the options.", when=(ON_STAGED,)
  )
  nll_on_pads: bool = key(
    False,
    "Average the NLL term over the chosen side and its padding to the longest pair.",
    when=(Planned("prefer"),),
  )


@dataclasses.dataclass(frozen=True)
class Compat:
  """Deviations of the papers' released code, for comparison."""

  tinythinker: TinyThinkerCompat = group(TinyThinkerCompat, "TinyThinker's released code.")


@dataclasses.dataclass(frozen=True)
class Settings:
  """All settings of a run."""

  recipe: str = key("base", "Name in reports.", mutable=True)
  track: tuple[str, ...] = key(
    (),
    "Experiment trackers that also receive the metrics: tensorboard | wandb | trackio.",
    choices=("tensorboard", "wandb", "trackio"),
    mutable=True,
  )
  seed: int = key(0, "Seed of the initial weights, the row order and sampling.", ge=0)
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
    "Phases of rounds 1 to `rounds`; each round starts from the previous round's student.",
    choices=PHASES,
  )
  rounds: int = key(
    3, "Rounds after the opening; a larger number extends a finished run.", ge=0, mutable=True
  )
  accumulate_rationales: bool = key(
    True, "Train on the rationales of all rounds so far, not only on those of the current round."
  )
  start_from: str = key(
    "previous",
    "Weights that a round's training starts from: previous (the previous round's student) | base"
    " (the base model).",
    choices=("previous", "base"),
  )
  stop: Stop = group(Stop, "When to end before the last round.", mutable=True)
  task: Task = group(Task, "The questions.")
  world: World = group(World, "The arithmetic world.", when=(ON_ARITHMETIC,))
  taxonomy: Taxonomy = group(Taxonomy, "The taxonomy world.", when=(ON_TAXONOMY,))
  cross: Cross = group(Cross, "A second task for the rounds after the opening.")
  teacher: Teacher = group(Teacher, "The teacher.")
  teachers: dict[str, Teacher] = mapping(
    "Additional teachers by name, each with the fields that differ from `teacher`:"
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
  contrast: Contrast = group(Contrast, "Positives and negatives.", when=(ON_TRIPLET,))
  pair: Pair = group(Pair, "Preference pairs.", when=(Planned("pair"),))
  prefer: Prefer = group(Prefer, "Preference training.", when=(Planned("prefer"),))
  train: Train = group(Train, "Training.")
  sft: Sft = group(Sft, "Cross-entropy.", when=(ON_SFT,))
  triplet: Triplet = group(Triplet, "The triplet loss.", when=(ON_TRIPLET,))
  evaluate: Evaluate = group(Evaluate, "Scoring on held-out questions.", mutable=True)
  rollout: Rollout = group(Rollout, "Bulk sampling.")
  compat: Compat = group(Compat, "Deviations of the papers' released code.")
