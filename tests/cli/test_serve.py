"""distill-jax serve: what of a run is served."""

import contextlib
import types

from configs import cot
from distill_jax.cli import open_run, serve
from distill_jax.config.read import read_settings
from distill_jax.runtime import exported, lengths


def pretrained():
  c = cot.get_config("pretrained")
  c.student.init = "somewhere"
  given = read_settings(c.to_dict(), teacher=False)
  assert given.rollout.buckets == () and given.evaluate.max_new_tokens == 0
  return given


def test_a_pretrained_student_is_served_with_the_lengths_that_its_data_have(monkeypatch):
  given = pretrained()
  found = lengths.Lengths(prompts=[40, 300], gold=[400])
  ctx = types.SimpleNamespace(
    settings=lengths.choose(given, found, 8192),
    students=lambda index: {"student": (types.SimpleNamespace(), None)},
    question_layout=lambda: None,
    format=types.SimpleNamespace(stop=()),
  )
  monkeypatch.setattr(open_run, "open_run", lambda *_: contextlib.nullcontext(ctx))
  monkeypatch.setattr(open_run, "select_round", lambda *_: 1)
  with serve.open_workdir(given, "runs/one", -1) as (served, name):
    assert (served.limit, served.longest) == (448, 384) and name == "one-round-1"


def test_an_exported_student_is_served_by_a_recipe_without_lengths(monkeypatch):
  student = types.SimpleNamespace(init_params=lambda: None)
  opened = []
  monkeypatch.setattr(exported, "open_student", lambda s, *_: opened.append(s) or student)
  with serve.open_model(pretrained(), "exported/one") as (served, name):
    assert (served.limit, served.longest) == (256, 1024) and name == "one"
  assert opened[0].evaluate.max_new_tokens == 256 and opened[0].rollout.buckets[-1] == 1024
