"""One of two processes, or both, are stopped, killed or fall silent, in every phase in turn.

python -m pytest -m heavy tests/multiprocess/test_interruptions.py
"""

import json
import signal
import time
import urllib.request

import pytest

from distill_jax import errors
from tests.multiprocess import commands

pytestmark = pytest.mark.heavy

LEAVE_SECONDS = 60.0
# Several parts in each exam, several seconds of evaluation (process 0 learns of a signal to another
# one within two), and time between two replies.
SIZES = {
  "task__validation": 120, "exam__questions": 16, "exam__samples": 4, "rollout__batch": 4,
  "exam__max_new_tokens": 24, "evaluate__max_new_tokens": 24, "train__steps": 60,
  "train__checkpoint_every": 7, "feedback__rationales": 1, "teacher__max_concurrency": 2,
  "teacher__builtin__latency": 0.5,
}  # fmt: skip
# Phase -> its directory, and files that show, when they change, that it is under way.
PHASES = {
  "exam": ("round_01/0_exam", "attempts.jsonl"),
  "feedback": ("round_01/1_feedback", None),  # the server has replied
  "train": ("round_01/2_train", "checkpoints/*/[0-9]*"),
  "evaluate": ("round_01/3_evaluate", "attempts.jsonl"),
}


def stats(url: str) -> dict:
  with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as reply:
    return json.load(reply)


def words(workdir, url: str) -> list[str]:
  changes = SIZES | {"teacher__kind": "openai", "teacher__base_url": url}
  del changes["teacher__builtin__latency"]
  return ["run", *commands.tiny(**changes), f"--workdir={workdir}"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  """The directory of a run of one process with two devices, its server's port and statistics."""
  path, port = tmp_path_factory.mktemp("undisturbed"), commands.free_port()
  with commands.teacher(path, commands.tiny(**SIZES), port) as url:
    commands.run(path / "logs", words(path / "run", url), 1, devices=2)
    return path / "run", port, stats(url)


def signs(workdir, phase: str, url: str) -> object:
  """What changes while a phase is under way."""
  directory, pattern = PHASES[phase]
  if pattern is None:
    return stats(url)["completed"]
  try:
    return {file: file.stat().st_mtime_ns for file in (workdir / directory).glob(pattern)}
  except FileNotFoundError:  # a checkpoint that was just removed
    return None


def wait_for_phase(run, workdir, phase: str, url: str) -> None:
  """Waits until a phase of a run that has just been started is under way."""
  before, deadline = signs(workdir, phase, url), time.monotonic() + 300
  while signs(workdir, phase, url) == before:
    assert run.processes[0].poll() is None, run.err(0)
    assert time.monotonic() < deadline
    time.sleep(0.005)
  finished = workdir / PHASES[phase][0] / "manifest.json"
  assert not finished.exists(), f"missed {phase}"


def assert_all_leave(run, how: signal.Signals, numbers: tuple[int, ...]) -> None:
  """Signals some processes; all must leave in time, with the machine's code and one line."""
  since = time.monotonic()
  for number in numbers:
    run.processes[number].send_signal(how)
  lost = how in (signal.SIGKILL, signal.SIGSTOP)
  for n in (0, 1):
    if lost and n in numbers:
      continue
    code = run.processes[n].wait(LEAVE_SECONDS - (time.monotonic() - since))
    assert code == errors.PREEMPTED, run.err(n)
    lines = [line for line in run.err(n).splitlines() if line.startswith("distill-jax: ")]
    if lost:
      assert len(lines) == 1, run.err(n)
    elif n == 0:  # what it waits for, and its end
      assert len(lines) <= 2 and "Interrupted" in lines[-1]
    else:
      assert lines == []
    assert "Traceback" not in run.err(n) and "stack trace" not in run.err(n)


@pytest.mark.parametrize(
  ("how", "numbers"),
  [*((how, (n,)) for how in ("SIGTERM", "SIGKILL", "SIGSTOP") for n in (0, 1)), ("SIGINT", (0, 1))],
  ids=str,
)
def test_all_leave_and_the_run_ends_the_same_and_no_reply_is_paid_twice(
  how, numbers, tmp_path, undisturbed
):
  workdir, (expected, port, counted) = tmp_path / "run", undisturbed
  with commands.teacher(tmp_path, commands.tiny(**SIZES), port) as url:
    for phase in PHASES:
      logs = tmp_path / phase
      with commands.started(logs, words(workdir, url), 2) as run:
        wait_for_phase(run, workdir, phase, url)
        assert_all_leave(run, signal.Signals[how], numbers)
    commands.run(tmp_path / "logs", words(workdir, url), 2)
    found = stats(url)
  commands.assert_equal(expected, workdir)
  assert (found["paid_twice"], found["completed"]) == (0, counted["completed"])
