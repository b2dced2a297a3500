"""Formats: how a rationale is laid out and how a student is led through it. `get` is the door.

A format is a conversation: a generator that yields tuples of turns, asked at once, and receives
their texts as a list. The same object turns rationales into training examples, so that training and
inference cannot disagree.
"""

from distill_jax.formats import cot


def get(settings):
  """The format of the settings, whose name settings.py has checked."""
  return _MAKERS[settings.format](settings)


_MAKERS = {"cot": lambda settings: cot.Cot()}
