"""A student as teacher (config.teacher.kind=student).

A directory in Hugging Face format, such as `export` writes, answers in the run's own format. The
student is asked what it was trained to answer: the question as the run's format presents it, not
the instructions a large model gets. Its text is converted to the layout that the teacher's parsers
know. For a format with two students (decomposer, solver), the directory holds one directory each.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Protocol

from distill_jax import formats, records, tasks, together
from distill_jax.console import Console
from distill_jax.data import tokenizer
from distill_jax.formats import turns
from distill_jax.machine import hf
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import base_model, conversations, exported
from distill_jax.runtime.student import Params, Student
from distill_jax.settings import Settings, Teacher
from distill_jax.teacher import local_student
from distill_jax.teacher.prompts import messages


class Run(Protocol):
  """The part of the run context that a teacher uses."""

  settings: Settings
  run_dir: RunDir
  console: Console
  task: tasks.Task


class StudentTeacher:
  """See teacher.local_student.StudentBackend.

  Weights are in memory from the first answer to `free_memory`.
  """

  def __init__(self, run: Run, settings: Teacher, name: str):
    """Opens the student; its config is copied into the run directory.

    Args:
      run: The run context.
      settings: config.teacher, or config.teachers.NAME.
      name: The name of the teacher.

    Raises:
      UserError: The directory holds no model that can be a student.
    """
    self._run = run
    source = pathlib.Path(settings.model)
    # The run's format, with prompts of the kind that this student was trained on.
    self._format = formats.get(run.settings, self._is_chat)
    names = self._format.students
    self._students = {
      who: _open_student(
        run, settings, source if len(names) == 1 else source / who, f"{name}_{who}"
      )
      for who in names
    }
    self.batch = max(student.rows for student in self._students.values())
    self._weights: dict[str, Params] = {}
    self._call, self._free_call = f"answers of {name}", f"end of answers of {name}"
    together.register(self._call, self._answer)
    together.register(self._free_call, self._free)
    self.model = source.resolve().name
    # Everything that determines the replies; part of the cache key, so the format must not change.
    s = run.settings
    identity = (s.format, s.cot, s.instruct, s.staged, s.socratic, s.compat, s.student.dtype)
    digests = [base_model.digest(student.base) for student in self._students.values()]
    if self._is_chat():
      digests += [student.tokenizer.chat_template for student in self._students.values()]
    self.identity = f"student:{hashlib.sha256(repr((identity, digests)).encode()).hexdigest()[:16]}"

  def _is_chat(self) -> bool:
    return next(iter(self._students.values())).chat is not None

  def _conversation(self, problem: records.Problem) -> turns.Conversation:
    s, task = self._run.settings, self._run.task
    shots = task.shots[: s.cot.shots]
    question = task.render(problem)
    return self._format.conversation(problem, question, shots, style=s.exam.styles[0])

  def answer(
    self, requests: Sequence[tuple[str, str, str]], *, temperature: float, max_new_tokens: int
  ) -> list[local_student.StudentReply]:
    """See teacher.local_student.StudentBackend."""
    return together.on_all(self._call, self._answer, list(requests), temperature, max_new_tokens)

  def _answer(
    self, requests: Sequence[tuple[str, str, str]], temperature: float, max_new_tokens: int
  ) -> list[local_student.StudentReply]:
    for who, student in self._students.items():
      if who not in self._weights:
        self._weights[who] = student.init_params()
    run = self._run
    problems = [run.task.parse_question(question) for _, question, _ in requests]
    transcripts = conversations.run_conversations(
      [self._conversation(problem) for problem in problems],
      [f"teacher/{name}" for _, _, name in requests],
      students={who: (student, self._weights[who]) for who, student in self._students.items()},
      temperature=temperature,
      max_new_tokens=max_new_tokens,
      stop=self._format.stop,
    )
    return [
      self._reply(kind, problem, transcript)
      for (kind, _, _), problem, transcript in zip(requests, problems, transcripts, strict=True)
    ]

  def free_memory(self) -> None:
    """Frees the weights."""
    together.on_all(self._free_call, self._free)

  def _free(self) -> None:
    self._weights = {}

  def _reply(
    self, kind: str, problem: records.Problem, transcript: conversations.Transcript
  ) -> local_student.StudentReply:
    text = stage_text(self._run.task, problem, transcript) if kind == "stage" else transcript.text
    student = next(iter(self._students.values()))
    tokens_in = sum(len(student.encode_prompt(prompt)) for _, prompt, _ in transcript.turns)
    return local_student.StudentReply(
      text, transcript.finish == "stop", tokens_in, transcript.tokens
    )


def stage_text(
  task: tasks.Task, problem: records.Problem, transcript: conversations.Transcript
) -> str:
  """Returns a staged conversation in the layout of prompts.stage.

  Without analyses it is the recall and the answer, as a chain of thought.
  """
  answer = task.read_answer(transcript.text, problem, whole=transcript.finish == "stop")
  if answer is None:
    return transcript.text
  lines = [(stage, turns.one_line(text)) for stage, _, text in transcript.turns]
  recalls = [text for stage, text in lines if stage == "recall"]
  analyses = [text for stage, text in lines if stage == "analyze"]
  if not analyses:
    return "\n".join([*recalls, f"Answer: {answer}"])
  labels = [label for label, _ in problem.choices]
  parts = [("recall", " ".join(recalls)), *zip(labels, analyses, strict=True)]
  return messages.join_stages(parts, answer)


def _open_student(run: Run, settings: Teacher, source: pathlib.Path, name: str) -> Student:
  """Opens a student that does not depend on the run's own student. Raises UserError."""
  unseeded = dataclasses.replace(run.settings, seed=0)  # replies do not depend on the run's seed
  student_settings = exported.settings_of(unseeded, source, settings.max_tokens)
  path = run.run_dir.path / "teachers" / name
  together.once("directory", lambda: path.mkdir(parents=True, exist_ok=True))
  base = base_model.open_base(student_settings, path, started=run.run_dir.started, vocab=0)

  def copy_tokenizer() -> None:
    if not (path / "tokenizer").exists():
      files = base_model.weights_dir(student_settings, base)
      room = base.config.vocab
      tokenizer.copy(files, hf.TOKENIZER, path / "tokenizer", base.fields, max_vocab=room)

  together.once("tokenizer of a teacher", copy_tokenizer)
  opened = tokenizer.Tokenizer(path / "tokenizer", max_vocab=base.config.vocab)
  return Student(student_settings, opened, base, announce=run.console.compiling)
