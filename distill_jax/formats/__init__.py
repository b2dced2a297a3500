"""Formats: how a rationale is laid out and how a student is prompted for one.

A format runs a conversation with the student, and turns rationales into training examples. One
object does both, so training and inference use the same prompts. Get one with `get`.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from distill_jax import records, thinking
from distill_jax.formats import answer_only, cot, instruct, socratic, staged, turns
from distill_jax.settings import Settings


class Format(Protocol):
  """What every format provides."""

  @property
  def students(self) -> tuple[str, ...]:
    """Names of the students to train."""
    ...

  @property
  def stages(self) -> tuple[str, ...]:
    """Stages of an attempt; ("",) if there is only one."""
    ...

  @property
  def stop(self) -> tuple[str, ...]:
    """Texts that end a turn."""
    ...

  @property
  def request_kind(self) -> str:
    """What a teacher is asked for: annotate, stage or decompose; "" for nothing."""
    ...

  def prompt(
    self, question: str, shots: turns.Shots = (), style: str = "", hint: str = ""
  ) -> records.Prompt:
    """The first prompt of an attempt: plain text, or the messages of a chat.

    Raises:
      ValueError: The format does not support one of the options.
    """
    ...

  def conversation(
    self,
    problem: records.Problem,
    question: str,
    shots: turns.Shots = (),
    *,
    style: str = "",
    given: Sequence[tuple[str, str]] = (),
    hint: str = "",
  ) -> turns.Conversation:
    """The turns of one attempt; returns its text.

    Raises:
      ValueError: The format does not support one of the options.
    """
    ...

  def target(self, text: str, answer: str) -> str:
    """The text with its answer replaced by `answer`, as the student should write it."""
    ...

  def written(self, rationale: records.Rationale) -> str:
    """The rationale as the student should write it in one turn, with thinking that is kept."""
    ...

  def examples(
    self,
    problem: records.Problem,
    question: str,
    rationale: records.Rationale,
    shots: turns.Shots = (),
  ) -> list[records.Example]:
    """The training examples of a rationale."""
    ...


def get(
  settings: Settings, is_chat: turns.IsChat = turns.never, template: Callable[[], str] = lambda: ""
) -> Format:
  """Returns the format that `settings.format` names; distill_jax.config has checked the name.

  Args:
    settings: The settings.
    is_chat: Whether the student is prompted with messages; asked when a prompt is made.
    template: Returns the chat template of the student, "" for none. It is called only if thinking
      is laid out, in the marks of that template.
  """
  made = MAKERS[settings.format](settings, is_chat)
  if isinstance(made, cot.Cot | socratic.Unified):
    made.stop_texts = stop_texts(settings.student.stop, settings.student.init)
  if settings.teacher.thinking == "keep" and isinstance(made, cot.Cot):
    made.thinking_marks = lambda: thinking.marks_of(template())
  return made


def stop_texts(stop: str, init: str) -> tuple[str, ...] | None:
  """The texts that `student.stop` names; see `cot.Cot.stop_texts`.

  A student from scratch has learned rationales without blank lines. A pretrained one writes
  paragraphs, so a blank line says nothing.
  """
  if stop == "auto":
    return (cot.BLANK_LINE,) if init == "scratch" else None
  if stop == "none":
    return ()
  return (cot.BLANK_LINE,) if stop == "blank_line" else (stop.replace("\\n", "\n"),)


def _cot(settings: Settings, is_chat: turns.IsChat) -> Format:
  return cot.Cot(is_chat)


def _answer_only(settings: Settings, is_chat: turns.IsChat) -> Format:
  return answer_only.AnswerOnly(is_chat)


def _instruct(settings: Settings, is_chat: turns.IsChat) -> Format:
  return instruct.Instruct(settings.instruct.instruction, settings.instruct.elicitation, is_chat)


def _staged(settings: Settings, is_chat: turns.IsChat) -> Format:
  s, compat = settings.staged, settings.compat.tinythinker
  return staged.Staged(
    s.stages, s.repeat, compat.options_split_on_commas, compat.teachers_order, is_chat
  )


def _socratic(settings: Settings, is_chat: turns.IsChat) -> Format:
  s = settings.socratic
  if s.mode == "iterative":
    return socratic.Iterative(s.questions, s.max_steps, s.solutions, s.calculator, is_chat)
  return socratic.Unified(s.calculator, is_chat)


# Every format by name; the names are the choices of config.format.
MAKERS: dict[str, Callable[[Settings, turns.IsChat], Format]] = {
  "cot": _cot,
  "answer_only": _answer_only,
  "instruct": _instruct,
  "staged": _staged,
  "socratic": _socratic,
}
