"""Kinds of the answers in your own file, and how each answer becomes a gold answer."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from distill_jax import thinking
from distill_jax.tasks import answers, expressions, statements, texts
from distill_jax.tasks.numbers import IRRATIONAL, NUMBER, canonical_number, normalize

KINDS = ("number", "choice", "boolean", "expression", "text")
MOST = 0.9  # share of the answers that must be of a kind for it to be guessed

_BOOLEANS = {"yes": "yes", "true": "yes", "y": "yes", "1": "yes"}
_BOOLEANS |= {"no": "no", "false": "no", "n": "no", "0": "no"}
_LATEX = re.compile(r"\\[a-zA-Z]{2,}|\^|\$[^$\s]|_\{|(?<=[0-9a-z)])[*/+](?=[a-z(])")
_CALCULATOR = re.compile(r"<<[^<>\n]{0,400}>>")
# What may stand before a number that is an answer alone: a sign, a currency, "about", "x =".
_BEFORE = re.compile(
  r".{0,2}|(?:usd|eur|gbp|inr|jpy|cny|chf|rs|rs\.|us\$|about|around|roughly|approx\.?|approximately"
  r"|exactly|answer:|[a-z] ?=) ?\$?",
  re.DOTALL,
)
# A unit with a power: m2, km^2, ft³, s^{-1}. The letter of an algebraic term (2x^2) is none.
_POWER_OF_UNIT = re.compile(
  r"(?:(?<=[ /])[msh]|[ckmd]m|ft|in|yd|mi|units?|met(?:er|re)s?|inches|feet|CO)"
  r"(?:\^?\{?-?[0-9]\}?|[²³])(?![0-9.,])"
)
_POSITION = re.compile(r"[0-9]{1,2}")
_LABEL = re.compile(r"\(?([A-Za-z0-9]{1,2})(?:[).:]\s.{0,2000}|\)?\.?)", re.DOTALL)


class Gold(NamedTuple):
  """A gold answer.

  Attributes:
    answer: In the form that the task's reader returns; of an expression as published.
    accepted: Further accepted answers, of kind text.
    rationale: A rationale that the answer column holds as well, ending in its answer.
  """

  answer: str
  accepted: tuple[str, ...] = ()
  rationale: str = ""


class Raw(NamedTuple):
  """A row's answer and options as they are in the file."""

  answer: Any
  choices: Sequence[tuple[str, str]] = ()


def guess_kind(rows: Sequence[Raw]) -> str:
  """The kind of most of the answers."""
  rows = [row for row in rows if row.answer not in (None, "", [])]
  if any(len(row.choices) > 1 for row in rows):
    return "choice"
  for kind in ("number", "boolean"):  # 0 and 1 are numbers
    if sum(gold(kind, row) is not None for row in rows) >= MOST * len(rows):
      return kind
  written = [str(row.answer) for row in rows]
  boxed = sum(statements.BOX.search(text) is not None for text in written)
  mathematical = sum(_LATEX.search(text) is not None and len(text) < 300 for text in written)
  if boxed >= MOST * len(rows) or mathematical >= 0.2 * len(rows):
    if sum(gold("expression", row) is not None for row in rows) >= MOST * len(rows):
      return "expression"
  return "text"


def index_base(rows: Sequence[Raw]) -> int:
  """Whether options given by number are counted from 0 or from 1."""
  numbers = [
    (int(str(row.answer)), len(row.choices))
    for row in rows
    if not isinstance(row.answer, bool) and _POSITION.fullmatch(str(row.answer).strip())
  ]
  return int(bool(numbers) and all(n > 0 for n, _ in numbers) and any(n == m for n, m in numbers))


def are_positions(rows: Sequence[Raw], base: int) -> bool:
  """Whether all answers are numbers of options, and some answer is no option's text in its row."""
  rows = [row for row in rows if row.answer not in (None, "", []) and row.choices]
  if not all(_is_position(row, base) for row in rows):
    return False
  written = [(str(row.answer).strip(), [text.strip() for _, text in row.choices]) for row in rows]
  return any(answer not in options for answer, options in written)


def _is_position(row: Raw, base: int) -> bool:
  written = "" if isinstance(row.answer, bool) else str(row.answer).strip()
  is_number = _POSITION.fullmatch(written) is not None
  return is_number and 0 <= int(written) - base < len(row.choices)


