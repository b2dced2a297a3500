"""The seam between processes, with a link that keeps messages in a list."""

import dataclasses
import io

import pytest

from distill_jax import console, errors, records, together
from distill_jax.run_dir.run_dir import RunDir
from distill_jax.runtime import tracking


@dataclasses.dataclass
class Kept:
  """A link whose messages process 0 leaves for the other one, which is played afterwards."""

  index: int
  messages: dict[int, bytes]
  count: int = 2
  wants_stop: bool = False

  def send(self, number: int, message: bytes) -> None:
    self.messages[number] = message

  def receive(self, number: int) -> bytes:
    return self.messages[number]

  def give(self, number: int, message: bytes) -> None:
    raise NotImplementedError

  def collect(self, number: int, message: bytes) -> list[bytes]:
    return [message, b'"other"']

  def request_stop(self) -> None:
    self.wants_stop = True


@pytest.fixture(autouse=True)
def alone():
  yield
  together.connect(None)


def both(program):
  """Plays a program as process 0 and then as process 1; returns both results."""
  messages: dict[int, bytes] = {}
  results = []
  for index in (0, 1):
    together.connect(Kept(index, messages))
    try:
      results.append(program(index))
    except (errors.UserError, KeyboardInterrupt, RuntimeError) as error:
      results.append(error)
  return results


@pytest.mark.parametrize("value", [None, True, 0.1, "text", {"a": [1, None]}, b"bytes\n\n", b""])
def test_all_processes_get_the_value_of_process_0(value):
  calls = []

  def program(index):
    return together.once("value", lambda: calls.append(index) or value)

  assert both(program) == [value, value] and calls == [0]


def test_an_error_of_process_0_is_raised_on_all_and_reported_by_one():
  def program(_):
    def fail():
      raise errors.data("the disk is full")

    together.once("value", fail)

  first, other = both(program)
  assert (str(first), first.code) == (str(other), other.code) == ("the disk is full", errors.DATA)
  assert isinstance(other, together.ToldError) and not isinstance(first, together.ToldError)


def test_a_stop_takes_the_place_of_the_next_value():
  def program(index):
    assert together.once("before", lambda: 1) == 1
    if index == 0:
      assert together.request_stop()
    together.once("after", lambda: pytest.fail("runs although the run stops"))

  assert [type(result) for result in both(program)] == [KeyboardInterrupt] * 2


def test_the_other_processes_pass_a_signal_on():
  link = Kept(1, {})
  together.connect(link)
  assert together.request_stop() and link.wants_stop


def test_processes_at_different_places_notice():
  first, other = both(lambda index: together.once(f"place {index}", lambda: 1))
  assert first == 1 and "waits for 'place 1', but process 0 has sent 'place 0'" in str(other)


def test_calls_inside_are_plain_calls():
  def program(_):
    return together.once("outer", lambda: together.once("inner", lambda: 2) + 1)

  assert both(program) == [3, 3]


def test_process_0_calls_all_processes_from_inside():
  seen = []

  def program(index):
    def compute(x):
      seen.append((index, x))
      return together.once("inner", lambda: x + 1)

    together.register("compute", compute)
    return together.once("outer", lambda: together.on_all("compute", compute, 5) * 10)

  assert both(program) == [60, 60] and seen == [(0, 5), (1, 5)]


def test_what_process_0_caches_inside_is_not_kept():
  class Holder:
    @together.CachedProperty
    def value(self):
      return together.once("value", lambda: 7)

  def program(_):
    holder = Holder()
    together.once("outer", lambda: holder.value)
    return holder.value, holder.value

  assert both(program) == [(7, 7), (7, 7)]


def test_cleaning_up_waits_for_nobody():
  done = []

  @together.only_first
  def clean():
    done.append(together.once("inner", lambda: 1))

  assert both(lambda _: clean()) == [None, None] and done == [1]


def test_one_process_runs_everything_itself():
  assert together.once("value", lambda: (1, 2)) == (1, 2) and together.is_first()
  assert together.gather("value", 3) == [3] and not together.request_stop()


def test_what_trackers_are_sent_is_of_no_concern_to_the_other_processes(tmp_path, monkeypatch):
  class Silent:
    def __init__(self, run_dir, run_id): ...

    def log(self, values, step): ...

  monkeypatch.setitem(tracking.BACKENDS, "wandb", Silent)

  def program(index):
    tracker = tracking.Tracking(("wandb",), RunDir(tmp_path), console.Console(file=io.StringIO()))
    tracker.metrics("round_00/1_train", records.Metrics(10, 1.0, 0.5))
    return together.once("next", lambda: "the same")

  assert both(program) == ["the same", "the same"]
  assert (tmp_path / tracking.STATE).exists()
