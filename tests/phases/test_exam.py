"""Attempts of an exam or evaluation: who reads them, what is stored, what is warned of."""

import contextlib
import dataclasses
import types

import pytest

from distill_jax import records
from distill_jax.formats import cot, staged
from distill_jax.phases import evaluate, exam
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import journal
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
    console=types.SimpleNamespace(
      warn=warned.append, progress=lambda *_: contextlib.nullcontext(bar)
    ),
  )
  out = RunDir(tmp_path).phase(0, 0, "exam")
  more = {"samples": 2, "temperature": 1.0, "max_new_tokens": 4}
  items = [exam.ExamItem(PROBLEM)]
  exam.sample_attempts(ctx, out, items, task=of_choice, round_index=0, label="exam", **more)
  return warned


def test_prompts_that_are_cut_are_reported_and_so_are_those_of_later_turns(tmp_path):
  """Recall, two analyses and the summary: later prompts contain the text of earlier turns."""
  first = len(f"Question: {task.Task('t', list).render(PROBLEM)}\nRecall:\n")
  (before, later) = warnings(tmp_path / "every", first - 1)
  assert "1 prompts are longer" in before and "3 prompts of later turns" in later
  (later,) = warnings(tmp_path / "later", first)
  assert "3 prompts of later turns are longer than rollout.buckets" in later
  assert warnings(tmp_path / "none", 2 * first) == []


def context(format_, of_task: task.Task, student, **settings) -> types.SimpleNamespace:
  """A context of a student without weights."""
  bar = types.SimpleNamespace(update=lambda *_, **__: None)
  return types.SimpleNamespace(
    settings=types.SimpleNamespace(
      rollout=types.SimpleNamespace(buckets=(9999,), batch=0), **settings
    ),
    task=of_task,
    students=lambda round_index: {"student": (student, None)},
    prompt=lambda p, style="": format_.prompt(of_task.render(p), (), style),
    conversation=lambda p, style, given: format_.conversation(
      p, of_task.render(p), style=style, given=given
    ),
    format=format_,
    round_task=lambda round_index: of_task,
    console=types.SimpleNamespace(
      warn=lambda _: None, progress=lambda *_: contextlib.nullcontext(bar)
    ),
  )


@pytest.mark.parametrize("round_index", [-1, 0, 1])
def test_an_evaluation_is_graded_by_its_own_task_in_every_round(tmp_path, monkeypatch, round_index):
  """With `cross`, later exams are of another task, whose grader is not that of the validation."""
  asked = [records.Problem("q", "validation", "Say it.", "yes!", "text")]
  own = task.Task("own", lambda split: asked, kind="text", grader=lambda answer, gold: True)
  other = task.Task("other", lambda split: asked, kind="text", grader=lambda answer, gold: False)
  measured = types.SimpleNamespace(num_votes=1, temperature=1.0, max_new_tokens=4)
  stages = types.SimpleNamespace(stages=())
  ctx = context(cot.Cot(), own, Student(), format="cot", evaluate=measured, staged=stages)
  ctx.round_task = lambda index: own if index == 0 else other
  monkeypatch.setattr(evaluate, "measured", lambda *_: {})
  out = RunDir(tmp_path).phase(0, 1, "evaluate")
  evaluate.score(ctx, out, asked, "validation", round_index=round_index)
  assert out.facts["accuracy"] == 1
  assert all(row.correct for row in out.rows("attempts.jsonl", records.Attempt))


class Interrupted(Student):
  """Stores what it writes, and is interrupted before its completion number `limit`."""

  rows = 4

  def __init__(self, limit: int):
    self.limit, self.written = limit, 0

  def generate(self, params, asked, *, watcher, **_):
    done = {name: known for _, name in asked if (known := watcher.known(name))}
    watcher.begin(len(asked) - len(done))
    for _, name in asked:
      if name in done:
        continue
      if self.written == self.limit:
        raise KeyboardInterrupt
      self.written += 1
      done[name] = Completion("Answer: (B)", "stop", 1, 0.0)
      watcher.progress({name: done[name]}, 1, 0, 0)
    return [done[name] for _, name in asked]


def test_an_interrupted_second_stage_continues_from_its_journal(tmp_path, monkeypatch):
  """The first stage, whose attempts are written, leaves the journal to the second."""
  monkeypatch.setattr(journal, "STORE_SECONDS", 0.0)
  asked = [dataclasses.replace(PROBLEM, id=f"p{n}") for n in range(3)]
  exams = types.SimpleNamespace(
    questions=0, samples=2, temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=9, styles=("",)
  )
  stages = types.SimpleNamespace(reflect=("recall", "analyze"), starts=0)

  def written(path, limit: int) -> int:
    student = Interrupted(limit)
    ctx = context(
      staged.Staged(),
      task.Task("t", lambda split: asked, kind="choice"),
      student,
      format="staged",
      exam=exams,
      staged=stages,
    )
    with contextlib.suppress(KeyboardInterrupt):
      exam.run(ctx, 0, RunDir(path).phase(0, 0, "exam"))
    return student.written

  whole = written(tmp_path / "whole", 10**6)
  assert written(tmp_path / "cut", whole - 2) == whole - 2
  assert written(tmp_path / "cut", 10**6) == 2
  finished = [RunDir(tmp_path / name).phase(0, 0, "exam") for name in ("whole", "cut")]
  one, other = (out.rows("attempts.jsonl", records.Attempt) for out in finished)
  assert one == other and not list(finished[1].path.glob("partial*"))
