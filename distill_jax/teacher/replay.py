"""A teacher that answers from recorded files, such as published rationale sets.

The files are read as they are; two columns are named. A question is found by its text without
regard to white space, or else by its words alone: published sets differ from the data they annotate
in a full stop or a kind of quotation mark. Our own rationales.jsonl works once a question is joined
to each line (columns question and text).
"""

import json
import re
from collections.abc import Callable, Sequence

from distill_jax import errors
from distill_jax.data import sources
from distill_jax.teacher import asking, cache, ledger, prompts

RUN = "recorded"  # who "paid" for the replies; it is never the run itself

_WORD = re.compile(r"[^\W_]+")


class Replay:
  """A Teacher that costs nothing. What it serves counts as cache hits in its ledger.

  path        recorded files, JSON or JSONL
  question    column with the question
  rationale   column with the text; a row without one is passed over
  cache_path, run  as in client.Client: so that the ledger outlives the process
  """

  def __init__(
    self, *, path: Sequence[str], question: str, rationale: str, cache_path: str, run: str
  ):
    self._texts: dict[str, list[str]] = {}
    self._files = tuple(path)
    for name in self._files:
      self._read(name, question, rationale)
    self._store = cache.Cache(cache_path)
    self._run = run
    self.ledger = ledger.Ledger(self._store, run)

  def recorded(self, question: str) -> tuple[str, ...]:
    """The different texts recorded for a question, in the files' order."""
    for name in (_spaced(question), _bare(question)):
      if name in self._texts:
        return tuple(self._texts[name])
    return ()

  def ask(
    self,
    requests: Sequence[asking.Request],
    *,
    round: int,
    stage: str,
    temperature: float,
    on_progress: Callable[[asking.Progress], None] | None,
  ) -> list[list[asking.Reply | asking.Failure]]:
    """See asking.Teacher. Sample k is text k; `correct` begins with the text numbered by the round.

    Beyond the recorded texts it begins again, so that `samples` are always there (and may repeat).
    A text for `correct` is put into the layout that is asked for, if it is not in it.
    """
    del temperature  # what is recorded is recorded
    place = cache.Place(self._run, round, stage)
    total, done, failed = sum(request.samples for request in requests), 0, 0
    answers = []
    for request in requests:
      answers.append(self._answer(request, place))
      done += request.samples
      failed += sum(isinstance(answer, asking.Failure) for answer in answers[-1])
      if on_progress is not None:
        on_progress(asking.Progress(done, total, failed, retries=0, dollars=0.0))
    return answers

  def close(self) -> None:
    """Closes the ledger's file."""
    self._store.close()

  def _answer(self, request: asking.Request, place) -> list[asking.Reply | asking.Failure]:
    texts = self.recorded(request.question)
    turn = request.first + (place.round if request.kind == "correct" else 0)
    asked = json.dumps({"recorded": request.question, "kind": request.kind, "texts": len(texts)})
    names = [cache.key(f"{asked} {turn}", sample) for sample in range(request.samples)]
    if texts:
      chosen = [texts[(turn + sample) % len(texts)] for sample in range(request.samples)]
      if request.kind == "correct":
        chosen = [_corrected(text) for text in chosen]
      made = [asking.Reply(text, "stop", "recorded", 0, 0, 0.0, True) for text in chosen]
    else:
      why = f"no recorded rationale for this question in {', '.join(self._files)}"
      made = [asking.Failure("unrecorded", why, 0)] * request.samples
    origin = place if not texts else cache.Place(RUN, 0, "")
    self._store.ask(names, place)
    self._store.store(asked, dict(zip(enumerate(names), made, strict=True)), origin)
    return made

  def _read(self, name: str, question: str, rationale: str) -> None:
    for number, row in enumerate(sources.rows(name), start=1):
      where = f"{name}: row {number}"
      asked, text = row.get(question), row.get(rationale)
      if not isinstance(asked, str):
        columns = ", ".join(sorted(map(str, row))) or "none"
        raise errors.data(
          f"{where} has no text in column {question!r} (its columns are {columns});"
          " set --config.teacher.replay.question=COLUMN"
        )
      if rationale not in row:
        columns = ", ".join(sorted(map(str, row)))
        raise errors.data(
          f"{where} has no column {rationale!r} (its columns are {columns});"
          " set --config.teacher.replay.rationale=COLUMN"
        )
      if not isinstance(text, str) or not text.strip():
        continue
      for key in {_spaced(asked), _bare(asked)}:
        known = self._texts.setdefault(key, [])
        if text.strip() not in known:
          known.append(text.strip())


def _corrected(text: str) -> str:
  """A recorded rationale in the layout of a correction; its critique says that there is none."""
  laid_out = prompts.split_correction(text) is not None
  return text if laid_out else f"Mistake: (none recorded)\nReasoning:\n{text}"


def _spaced(question: str) -> str:
  return "exact " + " ".join(question.split())


def _bare(question: str) -> str:
  return "bare " + " ".join(_WORD.findall(question.lower()))
