"""A teacher that answers from recorded files, such as published rationale sets.

The files are read as they are; two columns are named. A question is found by its text without
regard to white space, or else by its words alone: published sets differ from the data they annotate
in a full stop or a kind of quotation mark. Of a multiple-choice question the words must either name
the choices too, in their order and behind whatever marks ("Q: ... Answer choices: A: ..., B: ..."),
or be those of the bare question. Our own rationales.jsonl works once a question is joined to each
line (columns question and text).
"""

import bisect
import json
import re
from collections.abc import Callable, Sequence

from distill_jax import errors
from distill_jax.data import sources
from distill_jax.teacher import types
from distill_jax.teacher.prompts import messages
from distill_jax.teacher.store import cache, ledger

RUN = "recorded"  # who "paid" for the replies; it is never the run itself

_WORD = re.compile(r"[^\W_]+")
_LABEL = re.compile(r"\s*(?:Q|Question) ?:", re.IGNORECASE)
_CHOICE = re.compile(r"\([A-Za-z0-9]{1,2}\) (.+)")  # a line that the task puts below its question
_RUN_ON = re.compile(r"\n[ \t]*\n[ \t]*(?:Q|Question) ?[0-9]{0,4} ?:", re.IGNORECASE)


class ReplayTeacher:
  """A Teacher that costs nothing. What it serves counts as cache hits in its ledger.

  path        recorded files, JSON or JSONL
  question    column with the question
  rationale   column with the text; a row without one is passed over. A text that runs on into a
              next question (a blank line, then "Q:") is cut there
  questions   "", or a file (JSON, JSONL) whose row n has the question, in column `question`, of row
              n of the recorded files, counted through all of them in their order; their rows may
              then be bare texts
  cache_path, run  as in client.Client: so that the ledger outlives the process
  """

  def __init__(
    self,
    *,
    path: Sequence[str],
    question: str,
    rationale: str,
    cache_path: str,
    run: str,
    questions: str = "",
  ):
    self._exact: dict[str, list[str]] = {}
    self._bare: dict[str, list[str]] = {}
    self._files = tuple(path)
    self._read(question, rationale, questions)
    self._sorted = sorted(self._bare)
    self._store = cache.ReplyCache(cache_path)
    self._run = run
    self.ledger = ledger.RunLedger(self._store, run)

  def recorded(self, question: str) -> tuple[str, ...]:
    """The different texts recorded for a question, in the files' order."""
    lines, choices = question.strip().split("\n"), []
    while len(lines) > 1 and (found := _CHOICE.fullmatch(lines[-1].strip())):
      choices.insert(0, _bare(found[1]))
      lines.pop()
    stem = "\n".join(lines)
    return tuple(
      self._exact.get(_spaced(question))
      or self._bare.get(_bare(question))
      or (choices and self._with_choices(_bare(stem), choices))
      or (choices and (self._exact.get(_spaced(stem)) or self._bare.get(_bare(stem))))
      or ()
    )

  def ask(
    self,
    requests: Sequence[types.Request],
    *,
    round: int,
    phase: str,
    temperature: float,
    on_progress: Callable[[types.Progress], None] | None,
  ) -> list[list[types.Reply | types.Failure]]:
    """See asking.Teacher. Sample k is text k; `correct` begins with the text numbered by the round.

    Beyond the recorded texts it begins again, so that `samples` are always there (and may repeat).
    A text for `correct` is put into the layout that is asked for, if it is not in it.
    """
    del temperature  # what is recorded is recorded
    place = cache.RunPhase(self._run, round, phase)
    total, done, failed = sum(request.samples for request in requests), 0, 0
    answers = []
    for request in requests:
      answers.append(self._answer(request, place))
      done += request.samples
      failed += sum(isinstance(answer, types.Failure) for answer in answers[-1])
      if on_progress is not None:
        on_progress(types.Progress(done, total, failed, retries=0, dollars=0.0))
    return answers

  def estimate(self, requests, *, round: int, phase: str, temperature: float) -> types.Estimate:
    """Nothing: what is recorded is paid for."""
    del round, phase, temperature
    return types.Estimate(stored=sum(request.samples for request in requests))

  def close(self) -> None:
    """Closes the ledger's file."""
    self._store.close()

  def _answer(self, request: types.Request, place) -> list[types.Reply | types.Failure]:
    texts = self.recorded(request.question)
    turn = request.first + (place.round if request.kind == "correct" else 0)
    asked = json.dumps({"recorded": request.question, "kind": request.kind, "texts": len(texts)})
    names = [cache.key(f"{asked} {turn}", sample) for sample in range(request.samples)]
    if texts:
      chosen = [texts[(turn + sample) % len(texts)] for sample in range(request.samples)]
      if request.kind == "correct":
        chosen = [_corrected(text) for text in chosen]
      made = [types.Reply(text, "stop", "recorded", 0, 0, 0.0, True) for text in chosen]
    else:
      why = f"no recorded rationale for this question in {', '.join(self._files)}"
      made = [types.Failure("unrecorded", why, 0)] * request.samples
    origin = place if not texts else cache.RunPhase(RUN, 0, "")
    self._store.record_asked(names, place)
    self._store.store(asked, dict(zip(enumerate(names), made, strict=True)), origin)
    return made

  def _with_choices(self, stem: str, choices: list[str]) -> list[str]:
    """The texts of the recorded question that begins with `stem` and goes on to name the
    choices."""
    start = f"{stem} "
    for place in range(bisect.bisect_left(self._sorted, start), len(self._sorted)):
      key = self._sorted[place]
      if not key.startswith(start):
        break
      if _goes_through(key[len(stem) :], choices):
        return self._bare[key]
    return []

  def _read(self, question: str, rationale: str, questions: str) -> None:
    kinds = (dict, str) if questions else (dict,)
    rows = [
      (f"{name}: row {number}", row)
      for name in self._files
      for number, row in enumerate(sources.read_rows(name, kinds=kinds), start=1)
    ]
    asking_rows = rows
    if questions:
      option = "teacher.replay.questions"
      asking_rows = [
        (f"{questions}: row {number}", row)
        for number, row in enumerate(sources.read_rows(questions, option=option), start=1)
      ]
      if len(asking_rows) != len(rows):
        raise errors.data(
          f"{questions}: {len(asking_rows)} questions for the {len(rows)} rows of"
          f" {', '.join(self._files)}; each row must have its question"
        )
    for (place, asked), (where, row) in zip(asking_rows, rows, strict=True):
      self._store_text(
        _column(asked, question, "question", place, str),
        row if isinstance(row, str) else _column(row, rationale, "rationale", where, object),
      )

  def _store_text(self, asked: str, text) -> None:
    text = _RUN_ON.split(text, 1)[0].strip() if isinstance(text, str) else ""
    if not text:
      return
    for index, key in ((self._exact, _spaced(asked)), (self._bare, _bare(asked))):
      known = index.setdefault(key, [])
      if text not in known:
        known.append(text)


def _column(row: dict, name: str, option: str, where: str, kind: type):
  if not isinstance(row.get(name), kind) or name not in row:
    columns = ", ".join(sorted(map(str, row))) or "none"
    raise errors.data(
      f"{where} has no {'text in ' * (kind is str)}column {name!r} (its columns are {columns});"
      f" set --config.teacher.replay.{option}=COLUMN"
    )
  return row[name]


def _goes_through(words: str, choices: list[str]) -> bool:
  """Whether the words of all choices stand there in their order, with whatever between them."""
  words, place = f"{words} ", 0
  for choice in filter(None, choices):
    place = words.find(f" {choice} ", place)
    if place < 0:
      return False
    place += len(choice) + 1
  return True


def _corrected(text: str) -> str:
  """A recorded rationale in the layout of a correction; its critique says that there is none."""
  laid_out = messages.split_correction(text) is not None
  return text if laid_out else f"Mistake: (none recorded)\nReasoning:\n{text}"


def _spaced(question: str) -> str:
  return " ".join(question.split())


def _bare(question: str) -> str:
  """The words alone, without a "Q:" in front of them."""
  label = _LABEL.match(question)
  return " ".join(_WORD.findall(question[label.end() if label else 0 :].lower()))
