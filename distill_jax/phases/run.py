"""What every phase is handed: settings, run folder, task, teacher, student, and what came before.

All of it is derived from the run folder and the config; what is costly to make is made when first
wanted.
"""

import functools

from distill_jax import errors, formats, records, tasks, teacher
from distill_jax.data import tokenizer
from distill_jax.machine import checkpoint, hf
from distill_jax.phases import base as bases
from distill_jax.phases import exam, rationales
from distill_jax.phases.student import Student

WRITERS = ("demonstrate", "feedback")  # phases in which the teacher writes


class Run:
  def __init__(self, settings, folder, console):
    self.settings, self.folder, self.console = settings, folder, console
    self.format = formats.get(settings)
    self.task = open_task(settings)
    if settings.cot.shots > len(self.task.shots):
      raise errors.config(
        "cot.shots", settings.cot.shots, f"at most {len(self.task.shots)} for {self.task.name}"
      )
    self._shots = self.task.shots[: settings.cot.shots]
    self._params = (None, None)  # (where they come from, the last weights loaded)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if "teacher" in self.__dict__:
      self.teacher.close()

  @functools.cached_property
  def teacher(self):
    return teacher.open(self)

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
      tokenizer.copy(source, hf.TOKENIZER, path, self.base.fields, room=room)
    if not path.exists():
      problems = self.task.problems("train")
      written = [r.text for r in self.rationales(0)] or [p.rationale for p in problems]
      tokenizer.train(
        [self.prompt(p) for p in problems] + written,
        vocab=self.settings.student.scratch.vocab,
        path=path,
      )
    return tokenizer.Tokenizer(path)

  def prompt(self, problem: records.Problem) -> str:
    return self.format.prompt(self.task.render(problem), self._shots)

  def conversation(self, problem: records.Problem):
    return self.format.conversation(problem, self.task.render(problem), self._shots)

  def rationales(self, number: int) -> list[records.Rationale]:
    """What the teacher wrote that a round trains on: this round's, or with carry="append" all so
    far."""
    rounds = range(number + 1) if self.settings.carry == "append" else (number,)
    return self._records(rounds, WRITERS, rationales.RATIONALES, records.Rationale)

  def attempts(self, number: int) -> list[records.Attempt]:
    """The exam attempts a round contrasts with, newest first: this round's, or with carry="append"
    all so far."""
    rounds = range(number, -1, -1) if self.settings.carry == "append" else (number,)
    return self._records(rounds, ("exam",), exam.ATTEMPTS, records.Attempt)

  def _records(self, rounds, phases, name, kind):
    done = [self.folder.finished(n) for n in rounds]
    return [
      r
      for found in done
      for phase in phases
      if phase in found
      for r in found[phase].rows(name, kind)
    ]

  def student_before(self, number: int):
    """(student, weights) a round begins with: the last trained ones of the rounds before, else the
    base."""
    return self.student, self._weights(number - 1)

  def student_after(self, number: int):
    """(student, weights) a round ends with."""
    return self.student, self._weights(number)

  def start_params(self, number: int):
    """The weights that training starts from; given away, since training consumes them."""
    params = self._weights(number - 1 if self.settings.start_from == "previous" else -1)
    self._params = (None, None)
    return params

  def _weights(self, number: int):
    """Of the last round up to `number` that trained; -1 for the base. The last weights loaded are
    kept."""
    while number >= 0 and not self._trained(number):
      number -= 1
    if self._params[0] != number:
      self._params = (None, None)  # free the old ones first
      self._params = (number, self._load(number) if number >= 0 else self.student.fresh())
    return self._params[1]

  def _trained(self, number: int) -> bool:
    done = self.folder.finished(number)
    return "train" in done and done["train"].facts["steps"] > 0

  def _load(self, number: int):
    path = self.folder.find(number, "train").path / "student"
    found = checkpoint.Checkpoints(path, keep=1, warn=self.console.warn).restore(self.student.like)
    if found is None:
      raise errors.data(
        f"{path}: the student's weights are missing; remove {path.parent} and what was made "
        "after it, "
        "and run again"
      )
    return found[0]


def open_task(settings):
  """The task of the settings, with its options."""
  t, w = settings.task, settings.world
  if t.name == "arithmetic":
    limit = lambda all_, some: min(all_, some) if some else all_
    return tasks.get(
      t.name,
      seed=w.seed,
      train=limit(w.train, t.train),
      validation=t.validation,
      test=limit(w.test, t.test),
      out_of_domain=w.out_of_domain,
      steps_min=w.steps_min,
      steps_max=w.steps_max,
      operand_max=w.operand_max,
      families=w.families,
      distractors=w.distractors,
      ood_extra_steps=w.ood_extra_steps,
    )
  return tasks.get(
    t.name, path=t.path, hub=t.hub, train=t.train, validation=t.validation, test=t.test
  )
