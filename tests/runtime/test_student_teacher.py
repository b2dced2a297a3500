"""A student in Hugging Face format as teacher: through the sampler, the cache and the ledger.

Its replies do not depend on the run that asks.
"""

import pytest

from configs import quickstart, tinythinker
from distill_jax import console, errors
from distill_jax.cli import commands
from distill_jax.config import rules_teacher
from distill_jax.config.read import read_settings
from distill_jax.data import tokenizer
from distill_jax.machine import hf
from distill_jax.phases import demonstrate
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import context, conversations, student_teacher
from distill_jax.teacher import local_student
from distill_jax.teacher import types as asking
from tests import compilations
from tests.machine import hf_material

quick = pytest.fixture(autouse=True, scope="module")(compilations.quick)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """Returns the directory of a small random Llama with a tokenizer."""
  path = tmp_path_factory.mktemp("model") / "peer"
  made = path.with_name("tokenizer")
  tokenizer.train(["Question: Tom has 3 apples.\nReasoning:\n"] * 4, vocab=280, path=made)
  c = hf_material.config(1, vocab=tokenizer.Tokenizer(made).vocab)
  tensors = hf_material.LLAMA.tensors(c)
  arrays = {name: x * 0.3 for name, x in hf_material.random_tensors(tensors).items()}
  hf_material.write_directory(path, hf_material.LLAMA, c, arrays)
  for name in hf.TOKENIZER:
    if (made / name).exists():
      (path / name).write_bytes((made / name).read_bytes())
  return path


def config(model, recipe=quickstart, **changes) -> dict:
  c = recipe.get_config()
  world = c.taxonomy if c.task.name == "taxonomy" else c.world
  world.train, world.test, world.out_of_domain = 8, 2, 0
  c.task.validation, c.rollout.batch, c.rollout.buckets = 2, 8, (192,)
  if "feedback" in c.each_round:
    c.feedback.kind = "blind"
  c.teacher.kind, c.teacher.model, c.teacher.max_tokens = "student", str(model), 6
  c.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
  return c.to_dict()


@pytest.fixture
def opened(model, tmp_path):
  """Returns open_run(name="run", ...), which opens a run with the student as its teacher."""
  made = []

  def open_run(name="run", recipe=quickstart, **changes):
    s = read_settings(config(model, recipe, **changes))
    (tmp_path / name).mkdir(exist_ok=True)
    made.append(context.RunContext(s, RunDir(tmp_path / name), console.Console()))
    return made[-1]

  yield open_run
  for run in made:
    run.__exit__()


def requests(run, count=3, samples=2, first=0):
  return [
    asking.Request(
      "annotate", run.task.render(p), demonstrate.build_messages(run, p), samples, first
    )
    for p in run.task.problems("train")[:count]
  ]


def ask(run, wanted, **more):
  more = {"round": 0, "phase": "0_demonstrate", "temperature": 0.9, "on_progress": None} | more
  return run.teacher.ask(wanted, **more)


def counted(monkeypatch) -> list:
  """Returns a list of how many replies are computed at a time, from now on."""
  counts, true = [], student_teacher.StudentTeacher.answer

  def answer(self, asked, **how):
    counts.append(len(asked))
    return true(self, asked, **how)

  monkeypatch.setattr(student_teacher.StudentTeacher, "answer", answer)
  return counts


def test_its_replies_are_stored_counted_and_not_computed_again(opened, monkeypatch):
  counts, seen = counted(monkeypatch), []
  one = opened()
  replies = ask(one, requests(one), on_progress=seen.append)
  # Random weights never end a text: all replies are cut off, and such a failure is final.
  assert [[r.kind for r in row] for row in replies] == [["length"] * 2] * 3
  assert all(r.tokens_out == 6 and r.tokens_in > 6 for row in replies for r in row)
  totals = one.teacher.ledger.of(0)
  assert (totals.failures, totals.dollars, totals.tokens_out) == (6, 0.0, 36)
  assert counts == [6] and (seen[-1].done, seen[-1].total, seen[-1].failures) == (6, 6, 6)
  assert ask(one, requests(one)) == replies and ask(opened(), requests(one)) == replies
  assert counts == [6]


def test_its_replies_do_not_depend_on_the_run_or_the_batch(opened, monkeypatch):
  original = local_student.StudentReply
  monkeypatch.setattr(
    local_student, "StudentReply", lambda text, _, i, o: original(text, True, i, o)
  )
  texts = lambda rows: [[r.text for r in row] for row in rows]
  one = opened("one")
  first = texts(ask(one, requests(one, count=2, samples=3)))
  assert len({t for row in first for t in row}) == 6
  two = opened("two", seed=5, rollout__batch=2, student__scratch__width=32)
  assert texts(ask(two, requests(two, count=2, samples=1, first=2))) == [row[2:] for row in first]
  assert ask(one, requests(one, count=1))[0][0].model == "peer"
  assert one.teacher.ledger.total().calls == 6


def test_each_batch_of_replies_is_on_disk_before_the_next_one_starts(opened, monkeypatch):
  run, true = opened(rollout__batch=2), student_teacher.StudentTeacher.answer
  calls = []

  def answer(self, asked, **how):
    calls.append(len(asked))
    if len(calls) == 3:
      raise KeyboardInterrupt
    return true(self, asked, **how)

  monkeypatch.setattr(student_teacher.StudentTeacher, "answer", answer)
  with pytest.raises(KeyboardInterrupt):
    ask(run, requests(run))
  ask(run, requests(run))
  assert calls == [2, 2, 2, 2]


def test_stages_come_in_the_layout_of_the_prompt(opened):
  run = opened(recipe=tinythinker, task__name="taxonomy")
  problem = run.task.problems("train")[0]
  labels = [label for label, _ in problem.choices]
  turns = [("recall", "", "Lamps\ngive light."), *[("analyze", "", f"so {x}") for x in labels]]
  last = ("summarize", "", f"So the answer is option {labels[1]}.")
  transcript = conversations.Transcript(last[2], "stop", 1, 0.0, (*turns, last))
  text = student_teacher.stage_text(run.task, problem, transcript)
  read = demonstrate.parse_stages(text, problem)
  assert read.parts == (("recall", "Lamps give light."), *((x, f"so {x}") for x in labels))
  assert read.text.endswith(f"Answer: {labels[1]}")


def test_a_directory_without_a_model_is_rejected_before_anything_is_paid(opened, tmp_path):
  (tmp_path / "empty").mkdir()
  run = opened(teacher__model=str(tmp_path / "empty"))
  assert rules_teacher.askers(run.settings) == ["demonstrate", "feedback"]
  with pytest.raises(errors.UserError, match=r"config\.json"):
    commands.check_run(run)


def test_a_student_cannot_correct_mistakes(model):
  with pytest.raises(errors.UserError, match=r"config\.feedback\.kind.*blind"):
    read_settings(config(model, feedback__kind="correct"))
