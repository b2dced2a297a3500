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
Alarm = tuple[str, str]  # (what happened, and what to change; how much)


def of_run(run: Run) -> list[str]:
  """Returns one sentence for each kind of alarm, with the phases in which it was found."""
  found: dict[str, list[str]] = {}
  for where, phase in _phases(run):
    for text, amount in _of_phase(phase):
      found.setdefault(text, []).append(f"{where} ({amount})")
  for index in run.rounds:
    if amount := _fall(run, index):
      found.setdefault("Validation accuracy fell", []).append(f"round {index} ({amount})")
  return [f"{text}: {', '.join(places)}." for text, places in found.items()]


def _phases(run: Run) -> Iterator[tuple[str, Phase]]:
  for index, phases in run.rounds.items():
    yield from ((f"round {index} {phase.name}", phase) for phase in phases)
  yield from ((split.replace("_", " "), phase) for split, phase in run.finals.items())


def _of_phase(phase: Phase) -> Iterator[Alarm]:
  h = numbers.health(phase.attempts)
  limit = "exam.max_new_tokens" if phase.name == "exam" else "evaluate.max_new_tokens"
  if h.n and h.cut >= results.CUT_ALARM * h.n:
    yield f"Attempts were cut off; see {limit}", f"{h.cut:,} of {h.n:,}"
  if h.n and h.unread >= UNREAD * h.n:
    yield "Attempts have no readable answer", f"{h.unread:,} of {h.n:,}"
  if h.n and h.repeated >= REPEATED * h.n:
    yield "Attempts repeat each other; see exam.temperature", f"{h.repeated:,} of {h.n:,}"
  rows, left_out = numbers.fits(phase)
  if left_out and left_out >= LEFT_OUT * rows:
    yield "Rows did not fit into train.buckets", f"{left_out:,} of {rows:,}"
  chosen = [m.chosen for m in phase.metrics if m.chosen is not None]
  if results.is_falling(chosen):
    text = "Chosen answers keep getting less likely; see prefer.nll_weight, prefer.beta, prefer.lr"
    yield text, f"{chosen[0]:.1f} to {chosen[-1]:.1f} nats"
  if phase.name in plan.WRITERS and phase.finished:
    flow = numbers.flow(len(phase.rationales), phase.facts.get("dropped", {}))
    unused = flow["asked"] - flow["kept"]
    if unused and unused >= UNUSED * flow["asked"]:
      yield "Requested rationales were not kept", f"{unused:,} of {flow['asked']:,}"


def _fall(run: Run, index: int) -> str:
  """Describes a fall of the validation accuracy whose interval is below 0; "" without one."""
  now, before = run.phase(index, "evaluate"), run.phase(index - 1, "evaluate")
  change = numbers.difference(now.verdicts, before.verdicts) if now and before else None
  if change is None or change.high >= 0:
    return ""
  mean, low, high = (100 * value for value in (change.mean, change.low, change.high))
  return f"{mean:+.1f} points, {low:+.1f} to {high:+.1f}"
