"""A student as teacher (config.teacher.kind=student): a folder in Hugging Face's layout, such as
`export` writes, answers in the run's own format.

It is asked what it was taught to answer: the question, as this run's format lays it out, not the
instructions that a large model gets. What it says is put into the layout the teacher's readers
know. A folder of a format with two students (decomposer, solver) holds one folder of each.
"""

import dataclasses
import hashlib
import pathlib
import types

from distill_jax.data import tokenizer
from distill_jax.formats import turns
from distill_jax.machine import hf
from distill_jax.runtime import base_model as bases
from distill_jax.runtime import conversations, student
from distill_jax.teacher import local_student
from distill_jax.teacher.prompts import messages


class StudentTeacher:
  """See teacher.local.Student. Weights are in memory from the first answer to the next rest."""

  def __init__(self, run, settings, name: str):
    """`settings` are config.teacher's, or those of config.teachers.NAME; what the models say of
    themselves is copied into the run folder. Raises errors.UserError if no student can be one."""
    self._run, self.batch = run, run.settings.rollout.batch
    source = pathlib.Path(settings.model)
    single = len(run.format.students) == 1
    self._students = {
      who: _opened(run, settings, source if single else source / who, f"{name}_{who}")
      for who in run.format.students
    }
    self._weights = {}
    self.model = source.resolve().name
    s = run.settings
    said = (s.format, s.cot, s.instruct, s.staged, s.socratic, s.compat, s.student.dtype)
    digests = [bases.digest(found.base) for found in self._students.values()]
    self.identity = f"student:{hashlib.sha256(repr((said, digests)).encode()).hexdigest()[:16]}"

  def answer(self, asked, *, temperature: float, max_new_tokens: int) -> list[local_student.StudentReply]:
    """See teacher.local.Student."""
    for who, found in self._students.items():
      if who not in self._weights:
        self._weights[who] = found.fresh()
    run = self._run
    problems = [run.task.parse_question(question) for _, question, _ in asked]
    spoken = conversations.lead(
      [run.conversation(problem, style=run.settings.exam.styles[0]) for problem in problems],
      [f"teacher/{name}" for _, _, name in asked],
      students={who: (found, self._weights[who]) for who, found in self._students.items()},
      temperature=temperature,
      max_new_tokens=max_new_tokens,
      stop=run.format.stop,
    )
    return [
      self._said(kind, problem, s)
      for (kind, _, _), problem, s in zip(asked, problems, spoken, strict=True)
    ]

  def rest(self) -> None:
    """Frees the weights."""
    self._weights = {}

  def _said(self, kind: str, problem, spoken) -> local_student.StudentReply:
    text = self._staged(problem, spoken) if kind == "stage" else spoken.text
    reader = next(iter(self._students.values()))
    read = sum(len(reader.read(prompt)) for _, prompt, _ in spoken.turns)
    return local_student.StudentReply(text, spoken.finish == "stop", read, spoken.tokens)

  def _staged(self, problem, spoken) -> str:
    """Recall, analyses and summary in the layout of prompts.stage; without analyses, the recall and
    the answer, as a chain of thought."""
    answer = self._run.task.read_answer(spoken.text, problem)
    if answer is None:
      return spoken.text
    said = [(stage, turns.one_line(text)) for stage, _, text in spoken.turns]
    recalls = [text for stage, text in said if stage == "recall"]
    reasons = [text for stage, text in said if stage == "analyze"]
    if not reasons:
      return "\n".join([*recalls, f"Answer: {answer}"])
    labels = [label for label, _ in problem.choices]
    parts = [("recall", " ".join(recalls)), *zip(labels, reasons, strict=True)]
    return messages.join_stages(parts, answer)


def _opened(run, settings, source: pathlib.Path, name: str) -> student.Student:
  """A student of its own, whatever the run's is. Raises errors.UserError."""
  changed, s = dataclasses.replace, run.settings
  own = changed(
    s,
    seed=0,  # its replies are its own, whatever the run's seed
    student=changed(s.student, init=str(source), arch="", lora=changed(s.student.lora, rank=0)),
    exam=changed(s.exam, max_new_tokens=settings.max_tokens),
    evaluate=changed(s.evaluate, max_new_tokens=settings.max_tokens),
    train=changed(s.train, buckets=s.rollout.buckets),  # it is not trained
    sft=changed(s.sft, prompt_weight=0.0),
  )
  place = run.folder.path / "teachers" / name
  place.mkdir(parents=True, exist_ok=True)
  base = bases.of(own, types.SimpleNamespace(path=place, started=run.folder.started), 0)
  if not (place / "tokenizer").exists():
    files = bases.source(own, base)
    room = base.config.vocab
    tokenizer.copy(files, hf.TOKENIZER, place / "tokenizer", base.fields, max_vocab=room)
  return student.Student(own, tokenizer.Tokenizer(place / "tokenizer"), base)
