"""Formats: how a rationale is laid out and how a student is led through it. `get` is the door.

A format is a conversation: a generator that yields tuples of turns, asked at once, and receives
their texts as a list. The same object turns rationales into training examples, so that training and
inference cannot disagree. All of them have

  students  who is trained                      stages  what an attempt is sampled in
  stop      texts that end an answer            request_kind    what a teacher is asked for, "" for nothing
  prompt, conversation, target, examples
"""

from distill_jax.formats import answer_only, cot, instruct, socratic, staged


def get(settings):
  """The format of the settings, whose name settings.py has checked."""
  return MAKERS[settings.format](settings)


def _staged(settings):
  s, released = settings.staged, settings.compat.tinythinker
  return staged.Staged(
    s.stages, s.repeat, released.options_split_on_commas, released.teachers_order
  )


def _socratic(settings):
  s = settings.socratic
  if s.mode == "iterative":
    return socratic.Iterative(s.questions, s.max_steps, s.solutions, s.calculator)
  return socratic.Unified(s.calculator)


MAKERS = {
  "cot": lambda settings: cot.Cot(),
  "answer_only": lambda settings: answer_only.AnswerOnly(),
  "instruct": lambda s: instruct.Instruct(s.instruct.instruction, s.instruct.elicitation),
  "staged": _staged,
  "socratic": _socratic,
}
