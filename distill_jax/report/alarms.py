"""Alarms: what in a run deserves a look, found in its records."""

from collections.abc import Iterator

from distill_jax import plan
from distill_jax.report import numbers
from distill_jax.report.load import Phase, Run
from distill_jax.runtime import results

UNREAD = 0.2  # share of attempts without a readable answer
REPEATED = 0.5  # share of attempts with the text of another attempt at the same question
LEFT_OUT = 0.05  # share of training rows that did not fit
UNUSED = 0.5  # share of requested rationales that were not kept


def of_run(run: Run) -> list[str]:
  """Returns one sentence for each alarm, in the order of the run."""
  found: list[str] = []
  for index, phases in run.rounds.items():
    for phase in phases:
      where = f"Round {index} {phase.name}"
      found += [f"{where}: {text}." for text in _of_phase(phase)]
      if phase.name == "evaluate" and (text := _fall(run, index)):
        found.append(f"{where}: {text}.")
  for split, phase in run.finals.items():
    found += [f"{split.replace('_', ' ').capitalize()}: {text}." for text in _of_phase(phase)]
  return found


def _of_phase(phase: Phase) -> Iterator[str]:
  h = numbers.health(phase.attempts)
  limit = "exam.max_new_tokens" if phase.name == "exam" else "evaluate.max_new_tokens"
  if h.n and h.cut >= results.CUT_ALARM * h.n:
    yield f"{_share(h.cut, h.n)} attempts were cut off; see {limit}"
  if h.n and h.unread >= UNREAD * h.n:
    yield f"{_share(h.unread, h.n)} attempts have no readable answer"
  if h.n and h.repeated >= REPEATED * h.n:
    yield f"{_share(h.repeated, h.n)} attempts repeat another one; see exam.temperature"
  rows, left_out = numbers.fits(phase)
  if left_out and left_out >= LEFT_OUT * rows:
    yield f"{_share(left_out, rows)} rows did not fit into train.buckets"
  chosen = [m.chosen for m in phase.metrics if m.chosen is not None]
  if results.is_falling(chosen):
    yield (
      f"the chosen answers keep getting less likely ({chosen[0]:.1f} to {chosen[-1]:.1f} nats); see"
      " prefer.nll_weight, prefer.beta and prefer.lr"
    )
  if phase.name in plan.WRITERS and phase.finished:
    flow = numbers.flow(len(phase.rationales), phase.facts.get("dropped", {}))
    unused = flow["asked"] - flow["kept"]
    if unused and unused >= UNUSED * flow["asked"]:
      yield f"{_share(unused, flow['asked'])} requested rationales were not kept"


def _fall(run: Run, index: int) -> str:
  """Describes a fall of the validation accuracy whose interval is below 0; "" without one."""
  now, before = run.phase(index, "evaluate"), run.phase(index - 1, "evaluate")
  change = numbers.difference(now.verdicts, before.verdicts) if now and before else None
  if change is None or change.high >= 0:
    return ""
  points = [100 * value for value in (change.mean, change.low, change.high)]
  return "validation fell by {:.1f} points ({:+.1f} to {:+.1f})".format(-points[0], *points[1:])


def _share(part: int, total: int) -> str:
  return f"{part:,} of {total:,} ({100 * part / total:.0f} %)"
