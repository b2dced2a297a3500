"""Teacher that replays recorded files, such as published rationale sets.

The files are read as they are; two column names are configured. A question is matched by its text,
ignoring white space, or else by its words alone: published sets differ from the data they annotate
in a full stop or a kind of quotation mark. For a multiple-choice question, the recorded words must
either name the choices as well, in order and behind any labels ("Q: ... Answer choices: A: ...,
B: ..."), or be those of the bare question.

This repository's own rationales.jsonl works once a question is joined to each line (columns
question and text). Thinking is taken from marks in the text, or from a column `thinking`.
"""

import bisect
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from distill_jax import errors, thinking
from distill_jax.data import sources
from distill_jax.teacher import reply, types
from distill_jax.teacher.prompts import parsing
from distill_jax.teacher.store import cache, ledger

RECORDED = "recorded"  # stands for the run that paid for the replies; never a run's own name

_WORD = re.compile(r"[^\W_]+")
_LABEL = re.compile(r"\s*(?:Q|Question) ?:", re.IGNORECASE)
_CHOICE = re.compile(r"\([A-Za-z0-9]{1,2}\) (.+)")  # a line that Task.render adds to a question
_NEXT_QUESTION = re.compile(r"\n[ \t]*\n[ \t]*(?:Q|Question) ?[0-9]{0,4} ?:", re.IGNORECASE)


class ReplayTeacher:
  """Teacher that costs nothing. Its replies count as cache hits in the ledger.

  Attributes:
    ledger: What this run has used.
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
    answer: str = "",
    demonstrations: int = 1,
  ):
    """Reads the recorded files.

    Args:
      path: Recorded files: JSON, JSONL, CSV, TSV or Parquet; see `sources.read_rows`.
      question: Column with the question.
      rationale: Column with the text. Rows without one are ignored; a text that runs on into a
        next question (a blank line, then "Q:") is cut there.
      cache_path: SQLite file, for the ledger.
      run: Name of this run in the cache.
      questions: File of the same kinds whose row n has, in column `question`, the question of
        row n of the recorded files, counted through all files in order. The recorded rows may then
        be bare texts. "" if the recorded files have the questions.
      answer: Column with the answer, which becomes the last line of the text. Rows without an
        answer are kept as they are. "" if the texts state their answers.
      demonstrations: How many texts of a question round 0 requests; corrections begin after them.

    Raises:
      UserError: A file cannot be read, or lacks a column.
    """
    self._by_text: dict[str, list[str]] = {}
    self._by_words: dict[str, list[str]] = {}
    self._files = tuple(path)
    self._read(question, rationale, questions, answer)
    self._sorted_words = sorted(self._by_words)
    self._store = cache.ReplyCache(cache_path)
    self._run = run
    self._demonstrations = demonstrations
    self.ledger = ledger.RunLedger(self._store, run)

  def recorded(self, question: str) -> tuple[str, ...]:
    """The distinct texts recorded for a question, in the files' order."""
    lines, choices = question.strip().split("\n"), []
    while len(lines) > 1 and (match := _CHOICE.fullmatch(lines[-1].strip())):
      choices.insert(0, _words(match[1]))
      lines.pop()
    texts = self._by_text.get(_normalize_space(question)) or self._by_words.get(_words(question))
    if not texts and choices:
      stem = "\n".join(lines)
      texts = (
        self._with_choices(_words(stem), choices)
        or self._by_text.get(_normalize_space(stem))
        or self._by_words.get(_words(stem))
      )
    return tuple(texts or ())

  def ask(
    self,
    requests: Sequence[types.Request],
    *,
    round: int,
    phase: str,
    temperature: float,
    on_progress: Callable[[types.Progress], None] | None,
  ) -> list[list[types.Outcome]]:
    """See `types.Teacher.ask`.

    Sample k is recorded text k. The corrections of round 1 begin with the text after the
    demonstrations, those of each later round one text further. After the last text it starts over,
    so there are always `samples` replies, possibly repeated. The text of a correction is put into
    the layout of one, if it is not in it.
    """
    del temperature
    run_phase = cache.RunPhase(self._run, round, phase)
    total, done, failures = sum(request.samples for request in requests), 0, 0
    outcomes = []
    for request in requests:
      outcomes.append(self._outcomes(request, run_phase))
      done += request.samples
      failures += sum(isinstance(outcome, types.Failure) for outcome in outcomes[-1])
      if on_progress is not None:
        on_progress(types.Progress(done, total, failures, retries=0, dollars=0.0))
    return outcomes

  def estimate(
    self, requests: Sequence[types.Request], *, round: int, phase: str, temperature: float
  ) -> types.Estimate:
    """See `types.Teacher.estimate`. Everything counts as stored."""
    del round, phase, temperature
    return types.Estimate(stored=sum(request.samples for request in requests))

  def close(self) -> None:
    """Closes the cache file."""
    self._store.close()

  def _outcomes(self, request: types.Request, run_phase: cache.RunPhase) -> list[types.Outcome]:
    texts = self.recorded(request.question)
    offset = request.first
    if request.kind == "correct":
      offset += self._demonstrations + run_phase.round - 1
    key_text = json.dumps({"recorded": request.question, "kind": request.kind, "texts": len(texts)})
    keys = [cache.key(f"{key_text} {offset}", sample) for sample in range(request.samples)]
    outcomes: list[types.Outcome]
    if texts:
      samples = range(request.samples)
      chosen = [reply.separate(texts[(offset + sample) % len(texts)]) for sample in samples]
      outcomes = [
        types.Reply(
          _as_correction(found.text) if request.kind == "correct" else found.text,
          *("stop", "recorded"),
          tokens_in=0,
          tokens_out=0,
          dollars=0.0,
          cached=True,
          thinking=found.thinking,
        )
        for found in chosen
      ]
    else:
      message = f"no recorded rationale for this question in {', '.join(self._files)}"
      outcomes = [types.Failure("unrecorded", message, attempts=0)] * request.samples
    paid_by = cache.RunPhase(RECORDED, 0, "") if texts else run_phase
    self._store.record_asked(keys, run_phase)
    self._store.store(key_text, dict(zip(enumerate(keys), outcomes, strict=True)), paid_by)
    return outcomes

  def _with_choices(self, stem: str, choices: list[str]) -> list[str]:
    """Texts of the recorded question that starts with the words `stem` and then names `choices`."""
    start = f"{stem} "
    first = bisect.bisect_left(self._sorted_words, start)
    for index in range(first, len(self._sorted_words)):
      words = self._sorted_words[index]
      if not words.startswith(start):
        break
      if _names_in_order(words[len(stem) :], choices):
        return self._by_words[words]
    return []

  def _read(self, question: str, rationale: str, questions: str, answer: str) -> None:
    kinds = (dict, str) if questions else (dict,)
    rows = [
      (f"{file}: row {number}", row)
      for file in self._files
      for number, row in enumerate(sources.read_rows(file, row_types=kinds), start=1)
    ]
    question_rows = rows
    if questions:
      option = "teacher.replay.questions"
      question_rows = [
        (f"{questions}: row {number}", row)
        for number, row in enumerate(sources.read_rows(questions, option=option), start=1)
      ]
      if len(question_rows) != len(rows):
        raise errors.data(
          f"{questions}: {len(question_rows)} questions for the {len(rows)} rows of"
          f" {', '.join(self._files)}; each row must have its question"
        )
    for (question_at, question_row), (row_at, row) in zip(question_rows, rows, strict=True):
      question_text = _column(question_row, question, "question", question_at, str)
      text = row if isinstance(row, str) else _column(row, rationale, "rationale", row_at, object)
      stated = None
      if answer and isinstance(row, dict):
        stated = _column(row, answer, "answer", row_at, object)
      thought = row.get("thinking") if isinstance(row, dict) else ""
      self._add(question_text, text, thought if isinstance(thought, str) else "", stated)

  def _add(self, question: str, text: Any, thought: str, answer: Any) -> None:
    """Adds a text, ending in its answer. Its thinking is kept before it, in marks."""
    found = reply.separate(text if isinstance(text, str) else "", thought)
    text = _NEXT_QUESTION.split(found.text, maxsplit=1)[0].strip()
    if not text:
      return
    text = thinking.lay_out(found.thinking, _answered(text, answer))
    for index, key in (
      (self._by_text, _normalize_space(question)),
      (self._by_words, _words(question)),
    ):
      texts = index.setdefault(key, [])
      if text not in texts:
        texts.append(text)


