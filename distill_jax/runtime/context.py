"""What every phase is handed: settings, run folder, task, teacher, student, and what came before.

All of it is derived from the run folder and the config; what is costly to make is made when first
wanted.
"""

import dataclasses
import functools

from distill_jax import errors, formats, records, tasks, teacher
from distill_jax import plan as plans
from distill_jax.data import tokenizer
from distill_jax.machine import checkpoint, hf
from distill_jax.run_dir import phase_dir
from distill_jax.runtime import base_model as bases
from distill_jax.runtime import student_teacher
from distill_jax.runtime.student import Student


class Run:
  def __init__(self, settings, folder, console):
    self.settings, self.folder, self.console = settings, folder, console
    self.format = formats.get(settings)
    self.task = open_task(settings)
    # What the rounds after the opening work on.
    self._later = open_task(settings, "cross") if settings.cross.name else self.task
    self._refuse_task()
    if settings.cot.shots > len(self.task.shots):
      raise errors.config(
        "cot.shots", settings.cot.shots, f"at most {len(self.task.shots)} for {self.task.name}"
      )
    self._shots = self.task.shots[: settings.cot.shots]
    self._params = {}  # student -> (where they come from, the last weights loaded)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if "teacher" in self.__dict__:
      self.teacher.close()

  def _refuse_task(self) -> None:
    if self.settings.format == "staged" and {self.task.kind, self._later.kind} != {"choice"}:
      name = self.task.name if self.task.kind != "choice" else self._later.name
      raise errors.config(
        "format", "staged", f"one without stages: task {name} has no options to analyze"
      )

  @functools.cached_property
  def teacher(self):
    return teacher.open(self)

  def local(self, settings, name: str) -> student_teacher.StudentTeacher:
    """The student that answers as the teacher `name`, which has these settings."""
    return student_teacher.StudentTeacher(self, settings, name)

  @functools.cached_property
  def student(self) -> Student:
    return Student(self.settings, self.tokenizer, self.base)

  @functools.cached_property
  def base(self) -> bases.Base:
    """What the student begins as."""
    scratch = self.settings.student.init == bases.SCRATCH
    return bases.of(self.settings, self.folder, self.tokenizer.vocab if scratch else 0)

  @functools.cached_property
  def tokenizer(self) -> tokenizer.Tokenizer:
    """The base's own; from scratch, trained the first time on the training questions and on the
    rationales that are there by then."""
    path = self.folder.path / "tokenizer"
    if not path.exists() and self.settings.student.init != bases.SCRATCH:
      source = bases.source(self.settings, self.base)
      room = self.base.config.vocab
      tokenizer.copy(source, hf.TOKENIZER, path, self.base.fields, max_vocab=room)
    if not path.exists():
      problems = self.task.problems("train")
      written = [r.text for r in self.rationales(0)] or [p.rationale for p in problems]
      tokenizer.train(
        [self.prompt(p) for p in problems] + written,
        vocab=self.settings.student.scratch.vocab,
        path=path,
      )
    found = tokenizer.Tokenizer(path)
    marks = "<<3+4=7>>"
    if self.settings.socratic.calculator and marks not in found.decode(found.encode(marks)):
      allowed = (
        f"False: this student's tokenizer makes {found.decode(found.encode(marks))!r} of {marks}"
      )
      raise errors.config("socratic.calculator", True, allowed)
    return found

  def lesson(self, number: int):
    """The task on whose training questions a round works."""
    return self.task if number == 0 else self._later

  @functools.cached_property
  def _problems(self) -> dict[str, records.Problem]:
    tasks_ = dict.fromkeys((self.task, self._later))
    return {p.id: p for task in tasks_ for p in task.problems("train")}

  def problem(self, name: str) -> records.Problem:
    """The training question of that id. Raises UserError if there is none (any more)."""
    if name not in self._problems:
      raise errors.data(
        f"{self.folder.path} speaks of a question {name} that is not in the task: put back the "
        "files it was begun with, or begin again with another --workdir"
      )
    return self._problems[name]

  def finals(self) -> dict[str, list[records.Problem]]:
    """What the best student is tested on, by name."""
    splits = {name: self.task.problems(name) for name in ("test", "out_of_domain")}
    if self._later is not self.task:
      splits["cross"] = self._later.problems("test")
    return {name: problems for name, problems in splits.items() if problems}

  def prompt(self, problem: records.Problem, style: str = "") -> str:
    return self.format.prompt(self.task.render(problem), self._shots, style)

  def conversation(self, problem: records.Problem, style: str = "", given=(), **more):
    """A conversation of the format about a problem; see formats/."""
    question = self.task.render(problem)
    return self.format.conversation(
      problem, question, self._shots, style=style, given=given, **more
    )

  def examples(self, written: list[records.Rationale]) -> list[records.Example]:
    """What rationales look like in training; what is the same in several is there once."""
    found = []
    for rationale in written:
      problem = self.problem(rationale.problem)
      question = self.task.render(problem)
      found += self.format.examples(problem, question, rationale, self._shots)
    return list(dict.fromkeys(found))

  def rationales(self, number: int) -> list[records.Rationale]:
    """What was written that a round trains on: this round's, or with accumulate_rationales all so far."""
    return self.written(range(number + 1) if self.settings.accumulate_rationales else (number,))

  def written(self, rounds) -> list[records.Rationale]:
    """All rationales of these rounds."""
    return self._records(rounds, plans.WRITERS, phase_dir.RATIONALES, records.Rationale)

  def attempts(self, number: int) -> list[records.Attempt]:
    """The exam attempts a round contrasts with, newest first: this round's, or with accumulate_rationales
    all so far."""
    rounds = range(number, -1, -1) if self.settings.accumulate_rationales else (number,)
    return self._records(rounds, ("exam",), phase_dir.ATTEMPTS, records.Attempt)

  def _records(self, rounds, wanted, name, kind):
    done = [self.folder.finished(n) for n in rounds]
    return [
      r
      for found in done
      for phase in wanted
      if phase in found
      for r in found[phase].rows(name, kind)
    ]

  def students(self, number: int) -> dict:
    """{name: (student, weights)} as they are now in a round: the last trained ones, else the
    base."""
    return {name: (self.student, self._weights(number, name)) for name in self.format.students}

  def start_params(self, number: int, name: str, phase: str):
    """The weights that training starts from; given away, since training consumes them. Only `train`
    may start from the base again: preferences are about what was trained."""
    base = self.settings.start_from == "base" and phase == "train"
    again = base and not self._trained(number)
    params = self._weights(-1 if again else number, name)
    self._params.pop(name, None)
    return params

  def _weights(self, number: int, name: str):
    """Of the last training up to round `number`; -1 for the base. The last weights loaded are
    kept."""
    while number >= 0 and not self._trained(number):
      number -= 1
    folder = self._trained(number)[-1].path / name if number >= 0 else None
    if name not in self._params or self._params[name][0] != folder:
      self._params.pop(name, None)  # free the old ones first
      self._params[name] = (folder, self._load(folder) if folder else self.student.fresh())
    return self._params[name][1]

  def _trained(self, number: int) -> list:
    """The folders of a round's finished trainings, in the order of its plan."""
    done = self.folder.finished(number) if number >= 0 else {}
    return [
      here for name, here in done.items() if name in plans.TRAINERS and here.facts["steps"] > 0
    ]

  def _load(self, path):
    found = checkpoint.Checkpoints(path, keep=1, warn=self.console.warn).restore(self.student.like)
    if found is None:
      raise errors.data(
        f"{path}: the student's weights are missing; remove {path.parent} and what was made "
        "after it, "
        "and run again"
      )
    return found[0]


def open_task(settings, group: str = "task"):
  """The task that config.task, or config.cross, names, with its options."""
  chosen = getattr(settings, group)
  worlds = {"arithmetic": settings.world, "taxonomy": settings.taxonomy}
  held = settings.task.validation if group == "task" else 0
  if chosen.name not in worlds:
    files = {"path": chosen.path, "hub": chosen.hub}
    return tasks.get(chosen.name, **files, train=chosen.train, validation=held, test=chosen.test)
  options = dataclasses.asdict(worlds[chosen.name])
  limit = lambda all_, some: min(all_, some) if some else all_
  own = {split: limit(options[split], getattr(chosen, split)) for split in ("train", "test")}
  return tasks.get(chosen.name, **options | own, validation=held)
