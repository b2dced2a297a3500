"""Stops a phase that received too few replies: its training set would not be as configured."""

import collections
import os
from collections.abc import Iterable, Sequence

from distill_jax import errors
from distill_jax.teacher import types

_KINDS_SHOWN = 4
_MESSAGE_CHARS = 120


def check(
  outcomes: Iterable[types.Outcome],
  min_rate: float,
  *,
  round: int,
  phase: str,
  workdir: str | os.PathLike[str],
) -> None:
  """Checks that enough samples have a reply.

  Samples that a replay teacher has no recording for are not counted, since asking again would not
  help.

  Args:
    outcomes: The outcome of each sample.
    min_rate: Minimum share of them with a reply, 0 to 1.
    round: For the message.
    phase: For the message.
    workdir: For the message.

  Raises:
    UserError: The share is lower.
  """
  counted = [o for o in outcomes if not _unrecorded(o)]
  failed = [o for o in counted if isinstance(o, types.Failure)]
  replies = len(counted) - len(failed)
  share = replies / len(counted) if counted else 1.0
  if share >= min_rate:
    return
  settled = any(failure.kind in types.SETTLED for failure in failed)
  flag = " --retry_failed" if settled else ""
  raise errors.teacher(
    f"only {replies} of the {len(counted)} samples of round {round} {phase} have a reply"
    f" ({share:.1%}, less than config.teacher.min_reply_rate={min_rate:g}): {_summary(failed)}."
    f" Replies received so far are saved; re-run the same command{' with' + flag if flag else ''}"
    " to request the others, or continue without them with"
    f" --config.teacher.min_reply_rate={int(share * 100) / 100:g}. List them with:"
    f" python -m distill_jax teacher cache show --failures --workdir={workdir}"
  )


def _unrecorded(outcome: types.Outcome) -> bool:
  return isinstance(outcome, types.Failure) and outcome.kind == "unrecorded"


def _summary(failures: Sequence[types.Failure]) -> str:
  """Counts by kind, the most frequent first, each with the message of its first failure."""
  most_common = collections.Counter(f.kind for f in failures).most_common(_KINDS_SHOWN)
  messages = {f.kind: f.message for f in reversed(failures)}
  parts = [f"{n} {kind} ({messages[kind][:_MESSAGE_CHARS]})" for kind, n in most_common]
  if others := len(failures) - sum(n for _, n in most_common):
    parts.append(f"{others} others")
  return ", ".join(parts)
