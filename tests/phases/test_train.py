"""A training that is asked to stop."""

import contextlib
import types

import pytest

from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import fit
from tests import recipes
from tests.recipes import run

quick = recipes.quick


def test_an_interruption_in_the_last_steps_of_a_training_counts(tmp_path, monkeypatch):
  request = types.SimpleNamespace(made=True)
  monkeypatch.setattr(fit.stop_request, "watch", lambda: contextlib.nullcontext(request))
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path / "run", "answer_only", train__log_every=10)
  training = RunDir(tmp_path / "run").phase(0, 1, "train")
  trained = training.path / "student" / "4"
  assert trained.is_dir() and not training.finished
  written = trained.stat().st_mtime_ns
  request.made = False
  summary, _ = run(tmp_path / "run", "answer_only", train__log_every=10)
  assert summary["rounds"][0]["steps"] == 4 and trained.stat().st_mtime_ns == written
