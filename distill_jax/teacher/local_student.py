"""A student as teacher: replies are computed on this machine's devices.

This module does not use devices itself; `runtime` passes in a StudentBackend.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from distill_jax.teacher import types
from distill_jax.teacher.store import cache, ledger

OnProgress = Callable[[types.Progress], None] | None


class StudentReply(NamedTuple):
  """A student's reply to one request, in the layout that the request's kind asks for.

  Attributes:
    text: The reply.
    complete: Whether it ended before the limit of tokens.
    tokens_in: Prompt tokens.
    tokens_out: Generated tokens.
  """

  text: str
  complete: bool
  tokens_in: int
  tokens_out: int


class StudentBackend(Protocol):
  """Computes the replies.

  Attributes:
    identity: Determines the replies, together with question, temperature, limit and sample.
    model: Its name in records.
    batch: Number of replies to compute together.
  """

  identity: str
  model: str
  batch: int

  def answer(
    self, requests: Sequence[tuple[str, str, str]], *, temperature: float, max_new_tokens: int
  ) -> list[StudentReply]:
    """Replies to (kind of request, question, name) triples; the names seed the sampling."""
    ...

  def free_memory(self) -> None:
    """Frees memory: there is nothing to do for a while."""
    ...


class _Sample(NamedTuple):
  """One sample of a request; `text` is the request's canonical JSON."""

  request: types.Request
  text: str
  number: int


class LocalStudentTeacher:
  """Teacher that costs nothing but time.

  Replies are cached as any other teacher's. Each batch of replies is on disk before the next one
  starts.

  Attributes:
    ledger: What this run has used.
  """

  def __init__(self, student: StudentBackend, *, max_tokens: int, cache_path: str, run: str):
    """Opens the cache.

    Args:
      student: Computes the replies.
      max_tokens: Maximum tokens of one reply.
      cache_path: SQLite file.
      run: Name of this run in the cache.
    """
    self._student, self._max_tokens, self._run = student, max_tokens, run
    self._store = cache.ReplyCache(cache_path)
    self.ledger = ledger.RunLedger(self._store, run)

  def ask(
    self,
    requests: Sequence[types.Request],
    *,
    round: int,
    phase: str,
    temperature: float,
    on_progress: OnProgress,
  ) -> list[list[types.Outcome]]:
    """See `types.Teacher.ask`. Uses only the kind and the question of a request."""
    run_phase = cache.RunPhase(self._run, round, phase)
    rows = [dict(self._samples(request, temperature)) for request in requests]
    samples = {key: sample for row in rows for key, sample in row.items()}
    self._store.record_asked(samples, run_phase)
    known, total = self._store.lookup(samples, run_phase), sum(r.samples for r in requests)
    missing = [key for key in samples if key not in known or not _settled(known[key])]
    for start in range(0, len(missing), self._student.batch):
      self._report(on_progress, total, len(samples) - len(missing) + start, 0)
      batch = {key: samples[key] for key in missing[start : start + self._student.batch]}
      self._store.store_many(self._replies(batch, temperature, run_phase))
    if missing:
      self._student.free_memory()
      known = self._store.lookup(samples, run_phase)
    outcomes = [[known[key] for key in row] for row in rows]
    failures = sum(isinstance(outcome, types.Failure) for row in outcomes for outcome in row)
    self._report(on_progress, total, total, failures)
    return outcomes

  def estimate(
    self, requests: Sequence[types.Request], *, round: int, phase: str, temperature: float
  ) -> types.Estimate:
    """See `types.Teacher.estimate`. Counts stored replies too: finding them needs the weights."""
    del round, phase, temperature
    return types.Estimate(replies=sum(request.samples for request in requests))

  def close(self) -> None:
    """Closes the cache file."""
    self._store.close()

  def _report(self, on_progress: OnProgress, total: int, done: int, failures: int) -> None:
    if on_progress is not None:
      dollars = self.ledger.total().dollars
      on_progress(types.Progress(done, total, failures, retries=0, dollars=dollars))

  def _samples(self, request: types.Request, temperature: float) -> Iterator[tuple[str, _Sample]]:
    """(cache key, sample) of each sample of a request."""
    sampling = {"temperature": float(temperature), "max_tokens": self._max_tokens}
    messages = [(request.kind, request.question)]
    text = cache.request_text(self._student.identity, "student", messages, sampling)
    for number in range(request.first, request.first + request.samples):
      yield cache.key(text, number), _Sample(request, text, number)

  def _replies(
    self, batch: Mapping[str, _Sample], temperature: float, run_phase: cache.RunPhase
  ) -> list[cache.StoredCall]:
    """Computes a batch's replies; returns them as `ReplyCache.store_many` takes them."""
    replies = self._student.answer(
      [(sample.request.kind, sample.request.question, key) for key, sample in batch.items()],
      temperature=temperature,
      max_new_tokens=self._max_tokens,
    )
    return [
      (sample.text, {(sample.number, key): self._outcome(reply)}, run_phase)
      for (key, sample), reply in zip(batch.items(), replies, strict=True)
    ]

  def _outcome(self, reply: StudentReply) -> types.Outcome:
    if not reply.complete:
      return self._failure("length", types.truncated_message(self._max_tokens), reply)
    if not reply.text.strip():
      return self._failure("empty", "the student's reply is empty", reply)
    return types.Reply(
      text=reply.text,
      finish="stop",
      model=self._student.model,
      tokens_in=reply.tokens_in,
      tokens_out=reply.tokens_out,
      dollars=0.0,
      cached=False,
    )

  def _failure(self, kind: str, message: str, reply: StudentReply) -> types.Failure:
    return types.Failure(
      kind, message, attempts=1, tokens_in=reply.tokens_in, tokens_out=reply.tokens_out
    )


def _settled(outcome: types.Outcome) -> bool:
  return isinstance(outcome, types.Reply) or outcome.kind in types.SETTLED
