"""What happened to each question over the rounds, packed for the browser of the page.

A question is an entry: its texts in the order of the run (attempt, critique, new rationale, attempt
of the next round, ...). Entries are packed into compressed parts that the page inflates on demand;
an index, which the page reads at once, says which outcome each question had in each round.
"""

import base64
import dataclasses
import json
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from distill_jax import records
from distill_jax.report.load import Phase, Run
from distill_jax.report.nodes import visible

PART = 500  # questions in a part
MAX_BYTES = 18_000_000  # of all parts in base64
LONGEST = 20_000  # characters of a text
# Bits of an outcome, one hexadecimal digit per place.
SEEN, RIGHT, CUT, UNREAD = 1, 2, 4, 8
Event = tuple[str, str, str]  # (kind, label, text); kinds: right, wrong, critique, rationale


@dataclasses.dataclass(frozen=True)
class Packed:
  """The questions of a run for the browser.

  Attributes:
    places: Where attempts were made, in order: ("exam", 0), ("evaluate", 1), ("test", -1), ...
    index: Compressed JSON of [id, split, outcomes] for each question, in the order of the parts.
    parts: Compressed JSON of `PART` entries each.
    kept: Questions in the parts.
    total: Questions with attempts or rationales.
  """

  places: list[tuple[str, int]]
  index: str
  parts: list[str]
  kept: int
  total: int


def pack(run: Run, *, max_bytes: int = MAX_BYTES) -> Packed:
  """Packs the questions of a run; beyond `max_bytes`, only those whose outcome changed."""
  history = History(run)
  ids = [q for q in run.questions if q in history.outcomes or q in history.rationales]
  parts = _parts(history, ids, max_bytes)
  kept = ids
  if parts is None:
    kept = [q for q in ids if is_flip(history.outcome(q))]
    while (parts := _parts(history, kept, max_bytes)) is None:
      kept = kept[: len(kept) * 2 // 3]
  index = [[visible(q), run.questions[q].split, history.outcome(q)] for q in kept]
  return Packed(history.places, compress(index), parts, len(kept), len(ids))


def _parts(history: "History", ids: list[str], max_bytes: int) -> list[str] | None:
  """Returns the compressed parts; None if they are larger than `max_bytes`."""
  parts: list[str] = []
  size = 0
  for start in range(0, len(ids), PART):
    parts.append(compress([history.entry(q) for q in ids[start : start + PART]]))
    size += len(parts[-1])
    if size > max_bytes:
      return None
  return parts


def compress(value: Any) -> str:
  """Returns JSON, deflated, in base64."""
  content = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
  return base64.b64encode(zlib.compress(content, 9)).decode("ascii")


def is_flip(outcome: str) -> bool:
  """Whether a question was right in one place and wrong in another."""
  seen = [int(code, 16) for code in outcome if code != "0"]
  return len({bool(code & RIGHT) for code in seen}) > 1


class History:
  """The attempts and rationales of each question.

  Attributes:
    places: See `Packed`.
    outcomes: {question: {place: bits}}.
    rationales: {question: {round: rationales}}.
  """

  def __init__(self, run: Run):
    self._questions = run.questions
    self.places: list[tuple[str, int]] = []
    self.outcomes: dict[str, dict[int, int]] = {}
    self.rationales: dict[str, dict[int, list[records.Rationale]]] = {}
    self._attempts: dict[str, dict[int, list[records.Attempt]]] = {}
    for index, phases in run.rounds.items():
      for phase in phases:
        if phase.attempts:
          self._add(phase, index)
        for rationale in phase.rationales:
          rounds = self.rationales.setdefault(rationale.problem, {})
          rounds.setdefault(index, []).append(rationale)
    for phase in run.finals.values():
      if phase.attempts:
        self._add(phase, -1)

  def _add(self, phase: Phase, index: int) -> None:
    """Adds the attempts of a phase, which become a place."""
    place = len(self.places)
    self.places.append((phase.name, index))
    by_question: dict[str, list[records.Attempt]] = {}
    for attempt in phase.attempts:
      by_question.setdefault(attempt.problem, []).append(attempt)
    for question, attempts in by_question.items():
      self._attempts.setdefault(question, {})[place] = attempts
      right = 2 * sum(a.correct for a in attempts) >= len(attempts)
      bits = SEEN | (RIGHT if phase.verdicts.get(question, right) else 0)
      bits |= CUT if any(a.finish != "stop" for a in attempts) else 0
      bits |= UNREAD if any(a.answer is None for a in attempts) else 0
      self.outcomes.setdefault(question, {})[place] = bits

  def outcome(self, question: str) -> str:
    """Returns the outcome of a question: a hexadecimal digit per place, 0 if it was not asked."""
    found = self.outcomes.get(question, {})
    return "".join(f"{found.get(place, 0):x}" for place in range(len(self.places)))

  def entry(self, question: str) -> list[Any]:
    """Returns [id, split, question, gold, events] of a question; all texts are visible."""
    known = self._questions[question]
    events = [[kind, label, _shown(text)] for kind, label, text in self._events(question)]
    return [visible(question), known.split, _shown(records.rendered(known)), _shown(known.gold),
            events]  # fmt: skip

  def _events(self, question: str) -> Iterator[Event]:
    """Yields what happened to a question, in the order of the run."""
    attempts = self._attempts.get(question, {})
    written = dict(self.rationales.get(question, {}))
    for place, (name, index) in enumerate(self.places):
      if name != "exam" and index in written:  # a round's rationales come after its exam
        yield from _rationales(index, written.pop(index), ())
      if place in attempts:
        label = name.replace("_", " ") if index < 0 else f"round {index} {name}"
        yield from _attempts(label, attempts[place])
        if name == "exam" and index in written:
          yield from _rationales(index, written.pop(index), attempts[place])
    for index, rationales in written.items():
      yield from _rationales(index, rationales, ())


def _attempts(label: str, attempts: Iterable[records.Attempt]) -> Iterator[Event]:
  """Yields attempts; those with the same text become one."""
  groups: dict[tuple[str, str, str, bool, str, str | None], int] = {}
  for a in attempts:
    key = (a.text, a.style, a.stage, a.correct, a.finish, a.answer)
    groups[key] = groups.get(key, 0) + 1
  for (text, style, stage, correct, finish, answer), count in groups.items():
    facts = [label, style, stage, f"answer {answer}" if answer is not None else "no answer read"]
    facts += ["cut" if finish != "stop" else "", f"{count} times" if count > 1 else ""]
    yield "right" if correct else "wrong", ", ".join(filter(None, facts)), text


def _rationales(
  index: int, rationales: Iterable[records.Rationale], attempts: Iterable[records.Attempt]
) -> Iterator[Event]:
  """Yields critiques and rationales; the attempt they correct is shown if it is not an attempt."""
  shown = {a.text for a in attempts}
  for r in rationales:
    if r.corrects and r.corrects not in shown:
      yield "wrong", f"round {index}, attempt that was corrected", r.corrects
    if r.critique:
      yield "critique", f"round {index}, critique by {r.writer}", r.critique
    yield "rationale", f"round {index}, rationale by {r.writer}", r.text


def _shown(text: str) -> str:
  cut = text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,} characters)"
  return visible(cut)
