"""What the processes of a command compare before anything is computed or paid for."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from distill_jax import errors, together
from distill_jax.cli import processes
from distill_jax.runtime import resume
from tests.multiprocess.test_together import Kept

CONFIG = {"train": {"lr": 0.1, "steps": 5}, "task": {"path": "a"}}


@dataclasses.dataclass
class Two(Kept):
  """The link of process 0; process 1 on host-b has what process 0 has, with `change` applied."""

  change: Callable[[dict[str, Any]], object] = dict.clear

  def collect(self, number: int, message: bytes) -> list[bytes]:
    _, values = json.loads(message)
    self.change(values)
    return [message, json.dumps(["host-b", values]).encode()]


@pytest.fixture
def connected():
  """connected(change) sets a link to a process with other values."""
  yield lambda change: together.connect(Two(0, {}, change=change))
  together.connect(None)


@pytest.mark.parametrize(
  ("change", "text"),
  [
    ({"jax": "0.1"}, "a different version of jax: 0.1 there"),
    ({"python": "2.7"}, "a different version of python: 2.7 there"),
    ({"the code of distill_jax": "1234"}, "version of the code of distill_jax: 1234 there"),
    ({"train.lr": "0.5"}, "a different setting train.lr: 0.5 there, 0.1 on process 0"),
    ({"train.lr": "0.5", "train.steps": "6"}, "setting train.lr (and 1 more)"),
  ],
)
def test_another_version_or_setting_is_refused_by_its_name(change, text, connected):
  def differ(values):
    values.update({name: x for name, x in change.items() if name in values})

  connected(differ)
  with pytest.raises(errors.UserError) as caught:
    processes.compare(CONFIG)
  assert "process 1 (host-b) has" in str(caught.value) and text in str(caught.value)
  assert caught.value.code == errors.CONFIG


def test_other_questions_are_refused_by_their_split(connected, monkeypatch):
  monkeypatch.setattr(resume, "question_digests", lambda _: {"train": "1", "test": "2"})
  connected(lambda values: values.update(test="3"))
  with pytest.raises(errors.UserError, match="different set of questions in split test: 3 there"):
    processes.compare_data(None)


def test_what_is_equal_is_accepted(connected, monkeypatch):
  monkeypatch.setattr(resume, "question_digests", lambda _: {"train": "1"})
  connected(lambda values: None)
  processes.compare(CONFIG)
  processes.compare_data(None)
