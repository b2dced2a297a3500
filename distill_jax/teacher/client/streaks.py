"""Notices failures that are all alike: asking on would only pay for, or lose, more of them."""

import collections
from collections.abc import Iterable

from distill_jax import errors
from distill_jax.teacher import types

ALIKE = 12  # billed failures in a row, all alike, after which an `ask` stops
REJECTED = 8  # rejections in a row, all alike, likewise
MIN_REQUESTS = 3  # from which they come
_THINK_LESS = (
  'let the model think less (--config.teacher.extra_body=\'{{"reasoning_effort": "low"}}\')'
)
_ADVICE = {
  "length": (
    "raise config.teacher.max_tokens (now {limit}; in this run directory,"
    " --config.teacher.max_tokens_retry_limit={double} asks again with more), or " + _THINK_LESS
  ),
  "empty": f"raise config.teacher.max_tokens (now {{limit}}) or {_THINK_LESS}",
  "cut": "check config.teacher.max_tokens (now {limit}) and config.teacher.model",
  "filtered": "use questions that the server's filter accepts, or another config.teacher.model",
  "refusal": "use another config.teacher.model, or questions that it answers",
}


class Streaks:
  """The failures in a row of one `ask`, in the order of the responses."""

  def __init__(self, base_url: str, max_tokens: int):
    self._base_url, self._max_tokens = base_url, max_tokens
    self._replies = 0
    self._alike: list[types.Failure] = []
    self._requests = 0
    self._rejections: list[str] = []

  def on_response(self, outcomes: Iterable[types.Outcome]) -> errors.UserError | None:
    """Counts the outcomes of one response. Returns the reason to stop, if there is one."""
    self._rejections.clear()
    self._requests += 1
    for outcome in outcomes:
      if isinstance(outcome, types.Reply):
        self._replies += 1
        self._alike.clear()
        self._requests = 0
      else:
        if self._alike and _name(self._alike[-1]) != _name(outcome):
          self._alike.clear()
          self._requests = 1
        self._alike.append(outcome)
    enough = len(self._alike) >= ALIKE and self._requests >= MIN_REQUESTS
    if enough and len(self._alike) > self._replies:
      return self._error(self._alike)
    return None

  def on_rejection(self, reason: str, note: str) -> errors.UserError | None:
    """Counts a rejected request. Returns the reason to stop, if there is one.

    Args:
      reason: What the server says.
      note: Its name for the request.
    """
    shape = "".join("0" if c.isdigit() else c for c in reason)
    if self._rejections and self._rejections[-1] != shape:
      self._rejections.clear()
    self._rejections.append(shape)
    if len(self._rejections) < REJECTED:
      return None
    return errors.teacher(
      f"{self._base_url} has rejected the last {len(self._rejections)} requests ({reason}{note})."
      " Replies received so far are saved; fix this and re-run the same command to ask for the"
      " others"
    )

  def check_stored(self, outcomes: Iterable[types.Outcome]) -> None:
    """Checks the stored outcomes of a phase before more is asked for.

    Raises:
      errors.UserError: They are failures, all alike.
    """
    found = list(outcomes)
    failures = [o for o in found if isinstance(o, types.Failure) and o.kind in types.SETTLED]
    kinds = collections.Counter(_name(failure) for failure in failures)
    if len(failures) == len(found) >= ALIKE and len(kinds) == 1:
      raise self._error(failures)

  def _error(self, failures: list[types.Failure]) -> errors.UserError:
    last = failures[-1]
    dollars = sum(failure.dollars for failure in failures)
    advice = _ADVICE.get(last.kind, "check config.teacher.model").format(
      limit=self._max_tokens, double=2 * self._max_tokens
    )
    return errors.teacher(
      f"the last {len(failures)} replies of {self._base_url} were of no use, all alike"
      f" ({last.kind}: {last.message}), and cost ${dollars:.4f}. The phase stops before more is"
      f" paid for: {advice}"
    )


def _name(failure: types.Failure) -> tuple[str, str]:
  """Failures with equal names are alike; so are all replies that have no answer."""
  if failure.kind in ("length", "empty"):
    return "no answer", ""
  return failure.kind, failure.message if failure.kind == "cut" else ""
