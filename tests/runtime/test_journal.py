"""What a student has written is stored before its attempts are, and is not computed again."""

import pytest

from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import journal
from distill_jax.runtime.student import Completion

ONE, TWO = Completion("a\nb", "stop", 3, -1.25), Completion("", "length", 8, -1 / 3)


class Clock:
  """A clock that is set by hand."""

  def __init__(self):
    self.now = 0.0

  def __call__(self) -> float:
    return self.now


class Bar:
  """Keeps what is shown."""

  def __init__(self):
    self.shown = []

  def update(self, done: int, **facts) -> None:
    self.shown.append((done, facts))


@pytest.fixture
def out(tmp_path):
  return RunDir(tmp_path).phase(0, 1, "exam")


def test_completions_are_stored_when_the_last_time_was_a_while_ago(out):
  clock = Clock()
  following = journal.Journal(out, Bar(), clock)
  following.begin(2)
  following.progress({"x/0": ONE}, 3, 1, 0)
  assert journal.Journal(out, Bar()).known("x/0") is None
  clock.now = journal.STORE_SECONDS
  following.progress({"y/0": TWO}, 8, 0, 0)
  later = journal.Journal(out, Bar())
  assert (later.known("x/0"), later.known("y/0"), later.known("z/0")) == (ONE, TWO, None)


def test_an_interruption_stores_them_at_once_and_their_attempts_replace_them(out):
  with pytest.raises(KeyboardInterrupt), journal.Journal(out, Bar()) as following:
    following.progress({"x/0": ONE}, 3, 1, 0)
    raise KeyboardInterrupt
  with journal.Journal(out, Bar()) as following:
    assert following.known("x/0") == ONE
    following.finished(4)
    assert following.known("x/0") is None
  assert not list(out.path.glob("partial*"))


def test_the_progress_names_rows_and_tokens_a_second(out):
  clock, bar = Clock(), Bar()
  following = journal.Journal(out, bar, clock)
  following.finished(6, right=2)
  following.begin(5)
  clock.now = 2.0
  following.progress({"x/0": ONE}, 30, 3, 1)
  assert bar.shown[-1] == (6, {"right": 2, "rows": "1/5 (3 running, 15 tokens/s)"})
