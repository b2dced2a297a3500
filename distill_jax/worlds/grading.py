"""Grades an attempt at a taxonomy question: where it first claims something false, and what."""

import functools
import re

from distill_jax.worlds import lore, queries, tellings

LONGEST_ATTEMPT = 20_000  # characters
# The start of an option's line: "(A)", "A.".
_START = re.compile(r"^[ \t*]{0,9}\(?([A-Ea-e])[).:]", re.MULTILINE)
# "Answer: B", "the answer is (B)".
_ANSWER = re.compile(r"\banswer[*_ ]{0,4}(?::|is)[*_ ]{0,4}\(?([A-E])\b", re.I)
_YES = "|".join(style.yes for style in tellings.STYLES)
_NO = "|".join(style.no for style in tellings.STYLES)
_VERDICT = re.compile(rf"\b(?:(?P<yes>{_YES})|{_NO})\b", re.I)
# The kinds of word that fill {0}, {1}, ... in the phrase of a link.
_ARGUMENTS = {
  "is": ("kind", "group"), "like": ("group", "property", "property"),
  "who": ("property", "group", "group"), "but": ("kind", "property", "property"),
  "eats": ("kind", "kind"), "can": ("property", "ability"),
}  # fmt: skip


def first_wrong_step(
  known: lore.Lore, query: queries.Query, attempt: str
) -> tuple[int, str] | None:
  """Returns (number of the first wrong step, from 1; what is wrong), or None if all is right.

  The steps are what the options share, each option, and the answer line. Claims in the words of any
  style are read. A step is wrong if it makes a false claim, or if its verdict is wrong or missing.
  """
  attempt = attempt[:LONGEST_ATTEMPT]
  answer = _ANSWER.search(attempt)
  body = attempt[: answer.start()] if answer else attempt
  starts = list(_START.finditer(body))
  if why := _false_claim(known, body[: starts[0].start()] if starts else body):
    return 1, why
  ends = [*(start.start() for start in starts), len(body)][1:]
  parts = {
    start[1].upper(): body[start.end() : end] for start, end in zip(starts, ends, strict=True)
  }
  for number, (label, option) in enumerate(
    zip(queries.LABELS, query.options, strict=False), start=2
  ):
    if why := _wrong_part(known, query, label, option, parts):
      return number, why
  return _answer_line(known, query, attempt)


def _answer_line(known: lore.Lore, query: queries.Query, attempt: str) -> tuple[int, str] | None:
  number, right = 2 + len(query.options), queries.answer(known, query)
  stated = _ANSWER.findall(attempt)
  if not stated:
    return number, f'the last line, "Answer: {right}", is missing'
  if stated[-1].upper() != right:
    return number, f"only ({right}) fits, so the answer is not {stated[-1].upper()}"
  return None


def _wrong_part(
  known: lore.Lore, query: queries.Query, label: str, option: str, parts: dict[str, str]
) -> str | None:
  """What is wrong with the line of an option, or None."""
  should = tellings.STYLES[0].line(queries.chain(known, query, option))
  should = f"({label}) should say: {should[:-1]}"
  if label not in parts:
    return f"option ({label}) is not judged; {should}"
  text = parts[label]
  if why := _false_claim(known, text):
    return f"{why}; {should}"
  verdicts = [bool(match["yes"]) for match in _VERDICT.finditer(text)]
  if not verdicts or any(verdicts) != queries.fits(known, query.form, query.subject, option):
    return f"the verdict on ({label}) is {'wrong' if verdicts else 'missing'}; {should}"
  about = {option, query.subject}
  if query.form.eaten or query.form.name == "food":
    about |= {known.food[kind] for kind in about if kind in known.food}
  words = re.findall("[a-z]+", text.lower())
  if strange := [word for word in words if word in set(known.kinds) - about]:
    return f"({label}) is not about {strange[0]}; {should}"
  if option not in words:
    return f"({label}) is about {option}; {should}"
  return None


def _false_claim(known: lore.Lore, text: str) -> str | None:
  """The first false claim of a text, or None."""
  for link in claims(known, text):
    if not _holds(known, link):
      claim = tellings.STYLES[0].phrase(link).removeprefix("but ")
      return f'it is not so that "{claim}"'
  return None


def claims(known: lore.Lore, text: str) -> list[queries.Link]:
  """The links that a text claims, in order."""
  links = []
  for name, pattern in _patterns(known.kinds):
    for match in pattern.finditer(text):
      words = [match[f"x{n}"].lower() for n in range(pattern.groups)]
      links.append((match.start(), (name, *words)))
  return [link for _, link in sorted(links, key=lambda pair: pair[0])]


@functools.lru_cache(maxsize=8)
def _patterns(kinds: tuple[str, ...]) -> tuple[tuple[str, re.Pattern], ...]:
  """(name of the link, pattern of its phrase) for every style."""
  words = {"kind": kinds, "group": lore.GROUPS, "property": lore.PROPERTIES}
  words["ability"] = tuple(lore.ABILITIES.values())
  patterns = []
  for style in tellings.STYLES:
    for name, arguments in _ARGUMENTS.items():
      gaps = [f"(?P<x{n}>{'|'.join(words[role])})" for n, role in enumerate(arguments)]
      pattern = re.compile(rf"\b{style.phrases[name].format(*gaps)}\b", re.I)
      patterns.append((name, pattern))
  return tuple(patterns)


def _holds(known: lore.Lore, link: queries.Link) -> bool:
  """Whether a link is true."""
  name, one, *others = link
  if name == "is":
    return [known.group[one]] == others
  if name == "eats":
    return [known.food[one]] == others
  if name == "can":
    return [lore.ABILITIES[one]] == others
  if name == "who":
    return set(others) == {group for group in lore.GROUPS if one in known.rules[group]}
  return set(others) == set(known.rules[one] if name == "like" else known.nature(one))
