"""The loop: the opening is round 0, then each_round is played from the last round's student, until
it no longer helps.

A phase that is finished is not done again, so the same command resumes; nothing but the run folder
is remembered.
"""

import shutil
import time

from distill_jax import phases, summary
from distill_jax.phases import evaluate
from distill_jax.runtime import fit


def play(run) -> dict:
  """Plays all rounds of a run and the final test; returns the summary, which also stands in
  summary.json."""
  rows = []
  for number in range(run.settings.rounds + 1):
    rows.append(play_round(run, number))
    run.console.round_row(rows[-1])
    if reason := stopped(run.settings.stop, rows):
      run.console.line(f"stopping after round {number}: {reason}")
      break
  best = best_round(rows)
  for name, problems in run.finals().items():
    timed(
      run,
      lambda here, name=name, problems=problems: evaluate.score(
        run, here, problems, name, number=best
      ),
      run.folder.final(name),
    )
  return summary.write(run, rows, best)


def play_round(run, number: int) -> dict:
  """One row of the summary. A round whose exam shows no mistake ends there, without an evaluation
  of its own, unless it does not learn from mistakes."""
  plan = run.settings.opening if number == 0 else run.settings.each_round
  for place, name in enumerate([*plan, "evaluate"]):
    here = run.folder.phase(number, place, name)
    timed(run, lambda here, name=name: phases.run_phase(name, run, number, here), here)
    done = name == "exam" and here.facts["mistakes"] == 0
    if number and done and learns_from_mistakes(run.settings):
      return summary.row(run, number, no_mistakes=True)
  return summary.row(run, number)


def learns_from_mistakes(settings) -> bool:
  """Where pairs are of styles, a right answer may be preferred to another right one."""
  return "pair" not in settings.each_round or settings.pair.policy != "cot_over_plain"


def timed(run, phase, here) -> None:
  """Plays a phase unless it is finished. Its seconds add up over restarts."""
  if not here.finished:
    _play(run, phase, here)
  # The optimizer's state ends with the phase; a run killed just here has left it.
  shutil.rmtree(here.path / fit.CHECKPOINTS, ignore_errors=True)


def _play(run, phase, here) -> None:
  begun = time.monotonic()
  try:
    phase(here)
  finally:
    run.folder.add_seconds(time.monotonic() - begun)


def finished_phases(run) -> set[tuple[int, str]]:
  """(round, name of the phase's folder) of all that is finished."""
  rounds_ = range(run.settings.rounds + 1)
  return {(n, f.path.name) for n in rounds_ for f in run.folder.finished(n).values()}


def stopped(stop, rows) -> str | None:
  """Why no further round should be played, or None."""
  if rows[-1]["no_mistakes"]:
    return "the student made no mistake in its exam"
  if not stop.patience or len(rows) <= stop.patience:
    return None
  before = max(r["validation"]["accuracy"] for r in rows[: -stop.patience])
  since = max(r["validation"]["accuracy"] for r in rows[-stop.patience :])
  if since <= before + stop.min_gain:
    return f"no gain on validation in {stop.patience} rounds"
  return None


def best_round(rows) -> int:
  """The round with the best validation accuracy; of equals, the first."""
  return max(rows, key=lambda r: (r["validation"]["accuracy"], -r["round"]))["round"]
