"""The run context: everything a phase needs to know about its run.

All of it is derived from the config and the run directory. Expensive parts (teacher, tokenizer,
student, weights) are created on first use.
"""

import copy
import functools
import pathlib
from collections.abc import Generator, Iterable, Sequence
from types import TracebackType
from typing import Any

from distill_jax import defaults, errors, formats, plan, records, tasks, teacher, together
from distill_jax.console import Console
from distill_jax.data import tokenizer
from distill_jax.formats.turns import Turn
from distill_jax.machine import checkpoint, hf
from distill_jax.run_dir import phase_dir
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import base_model
from distill_jax.runtime.open_task import open_task as open_task
from distill_jax.runtime.student import Params, Student
from distill_jax.runtime.student_teacher import StudentTeacher
from distill_jax.runtime.tracking import Tracking
from distill_jax.runtime.weights import digest
from distill_jax.settings import Settings, Teacher
from distill_jax.teacher import types

CALCULATOR_MARKS = "<<3+4=7>>"  # with the calculator, encoding and decoding must preserve this

# Lengths until they are measured (see lengths.py), in tokens. Only pretrained students have none.
UNMEASURED: Any = {
  "train": (64, 128, 256, 512),
  "rollout": (64, 128, 256, 512),
  "exam": 256,
  "evaluate": 256,
  "response": 256,
}


