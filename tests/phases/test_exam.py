"""The warnings of an exam about prompts that are longer than every bucket."""

import contextlib
import types

from distill_jax import records
from distill_jax.formats import staged
from distill_jax.phases import exam
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime.student import Completion
from distill_jax.tasks import task

CHOICES = (("A", "a cave"), ("B", "a lamp, lit"))
PROBLEM = records.Problem("p", "train", "Where is light?", "B", "choice", choices=CHOICES)


class Student:
  """Encodes characters as tokens and always gives the same answer."""

  def encode_prompt(self, prompt: str) -> list[str]:
    return [*prompt]

  def generate(self, params, asked, **_):
    return [Completion("yes", "stop", 1, 0.0)] * len(asked)


def warnings(tmp_path, longest: int) -> list[str]:
  """Returns the warnings of two attempts, with prompts of at most `longest` tokens."""
  warned, format_ = [], staged.Staged()
  of_choice = task.Task("t", lambda split: [PROBLEM], kind="choice")
  bar = types.SimpleNamespace(update=lambda *_, **__: None)
  ctx = types.SimpleNamespace(
    settings=types.SimpleNamespace(rollout=types.SimpleNamespace(buckets=(longest,), batch=0)),
    students=lambda round_index: {"student": (Student(), None)},
    prompt=lambda p, style: format_.prompt(of_choice.render(p)),
    conversation=lambda p, style, given: format_.conversation(p, of_choice.render(p)),
    format=format_,
    round_task=lambda round_index: of_choice,
    console=types.SimpleNamespace(
      warn=warned.append, progress=lambda *_: contextlib.nullcontext(bar)
    ),
  )
  out = RunDir(tmp_path).phase(0, 0, "exam")
  more = {"samples": 2, "temperature": 1.0, "max_new_tokens": 4}
  exam.sample_attempts(ctx, out, [exam.ExamItem(PROBLEM)], round_index=0, label="exam", **more)
  return warned


def test_prompts_that_are_cut_are_reported_and_so_are_those_of_later_turns(tmp_path):
  """Recall, two analyses and the summary: later prompts contain the text of earlier turns."""
  first = len(f"Question: {task.Task('t', list).render(PROBLEM)}\nRecall:\n")
  (before, later) = warnings(tmp_path / "every", first - 1)
  assert "1 prompts are longer" in before and "3 prompts of later turns" in later
  (later,) = warnings(tmp_path / "later", first)
  assert "3 prompts of later turns are longer than rollout.buckets" in later
  assert warnings(tmp_path / "none", 2 * first) == []