def gold(kind: str, row: Raw, *, base: int = 0, positions: bool = False) -> Gold | None:
  """The gold answer of a row; None if its answer is not of this kind.

  Args:
    kind: One of KINDS.
    row: The answer, and the options of a choice with their final labels.
    base: The number of the first option, where options are given by number.
    positions: Whether the answers of the column are numbers of options, whatever their texts are.
  """
  answer = row.answer
  if isinstance(answer, dict):
    names = ("text", "value", "answer", "final")
    answer = next((answer[name] for name in names if answer.get(name) is not None), None)
  if isinstance(answer, list) and kind != "text":
    answer = answer[0] if len(answer) == 1 else None
  if answer is None or (isinstance(answer, str) and not answer.strip()):
    return None
  if kind == "number":
    return _number(answer)
  if kind == "boolean":
    return _boolean(answer)
  if kind == "choice":
    if positions and _is_position(row, base):
      return Gold(row.choices[int(str(answer)) - base][0])
    return _choice(answer, row.choices, base)
  if kind == "expression":
    return _expression(str(answer).strip())
  return _text(answer)


def _number(answer: Any) -> Gold | None:
  if isinstance(answer, bool):
    return None
  written = str(answer).strip()
  solution, mark, stated = written.rpartition("####")
  if mark:
    number = canonical_number(stated)
    return Gold(number, rationale=ending(_CALCULATOR.sub("", solution), number)) if number else None
  plain = normalize(written)
  match = NUMBER.search(plain)
  if match and _BEFORE.fullmatch(plain[: match.start()].lower()):
    unit = _POWER_OF_UNIT.sub("unit", plain[match.end() :])
    if len(unit.split()) <= 3:
      is_more = any(map(str.isdigit, unit)) or IRRATIONAL.match(unit)
      number = None if is_more else canonical_number(written)
      return Gold(number) if number else None
  number = answers.read_number(written, last_number=False)
  return Gold(number, rationale=ending(written, number)) if number else None


def _boolean(answer: Any) -> Gold | None:
  if isinstance(answer, bool):
    return Gold("yes" if answer else "no")
  written = str(answer).strip()
  found = _BOOLEANS.get(written.rstrip(".").lower())
  if found is None and len(written) > 20:
    found = answers.read_boolean(written, last_word=False)
    return Gold(found, rationale=ending(written, found)) if found else None
  return Gold(found) if found else None


def _choice(answer: Any, choices: Sequence[tuple[str, str]], base: int) -> Gold | None:
  written = str(answer).strip()
  labels = [label for label, _ in choices]
  label = _LABEL.fullmatch(written)
  if label and label[1].upper() in labels and not isinstance(answer, int):
    return Gold(label[1].upper())
  for plain in (str.strip, texts.normalize):  # "-5" is the option "-5" rather than "5"
    named = [label for label, text in choices if plain(written) and plain(text) == plain(written)]
    if named:
      return Gold(named[0]) if len(named) == 1 else None
  if re.fullmatch(r"[0-9]{1,2}", written) and 0 <= int(written) - base < len(choices):
    return Gold(labels[int(written) - base])
  option_texts = tuple(text for _, text in choices)
  found = answers.read_choice(written, tuple(labels), option_texts, last_label=False)
  return Gold(found, rationale=ending(written, found)) if found else None


def _expression(written: str) -> Gold | None:
  if box := statements.last_match(statements.BOX, written):
    stated = statements.box_contents(written[box.end() : box.end() + statements.LONGEST_LINE])
    is_alone = box.start() <= 1 and len(written) - box.end() - len(stated) <= 2
    if not expressions.normalize(stated):
      return None
    return Gold(stated, rationale="" if is_alone else ending(written, stated))
  return Gold(written) if expressions.normalize(written) else None


def _text(answer: Any) -> Gold | None:
  listed = answer if isinstance(answer, list) else [answer]
  written = list(dict.fromkeys(str(one).strip() for one in listed if one is not None))
  written = [one for one in written if texts.normalize(one)]
  return Gold(written[0], accepted=tuple(written[1:])) if written else None


def ending(rationale: str, answer: str) -> str:
  """A rationale without drafts and blank lines, with an answer line at its end; "" if empty."""
  rationale = thinking.split(rationale).text
  lines = [line.strip() for line in rationale.splitlines() if line.strip()]
  return "\n".join([*lines, f"Answer: {answer}"]) if lines else ""
