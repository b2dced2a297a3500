"""What an exam says of prompts that no bucket holds."""

import contextlib
import types

from distill_jax import records
from distill_jax.formats import staged
from distill_jax.phases import exam
from distill_jax.run_dir import run_dir
from distill_jax.tasks import task

CHOICES = (("A", "a cave"), ("B", "a lamp, lit"))
PROBLEM = records.Problem("p", "train", "Where is light?", "B", "choice", choices=CHOICES)


class Student:
  """Reads characters, and always answers the same."""

  def encode_prompt(self, prompt: str) -> list[str]:
    return [*prompt]

  def generate(self, params, asked, **_):
    return [types.SimpleNamespace(text="yes", finish="stop", tokens=1, logprob=0.0)] * len(asked)


def warned(tmp_path, longest: int) -> list[str]:
  """What an attempt at each of two samples warns of, where prompts may have so many tokens."""
  said, format_ = [], staged.Staged()
  of_choice = task.Task("t", lambda split: [PROBLEM], kind="choice")
  bar = types.SimpleNamespace(update=lambda *_, **__: None)
  run = types.SimpleNamespace(
    settings=types.SimpleNamespace(rollout=types.SimpleNamespace(buckets=(longest,), batch=4)),
    students=lambda number: {"student": (Student(), None)},
    prompt=lambda p, style: format_.prompt(of_choice.render(p)),
    conversation=lambda p, style, given: format_.conversation(p, of_choice.render(p)),
    format=format_,
    task=of_choice,
    console=types.SimpleNamespace(
      warn=said.append, progress=lambda *_: contextlib.nullcontext(bar)
    ),
  )
  here = run_dir.RunDir(tmp_path).phase(0, 0, "exam")
  more = {"samples": 2, "temperature": 1.0, "max_new_tokens": 4}
  exam.sample_attempts(run, here, [exam.ExamItem(PROBLEM)], round_index=0, label="exam", **more)
  return said


def test_prompts_that_are_cut_are_told_those_of_later_turns_too(tmp_path):
  """Recall, two analyses and the summary: what is asked grows with what was said before."""
  first = len(f"Question: {task.Task('t', list).render(PROBLEM)}\nRecall:\n")
  (before, later) = warned(tmp_path / "every", first - 1)
  assert "1 prompts are longer" in before and "3 prompts of later turns" in later
  (later,) = warned(tmp_path / "later", first)
  assert "3 prompts of later turns are longer than rollout.buckets" in later
  assert warned(tmp_path / "none", 2 * first) == []
