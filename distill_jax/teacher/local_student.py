"""A student as teacher: it answers on this machine's devices, which this room knows nothing of."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from distill_jax.teacher import types
from distill_jax.teacher.store import cache, ledger


class StudentReply(NamedTuple):
  """What a student answered to one request, in the layout that was asked for."""

  text: str
  whole: bool  # not cut at the limit of tokens
  tokens_in: int
  tokens_out: int


class StudentBackend(Protocol):
  """What the bridge hands in."""

  identity: str  # decides its replies, with the question, temperature, limit and sample
  model: str  # what it is called in records
  batch: int  # replies worth computing at a time

  def answer(
    self, asked: Sequence[tuple[str, str, str]], *, temperature: float, max_new_tokens: int
  ) -> list[StudentReply]:
    """Answers (kind of request, question, name) triples; names decide the random numbers."""

  def rest(self) -> None:
    """Nothing is asked for a while: memory may be given back."""


class LocalStudentTeacher:
  """A Teacher that costs nothing but time. What it said is kept as any reply, and not said again;
  each part of `student.batch` replies is on the disk before the next is begun."""

  def __init__(self, student: StudentBackend, *, max_tokens: int, cache_path: str, run: str):
    """`run` names this run in the cache file."""
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
    on_progress: Callable[[types.Progress], None] | None,
  ) -> list[list[types.Reply | types.Failure]]:
    """See asking.Teacher. Only the question of a request is read, and what kind it is."""
    place = cache.RunPhase(self._run, round, phase)
    samples = [[*self._samples(request, temperature)] for request in requests]
    wanted = {name: sample for row in samples for *sample, name in row}
    self._store.record_asked(wanted, place)
    found, total = self._store.lookup(wanted, place), sum(r.samples for r in requests)
    left = [name for name in wanted if name not in found or not _settled(found[name])]
    for start in range(0, len(left), self._student.batch):
      self._tell(on_progress, total, len(wanted) - len(left) + start, 0)
      part = {name: wanted[name] for name in left[start : start + self._student.batch]}
      self._store.store_many(self._answered(part, temperature, place))
    if left:
      self._student.rest()
      found = self._store.lookup(wanted, place)
    answers = [[found[name] for *_, name in row] for row in samples]
    failed = sum(isinstance(answer, types.Failure) for row in answers for answer in row)
    self._tell(on_progress, total, total, failed)
    return answers

  def estimate(self, requests, *, round: int, phase: str, temperature: float) -> types.Estimate:
    """Replies that cost nothing; which of them are stored only the student's weights can tell."""
    del round, phase, temperature
    return types.Estimate(replies=sum(request.samples for request in requests))

  def close(self) -> None:
    """Closes the cache file."""
    self._store.close()

  def _tell(self, on_progress, total: int, done: int, failures: int) -> None:
    if on_progress is not None:
      dollars = self.ledger.total().dollars
      on_progress(types.Progress(done, total, failures, retries=0, dollars=dollars))

  def _samples(self, request: types.Request, temperature: float):
    """(request, canonical JSON, sample, cache key) of each sample."""
    sampling = {"temperature": float(temperature), "max_tokens": self._max_tokens}
    asked = [(request.kind, request.question)]
    text = cache.request_text(self._student.identity, "student", asked, sampling)
    for sample in range(request.first, request.first + request.samples):
      yield request, text, sample, cache.key(text, sample)

  def _answered(self, part: dict, temperature: float, place):
    """What the student says to {key: (request, canonical JSON, sample)}, for Cache.store_many."""
    asked = [(request.kind, request.question, name) for name, (request, _, _) in part.items()]
    said = self._student.answer(asked, temperature=temperature, max_new_tokens=self._max_tokens)
    return [
      (text, {(sample, name): self._outcome(answer)}, place)
      for (name, (_, text, sample)), answer in zip(part.items(), said, strict=True)
    ]

  def _outcome(self, said: StudentReply) -> types.Reply | types.Failure:
    tokens = {"tokens_in": said.tokens_in, "tokens_out": said.tokens_out}
    if not said.whole:
      return types.Failure("length", types.truncated_message(self._max_tokens), 1, **tokens)
    if not said.text.strip():
      return types.Failure("empty", "the student said nothing", 1, **tokens)
    model = self._student.model
    return types.Reply(said.text, "stop", model, dollars=0.0, cached=False, **tokens)


def _settled(outcome) -> bool:
  return isinstance(outcome, types.Reply) or outcome.kind in types.SETTLED
