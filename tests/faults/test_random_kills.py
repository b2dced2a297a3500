"""kill -9 at random moments: a run that is killed again and again ends bit for bit like another.

Each moment is drawn with a seed: a phase of the run, and a share of the time that this phase takes
undisturbed. Some kills hit the start of the process instead. About 10 minutes per recipe:

PROCESSES=0 bash launch/test.sh -m heavy tests/faults/test_random_kills.py
PROCESSES=0 bash launch/test.sh -m heavy tests/faults/test_random_kills.py -k "star and quick"
"""

import contextlib
import json
import os
import pathlib
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from distill_jax.run_dir.run_dir import RunDir
from tests.faults import test_kill

RECIPES = ("tailored", "self_refine", "tinythinker", "socratic", "star")
SHARE = 0.6  # latest share of the time that a phase takes: undisturbed, it also compiles
KILLS, LATER = 30, 10  # kills in all, and at least in phases after those of round 0
STARTS = 6  # every so many kills, one hits the start of the process
START = 6.0  # seconds; kills at the start of a process come within SHARE of them
POLL = 0.01  # seconds
LEDGER = (
  "select key, text, finish, tokens_in, tokens_out, dollars, run, round, phase from replies",
  "select run, round, phase, key, kind from failures",
  "select run, round, phase, key, kind from failed_before",
  "select run, round, phase, key from asked",
  "select run, round, phase, replies, tokens_in, tokens_out, dollars from pruned",
)


class Moment(NamedTuple):
  """When a process is killed."""

  phase: int  # index in the order of the run
  share: float  # of the time that the phase takes
  at_start: bool  # instead, this share of the time that the process takes to start


def draw(seed: int, phases: Sequence[str], kills: int, later: int) -> list[Moment]:
  """Draws the moments of a run, in the order of the run."""
  rng = random.Random(seed)
  first = next(
    n for n, name in enumerate(phases) if not name.startswith(("untrained/", "round_00/"))
  )
  moments = [
    Moment(
      rng.randrange(first if n < later else 0, len(phases)), SHARE * rng.random(), n % STARTS == 0
    )
    for n in range(kills)
  ]
  return sorted(moments)


def timeline(workdir: pathlib.Path) -> dict[str, float]:
  """Returns {phase: seconds that it took} of a finished run, in the order of the run."""
  ends = sorted(
    ((p.path / "manifest.json").stat().st_mtime, p.path.relative_to(workdir).as_posix())
    for p in RunDir(workdir).phases()
  )
  starts = [(workdir / "README.md").stat().st_mtime, *(end for end, _ in ends)]
  return {name: end - start for start, (end, name) in zip(starts, ends, strict=False)}


def modified(workdir: pathlib.Path) -> list[tuple[str, int, int]]:
  """Returns what changes when a phase writes."""
  found = []
  for folder in ("untrained/*", "round_*/*", "final/*"):
    for path in workdir.glob(folder):
      for directory, _, names in os.walk(path):
        for name in names:
          with contextlib.suppress(OSError):
            status = os.stat(os.path.join(directory, name))
            found.append((name, status.st_size, status.st_mtime_ns))
  for path in workdir.glob("*.sqlite*"):
    with contextlib.suppress(OSError):
      found.append((path.name, path.stat().st_size, path.stat().st_mtime_ns))
  return sorted(found)


def is_finished(workdir: pathlib.Path, phase: str) -> bool:
  return (workdir / phase / "manifest.json").exists()