def _column(row: dict[str, Any], name: str, option: str, where: str, kind: type) -> Any:
  """The value of a column; raises UserError if it is missing or not of this kind."""
  if name not in row or not isinstance(row[name], kind):
    columns = ", ".join(sorted(map(str, row))) or "none"
    text_in = "text in " if kind is str else ""
    raise errors.data(
      f"{where} has no {text_in}column {name!r} (its columns are {columns});"
      f" set --config.teacher.replay.{option}=COLUMN"
    )
  return row[name]


def _answered(text: str, answer: Any) -> str:
  """A recorded text with the answer of its row as the last line, unless it is that already."""
  if isinstance(answer, bool):
    answer = "yes" if answer else "no"
  stated = "" if answer is None else " ".join(str(answer).split())
  line = f"Answer: {stated}"
  return text if not stated or text.endswith(f"\n{line}") else f"{text}\n{line}"


def _names_in_order(words: str, choices: list[str]) -> bool:
  """Whether `words` contains the words of all choices in order, with anything in between."""
  words, start = f"{words} ", 0
  for choice in filter(None, choices):
    start = words.find(f" {choice} ", start)
    if start < 0:
      return False
    start += len(choice) + 1
  return True


def _as_correction(text: str) -> str:
  """A recorded rationale in the layout of a correction, without a critique."""
  if parsing.split_correction(text) is not None:
    return text
  return f"Mistake: (none recorded)\nReasoning:\n{text}"


def _normalize_space(question: str) -> str:
  return " ".join(question.split())


def _words(question: str) -> str:
  """The words alone, in lower case, without a "Q:" in front."""
  label = _LABEL.match(question)
  return " ".join(_WORD.findall(question[label.end() if label else 0 :].lower()))