class RunContext:
  """What the phases of one run share: settings, run directory, console, task, teacher, students.

  Use it as a context manager: leaving it closes the teacher.

  Attributes:
    settings: All settings of the run, with lengths (see lengths.py).
    given_settings: The same as they were given: lengths may be 0 or ().
    run_dir: The run directory.
    console: Shows progress and warnings.
    format: The format of rationales (see formats/).
    task: The task of round 0, of validation and of the final test.
  """

  def __init__(self, settings: Settings, run_dir: RunDir, console: Console):
    self.given_settings, self.run_dir, self.console = settings, run_dir, console
    self.settings = defaults.with_lengths(settings, **UNMEASURED)
    self.format = formats.get(settings, self._is_chat, self._chat_template)
    self.task = open_task(settings)
    # Further tasks by the split that their test is.
    named = {"cross": settings.cross.name, "also": settings.evaluate.also.name}
    self._further = {split: open_task(settings, split) for split, name in named.items() if name}
    # The task of the rounds after the opening.
    self._later_task = self._further.get("cross", self.task)
    self._check_task()
    base_shots = settings.evaluate.base_shots
    for field, shots in (("cot.shots", settings.cot.shots), ("evaluate.base_shots", base_shots)):
      if shots > len(self.task.shots):
        allowed = f"at most {len(self.task.shots)} for {self.task.name}"
        raise errors.config(field, shots, allowed)
    self._shots = self.task.shots[: settings.cot.shots]
    # student -> (directory the weights come from, None for the base; the last weights loaded)
    self._params: dict[str, tuple[pathlib.Path | None, Params]] = {}

  def __enter__(self) -> "RunContext":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None = None,
    error: BaseException | None = None,
    traceback: TracebackType | None = None,
  ) -> None:
    if "teacher" in self.__dict__:
      self.teacher.close()
    if "tracking" in self.__dict__:
      self.tracking.close()

  def _check_task(self) -> None:
    named = [task.name for task in (self.task, *self._further.values()) if task.kind != "choice"]
    if self.settings.format == "staged" and named:
      name = named[0]
      raise errors.config(
        "format", "staged", f"one without stages: task {name} has no options to analyze"
      )

  def _is_chat(self) -> bool:
    """Whether the student is prompted with messages."""
    s = self.settings.student
    if s.init == base_model.SCRATCH or s.prompt == "plain":
      return False  # without opening it
    return self.student.chat is not None

  @property
  def workdir(self) -> pathlib.Path:
    """The path of the run directory."""
    return self.run_dir.path

  def warn(self, text: str) -> None:
    """Shows a warning."""
    self.console.warn(text)

  @functools.cached_property
  def teacher(self) -> types.Teacher:
    """The teacher of the run; opened on first use."""
    teacher.check_cache(self.settings.teacher, self.workdir)
    opened = teacher.open(self)
    teacher.record_cache(self.settings.teacher, self.workdir)
    return opened

  @functools.cached_property
  def tracking(self) -> Tracking:
    """The experiment trackers of the run; opened on first use."""
    return Tracking(self.settings.track, self.run_dir, self.console)

  def student_teacher(self, settings: Teacher, name: str) -> StudentTeacher:
    """Returns the student that acts as the teacher `name`.

    Args:
      settings: The settings of this teacher.
      name: The name of the teacher.
    """
    return StudentTeacher(self, settings, name)

  @together.CachedProperty
  def student(self) -> Student:
    """The student's model, tokenizer and devices, without trained weights."""
    return Student(self.settings, self.tokenizer, self.base, announce=self.console.compiling)

  def set_lengths(self, settings: Settings) -> None:
    """Replaces the settings by those with other lengths, before the student has been used."""
    self.settings = settings
    self.__dict__.pop("student", None)

  @together.CachedProperty
  def base(self) -> base_model.BaseModel:
    """The model the student starts from."""
    scratch = self.settings.student.init == base_model.SCRATCH
    return base_model.open_base(
      self.settings,
      self.run_dir.path,
      started=self.run_dir.started,
      vocab=self.tokenizer.vocab if scratch else 0,
    )

  @together.CachedProperty
  def tokenizer(self) -> tokenizer.Tokenizer:
    """The student's tokenizer.

    A pretrained student uses the tokenizer of its base model. For a student from scratch, a new
    tokenizer is trained on first use, on the training questions and the rationales that exist then.
    """
    path = self.run_dir.path / "tokenizer"
    scratch = self.settings.student.init == base_model.SCRATCH
    max_vocab = None if scratch else self.base.config.vocab
    self._make_tokenizer(path)
    opened = tokenizer.Tokenizer(path, max_vocab=max_vocab)
    decoded = opened.decode(opened.encode(CALCULATOR_MARKS))
    if self.settings.socratic.calculator and CALCULATOR_MARKS not in decoded:
      allowed = f"False: this student's tokenizer turns {CALCULATOR_MARKS} into {decoded!r}"
      raise errors.config("socratic.calculator", True, allowed)
    return opened

  @together.on_first
  def _make_tokenizer(self, path: pathlib.Path) -> None:
    """Copies or trains the tokenizer unless it is there."""
    if not path.exists() and self.settings.student.init != base_model.SCRATCH:
      source = base_model.weights_dir(self.settings, self.base)
      vocab = self.base.config.vocab
      tokenizer.copy(source, hf.TOKENIZER, path, self.base.fields, max_vocab=vocab)
    if not path.exists():
      problems = self.task.problems("train")
      rationales = [self.format.written(r) for r in self.training_rationales(0)]
      tokenizer.train(
        [str(self.prompt(p)) for p in problems] + (rationales or [p.rationale for p in problems]),
        vocab=self.settings.student.scratch.vocab,
        path=path,
      )
    self.run_dir.seal()

  def _chat_template(self) -> str:
    """The student's chat template; "" without one. A student from scratch has none."""
    scratch = self.settings.student.init == base_model.SCRATCH
    return "" if scratch else self.tokenizer.chat_template

  def round_task(self, round_index: int) -> tasks.Task:
    """Returns the task whose training questions a round uses."""
    return self.task if round_index == 0 else self._later_task

  @functools.cached_property
  def _problems(self) -> dict[str, records.Problem]:
    both = dict.fromkeys((self.task, self._later_task))
    return {p.id: p for task in both for p in task.problems("train")}

  def problem(self, problem_id: str) -> records.Problem:
    """Returns the training question with this id.

    Raises:
      UserError: The task has no such question, or no longer has it.
    """
    if problem_id not in self._problems:
      raise errors.data(
        f"{self.run_dir.path} refers to question {problem_id}, which the task does not have: "
        "restore the data files the run was started with, or use another --workdir"
      )
    return self._problems[problem_id]

  def problems(self, split: str) -> list[records.Problem]:
    """Returns the questions of a split of the task, or of `cross` or `also`.

    Raises:
      UserError: There is no such split.
    """
    further = self._further.get(split)
    return further.problems("test") if further else self.task.problems(split)

  def final_problems(self) -> dict[str, list[records.Problem]]:
    """Returns the questions of the final test by split; empty splits are left out."""
    splits = {name: self.problems(name) for name in ("test", "out_of_domain", *self._further)}
    return {name: problems for name, problems in splits.items() if problems}

  def of_split(self, split: str) -> "RunContext":
    """Returns this context with the task that reads and compares the answers of a split.

    Prompts and their worked examples stay those of the run. The result shares the student and the
    weights; do not close it.
    """
    if split not in self._further:
      return self
    _ = self.student
    other = copy.copy(self)
    other.task = self._further[split]
    return other

  def with_shots(self, count: int) -> "RunContext":
    """Returns this context with another number of worked examples in its prompts.

    The result shares the student and the weights; do not close it.
    """
    _ = self.student
    other = copy.copy(self)
    other._shots = self.task.shots[:count]
    return other

  def prompt(self, problem: records.Problem, style: str = "") -> records.Prompt:
    """Returns the student's first prompt for a question, in one of the format's styles."""
    return self.format.prompt(self.task.render(problem), self._shots, style)

  def conversation(
    self,
    problem: records.Problem,
    style: str = "",
    given: Sequence[tuple[str, str]] = (),
    **options: str,
  ) -> Generator[tuple[Turn, ...], list[str], str]:
    """Starts a conversation of the format about a question; see formats/.

    Args:
      problem: The question.
      style: One of the format's styles.
      given: (stage, text) of the stages that are given and not sampled.
      **options: Options that only some formats have, such as `hint`.
    """
    question = self.task.render(problem)
    return self.format.conversation(
      problem, question, self._shots, style=style, given=given, **options
    )

  def question_layout(self) -> "QuestionLayout":
    """Returns an object that starts conversations about questions outside the task."""
    return QuestionLayout(self)

  def examples(self, rationales: Iterable[records.Rationale]) -> list[records.Example]:
    """Returns the training examples of rationales, in order and without duplicates."""
    examples: list[records.Example] = []
    for rationale in rationales:
      problem = self.problem(rationale.problem)
      question = self.task.render(problem)
      examples += self.format.examples(problem, question, rationale, self._shots)
    return list(dict.fromkeys(examples))

  def training_rationales(self, round_index: int) -> list[records.Rationale]:
    """Returns the rationales a round trains on.

    These are the round's own, or with `accumulate_rationales` those of all rounds so far.
    """
    accumulate = self.settings.accumulate_rationales
    return self.rationales(range(round_index + 1) if accumulate else (round_index,))

  def rationales(self, rounds: Iterable[int]) -> list[records.Rationale]:
    """Returns all rationales of these rounds."""
    return self._records(rounds, plan.WRITERS, phase_dir.RATIONALES, records.Rationale)

  def contrast_attempts(self, round_index: int) -> list[records.Attempt]:
    """Returns the exam attempts a round contrasts its rationales with, newest round first.

    These are the round's own, or with `accumulate_rationales` those of all rounds so far.
    """
    accumulate = self.settings.accumulate_rationales
    rounds = range(round_index, -1, -1) if accumulate else (round_index,)
    return self._records(rounds, ("exam",), phase_dir.ATTEMPTS, records.Attempt)

  def _records(
    self, rounds: Iterable[int], phases: Sequence[str], file: str, record_type: type
  ) -> list:
    """Returns the records in `file` of the rounds' finished phases."""
    finished = [self.run_dir.finished(n) for n in rounds]
    return [
      row
      for by_name in finished
      for phase in phases
      if phase in by_name
      for row in by_name[phase].rows(file, record_type)
    ]

  def students(self, round_index: int) -> dict[str, tuple[Student, Params]]:
    """Returns {name: (student, weights)} as of a round.

    The weights are the last ones trained up to that round, or the base; -1 is the base.
    """
    return {name: (self.student, self._weights(round_index, name)) for name in self.format.students}

  def initial_params(self, round_index: int, name: str, phase: str) -> Params:
    """Returns the weights that a training phase starts from.

    The caller owns them: training donates their buffers, so the context drops its reference. With
    start_from="base", the first `train` of every round starts from the base model. `prefer` never
    does: its pairs were sampled from the newest weights.
    """
    from_base = self.settings.start_from == "base" and phase == "train"
    restart = from_base and not self._trained(round_index)
    params = self._weights(-1 if restart else round_index, name)
    self._params.pop(name, None)
    return params

  def _weights(self, round_index: int, name: str) -> Params:
    """Returns the newest weights up to a round; -1 is the base. Caches the last ones loaded."""
    while round_index >= 0 and not self._trained(round_index):
      round_index -= 1
    trained = self._trained(round_index)[-1] if round_index >= 0 else None
    path = trained.path / name if trained else None
    if name not in self._params or self._params[name][0] != path:
      self._params.pop(name, None)  # free the old weights before loading new ones
      params = self._load(trained, name) if trained else self.student.init_params()
      self._params[name] = (path, params)
    return self._params[name][1]

  def _trained(self, round_index: int) -> list[phase_dir.PhaseDir]:
    """Returns a round's finished training phases that took a step, in the order of its plan."""
    finished = self.run_dir.finished(round_index) if round_index >= 0 else {}
    return [
      phase
      for name, phase in finished.items()
      if name in plan.TRAINERS and phase.facts["steps"] > 0
    ]

  def _load(self, trained: phase_dir.PhaseDir, name: str) -> Params:
    """Loads the weights of a finished training phase. Raises UserError if they are not its own."""
    path = trained.path / name
    checkpoints = checkpoint.Checkpoints(path, keep=1, warn=self.console.warn)
    restored = checkpoints.restore(self.student.abstract_params)
    if restored is None:
      raise errors.data(
        f"{path}: the student's weights are missing; remove {path.parent} and every phase after "
        "it, and run again"
      )
    if digest(restored[0]) != trained.facts["weights"][name]:
      raise errors.data(
        f"{path} does not have the weights that this training ended with; restore them, or remove "
        f"{path.parent} and every phase after it, and run again"
      )
    return restored[0]


class QuestionLayout:
  """Starts conversations about questions given as text, with their choices below them."""

  def __init__(self, ctx: RunContext):
    self._ctx = ctx

  def conversation(self, question: str) -> Generator[tuple[Turn, ...], list[str], str]:
    """Starts a conversation of the run's format about a question, in its first style."""
    task, settings = self._ctx.task, self._ctx.settings
    shots = task.shots[: settings.cot.shots]
    return self._ctx.format.conversation(task.parse_question(question), question, shots)