def kill_at(moment: Moment, wait: float, words, env, log, workdir, phases: Sequence[str]) -> bool:
  """Starts a run and kills it; returns False if it ended first.

  It is killed `wait` seconds after the phase has written something in this process, or as soon as
  the phase is finished. If the phase was finished before, the first unfinished one takes its place.
  """
  unfinished = [n for n, name in enumerate(phases) if not is_finished(workdir, name)]
  target = max([moment.phase, *unfinished[:1]])
  at_start = moment.at_start or not unfinished
  start, before, wrote = time.monotonic(), None, None
  process = subprocess.Popen(words, cwd=test_kill.ROOT, env=env, stdout=log, stderr=log)
  while process.poll() is None:
    now = time.monotonic()
    if at_start:
      due = now - start >= moment.share * START
    elif all(is_finished(workdir, name) for name in phases[:target]):
      before = before if before is not None else modified(workdir)
      if wrote is None and modified(workdir) != before:
        wrote = now
      due = is_finished(workdir, phases[target]) or (wrote is not None and now - wrote >= wait)
    else:
      due = False
    if due:
      process.kill()
      process.wait()
      return True
    time.sleep(POLL)
  return False


def ledger(workdir: pathlib.Path) -> list[list[tuple]]:
  """Returns what was asked and paid for, by phase."""
  with contextlib.closing(sqlite3.connect(workdir / "teacher.sqlite")) as db:
    db.text_factory = bytes
    return [sorted(db.execute(query), key=repr) for query in LEDGER]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
  """An environment in which all runs share their compiled programs."""
  return test_kill.environment(tmp_path_factory.mktemp("shared"))


SIZES = {
  "small": (("star",), 5, 3, (*test_kill.SMALL, *test_kill.WORDS, "exam.max_new_tokens=28")),
  "quick": (RECIPES, KILLS, LATER, ()),
}
CASES = [(size, recipe) for size, (recipes, *_) in SIZES.items() for recipe in recipes]


@pytest.mark.heavy
@pytest.mark.parametrize(("size", "recipe"), CASES)
def test_a_run_killed_at_random_moments_ends_bit_for_bit_the_same(size, recipe, tmp_path, compiled):
  _, kills, later, overrides = SIZES[size]
  undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
  words = [sys.executable, "-m", "distill_jax", "run", f"--config=configs/{recipe}.py:quick"]
  words += [f"--config.{override}" for override in overrides]

  def output() -> str:
    return (tmp_path / "log").read_text()[-3000:]

  def finish(workdir) -> int:
    command = [*words, f"--workdir={workdir}"]
    return subprocess.run(
      command, cwd=test_kill.ROOT, env=compiled, stdout=log, stderr=log
    ).returncode

  with open(tmp_path / "log", "w") as log:
    assert finish(undisturbed) == 0, output()
    lasted = timeline(undisturbed)
    phases, previous = list(lasted), Moment(-1, 0.0, False)
    for moment in draw(RECIPES.index(recipe), phases, kills, later):
      done = previous.share if previous.phase == moment.phase else 0.0
      wait = max(moment.share - done, 0.0) * lasted[phases[moment.phase]]
      command = [*words, f"--workdir={killed}"]
      was_killed = kill_at(moment, wait, command, compiled, log, killed, phases)
      assert was_killed, f"the run ended before {moment}: {output()}"
      if not moment.at_start:
        previous = moment
    assert finish(killed) == 0, output()
  assert test_kill.contents(killed) == test_kill.contents(undisturbed)
  assert test_kill.weights(killed) == test_kill.weights(undisturbed) != {}
  assert ledger(killed) == ledger(undisturbed)
  summaries = [json.loads((w / "summary.json").read_text()) for w in (killed, undisturbed)]
  for summary in summaries:
    del summary["seconds"]
  assert summaries[0] == summaries[1]
  shutil.rmtree(killed)


def test_moments_are_reproducible_and_cover_later_phases():
  phases = ["round_00/0_train", "round_00/1_evaluate", "round_01/0_exam", "final/test"]
  moments = draw(1, phases, KILLS, LATER)
  assert moments == draw(1, phases, KILLS, LATER) != draw(2, phases, KILLS, LATER)
  assert len(moments) == KILLS and sum(m.phase >= 2 for m in moments) >= LATER
  assert sum(m.at_start for m in moments) == KILLS // STARTS
