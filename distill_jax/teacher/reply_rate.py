"""A phase for which too few replies came is not gone on from: what is trained on would be another
thing than what was asked for."""

import collections

from distill_jax import errors
from distill_jax.teacher import types

_SHOWN = 4  # kinds of failures in a message


def check(outcomes, least: float, *, round: int, phase: str, workdir) -> None:
  """Raises errors.UserError if a share of samples under `least` has a reply: how many of how many,
  why, and what to type. What was never recorded is not counted: asking again brings nothing."""
  outcomes = [o for o in outcomes if not _unrecorded(o)]
  failed = [o for o in outcomes if isinstance(o, types.Failure)]
  came = len(outcomes) - len(failed)
  share = came / len(outcomes) if outcomes else 1.0
  if share >= least:
    return
  settled = any(o.kind in types.SETTLED for o in failed)
  again = " with --retry_failed" if settled else ""
  raise errors.teacher(
    f"only {came} of the {len(outcomes)} samples of round {round} {phase} have a reply"
    f" ({share:.1%}, config.teacher.min_reply_rate={least:g} wants more): {_kinds(failed)}; nothing that"
    f" was paid for is lost: run the same command again{again} to ask for the others, or go on"
    f" without them with --config.teacher.min_reply_rate={int(share * 100) / 100:g}; all of them: python"
    f" -m distill_jax teacher cache show --failures --workdir={workdir}"
  )


def _unrecorded(outcome) -> bool:
  return isinstance(outcome, types.Failure) and outcome.kind == "unrecorded"


def _kinds(failed) -> str:
  """How many failed in each way, the most first, each with the words of one."""
  counts = collections.Counter(o.kind for o in failed)
  words = {o.kind: o.message for o in reversed(failed)}
  named = [f"{n} {kind} ({words[kind][:120]})" for kind, n in counts.most_common(_SHOWN)]
  others = len(failed) - sum(n for _, n in counts.most_common(_SHOWN))
  return ", ".join(named) + (f", {others} others" if others else "")
