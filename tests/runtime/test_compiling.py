"""Programs are announced when, and only when, their first call compiles them."""

import contextlib
import io

import numpy as np
import pytest

from distill_jax.console import Console
from distill_jax.data import tokenizer
from distill_jax.runtime import fit, reference_logprobs
from tests import compilations
from tests.runtime import test_student
from tests.students import oracle

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)


class Announcements:
  """Records what is announced, and how many programs are compiled until the announcement ends."""

  def __init__(self, compiled: list):
    self.compiled, self.made = compiled, []

  @contextlib.contextmanager
  def __call__(self, program: str):
    before = len(self.compiled)
    yield
    self.made.append((program, len(self.compiled) > before))


def test_decode_programs_are_announced_when_they_are_compiled(tmp_path):
  tokenizer.train(["a few words to learn from"] * 4, vocab=271, path=tmp_path / "tokenizer")
  tok = tokenizer.Tokenizer(tmp_path / "tokenizer")
  student = test_student.student_of(tok)
  params = oracle.params(student.config, scale=0.4)

  def sample(prompt: str) -> list:
    return student.generate(params, [(prompt, "p/0")], temperature=1.0, max_new_tokens=5)

  with compilations.counted() as compiled:
    student._announce = announce = Announcements(compiled)
    first = sample("word")
    assert announce.made == [("the decode programs for prompts of 8", True)]
    before = len(compiled)
    assert sample("word") == first
    assert len(announce.made) == 1 and len(compiled) == before
    sample("word " * 9)
    assert announce.made[1:] == [("the decode programs for prompts of 16", True)]
    other = test_student.student_of(tok)  # another student of the same shape compiles nothing
    other._announce = announce
    other.generate(params, [("word", "p/0")], temperature=0.5, max_new_tokens=5)
    assert len(announce.made) == 2


class Step:
  """Stands in for a jitted step."""

  def __init__(self):
    self.lowered = []

  def lower(self, length):
    self.lowered.append(length)
    return self

  def compile(self):
    return self


def test_a_train_step_is_announced_for_rows_of_a_new_shape():
  screen = io.StringIO()
  step = Step()
  train_step = fit.TrainStep(None, None, step, {})
  for length in (64, 96, 64):
    arrays = {"tokens": np.zeros((4, length)), "labels": np.zeros((4, 8))}
    assert fit.compile_step(Console(file=screen), train_step, arrays, (length,)) is step
  assert step.lowered == [64, 96]
  lines = screen.getvalue().splitlines()
  assert lines[::2] == [
    "compiling the train step for 4 rows of 64 (first time)",
    "compiling the train step for 4 rows of 96 (first time)",
  ]
  assert all(line.startswith("compiled in 0.") for line in lines[1::2])


def test_the_scoring_of_pairs_is_announced_for_rows_of_a_new_shape():
  screen, scorer = io.StringIO(), reference_logprobs.Scorer(print, set())
  for shape in ((8, 64), (8, 64), (8, 96), (2, 96)):
    with scorer.announce_first_call(Console(file=screen), shape):
      pass
  assert screen.getvalue().splitlines()[::2] == [
    f"compiling the scoring of pairs for {shape} (first time)"
    for shape in ("8 rows of 64", "8 rows of 96", "2 rows of 96")
  ]
