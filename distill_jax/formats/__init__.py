"""Formats: how a rationale is laid out and how a student is led through it. `get` is the door."""

from distill_jax.formats import cot

FORMATS = {cot.NAME: cot}


def get(name: str):
  """The module of a format; settings.py has checked the name."""
  return FORMATS[name]
