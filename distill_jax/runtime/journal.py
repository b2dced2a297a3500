"""The completions of an unfinished exam or evaluation: progress is shown, and they are stored.

Completions are stored every few minutes, so a killed process loses no more than that. A row's
tokens do not depend on the other rows, so the remaining rows can be decoded later.
"""

import contextlib
import time
from collections.abc import Callable
from types import TracebackType

from distill_jax import errors, records, together
from distill_jax.console import ProgressBar
from distill_jax.run_dir.phase_dir import PhaseDir
from distill_jax.runtime.completions import Completion

PARTIAL = "partial.jsonl"  # in the phase's directory, until its attempts are written
STORE_SECONDS = 120.0  # between two writes
RATE_SECONDS = 30.0  # over which tokens per second are measured


@together.on_first
def remove(out: PhaseDir) -> None:
  """Removes the stored completions of a phase whose attempts are all written."""
  _unlink(out)


def _unlink(out: PhaseDir) -> None:
  (out.path / PARTIAL).unlink(missing_ok=True)


class Journal:
  """Watches `Student.generate` (see `completions.Watcher`); has what a killed process stored.

  Use it as a context manager: leaving it by an exception stores the completions that are not stored
  yet. A stage of an exam whose attempts are all written leaves the journal to the next stage; see
  `remove`.
  """

  def __init__(self, out: PhaseDir, bar: ProgressBar, clock: Callable[[], float] = time.monotonic):
    self._out, self._bar, self._clock = out, bar, clock
    rows = out.rows(PARTIAL, records.Completed)
    self._known = {r.name: Completion(r.text, r.finish, r.tokens, r.logprob) for r in rows}
    self._unsaved: list[records.Completed] = []
    self._saved_at = clock()
    self._attempts = 0
    self._facts: dict[str, float] = {}
    self._rows = self._done = 0  # of the current call of `generate`
    self._since, self._tokens = clock(), 0  # of the current measurement of the rate
    self._rate = 0.0

  def __enter__(self) -> "Journal":
    return self

  @together.only_first
  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    if error is not None:
      with contextlib.suppress(errors.UserError):  # on a full disk, the first error is the cause
        self.store()

  def known(self, name: str) -> Completion | None:
    """See completions.Watcher."""
    return self._known.get(name)

  def begin(self, waiting: int) -> None:
    """See completions.Watcher."""
    self._rows, self._done = waiting, 0
    self._since, self._tokens = self._clock(), 0

  @together.on_first
  def progress(self, new: dict[str, Completion], tokens: int, running: int, waiting: int) -> None:
    """Shows the progress; stores completions if STORE_SECONDS have passed since the last time."""
    self._unsaved += [records.Completed(name, *completion) for name, completion in new.items()]
    self._done += len(new)
    self._tokens += tokens
    now = self._clock()
    if not self._rate or now - self._since >= RATE_SECONDS:
      self._rate = self._tokens / max(now - self._since, 1e-9)
      self._since, self._tokens = now, 0
    rows = f"{self._done}/{self._rows} ({running} running, {self._rate:.3g} tokens/s)"
    self._bar.update(self._attempts, **self._facts, rows=rows)
    if now - self._saved_at >= STORE_SECONDS:
      self.store()

  def store(self) -> None:
    """Stores the completions that are not stored yet."""
    self._out.append(PARTIAL, self._unsaved)
    self._unsaved, self._saved_at = [], self._clock()

  def finished(self, attempts: int, **facts: float) -> None:
    """Shows that `attempts` are in attempts.jsonl; removes their stored completions."""
    self._attempts, self._facts, self._known = attempts, facts, {}
    self._remove()

  @together.on_first
  def _remove(self) -> None:
    self._bar.update(self._attempts, **self._facts)
    self._unsaved, self._saved_at = [], self._clock()
    _unlink(self._out)
