"""Reads a number from the unchecked text of a teacher or a student, as a person would read it.

Numbers are exact fractions, and nothing is ever evaluated as code. The released reader of Wang et
al. 2023 takes the first number after "Answer" and compares strings; `read_number` and
`same_number` fix what that gets wrong. The readers of other answers stand in modules of their own.
"""

import re

from distill_jax.tasks import statements
from distill_jax.tasks.booleans import read_boolean as read_boolean
from distill_jax.tasks.labels import read_choice as read_choice
from distill_jax.tasks.numbers import (
  IRRATIONAL,
  NUMBER,
  canonical,
  normalize,
  value,
  words_to_digits,
)
from distill_jax.tasks.numbers import canonical_number as canonical_number
from distill_jax.tasks.numbers import same_number as same_number

# A line "A: 7" states a number, too; to the other readers it is a label.
_SHORT_LABEL = re.compile(r"^A ?: *(?=[-$€£¥₹(.]{0,2}[0-9])", re.MULTILINE)
_NEXT_LABEL = re.compile(r"^B ?:", re.MULTILINE)  # A and B are names of a story, or of parts
# A number at the beginning of what a marker announces, after words that say nothing.
_AT_START = re.compile(
  r"[\s\"'$€£¥₹#(\[*_{:+]*+(?:(?:x|y|n|is|either|both|a total of|about|approximately|approx\.?"
  r"|around|roughly|exactly|only|just|equal to|therefore|thus|simply|also|rs\.?|usd)[ =:$€£(]++)*+",
  re.IGNORECASE,
)
# "minus 7" and "- 7" at the beginning; a list's "- 7" is on a line of its own.
_MINUS = re.compile(r"[\s$]*(?:minus |[-—] ?)(?=[$€£¥₹]?\.?[0-9])", re.IGNORECASE)
_LIST_NUMBER = re.compile(r"[0-9]{1,2}[.)] +(?=[^\n]*[0-9A-Za-z])|[-*•] +")
_EQUALS = re.compile(r"=|≈|≃|≅|\\approx|\\simeq|\\thickapprox")
# The end of a stated number's clause: a semicolon, an opening parenthesis that is not part of an
# expression, the end of a sentence, or a word that begins a reason.
_REASON = re.compile(
  r";|(?<![-+*×÷/=x(])(?<![-+*×÷/=x(] )\(|[.!?](?=\s|$)|\b(?:because|since|where|when|which|as)\b",
  re.IGNORECASE,
)
# An operator and a second operand after a number: an expression that is not worked out ("3 + 4"). A
# unit may stand between them ("3 apples + 4").
_OPERATOR = re.compile(
  r"[^\n=0-9]{0,20}?[ )](?:[-+*×÷/]|x|\\times|\\cdot|\\div)[ (]{0,3}[$€£¥₹]?[0-9]"
  r"|[-+*×÷](?=[ (]{0,3}[$€£¥₹]?[0-9])|[a-zA-Z]?[+*^] ?[0-9a-zA-Z(\\]"
  rf"|{IRRATIONAL.pattern}"
)
_OPERAND = re.compile(r"[0-9A-Za-z)}] ?[-+*/^×÷] ?$")  # before a number: "x+"
# A second number that makes the answer unclear: "5 to 7", "7 or 8", "1, 2 and 3", "1 hour and 30
# minutes".
_SECOND = re.compile(
  r"(?: [A-Za-z°%]{1,20}){0,2},? (?:or|and) (?:about )?[-$€£]{0,2}[0-9]"
  r"|%? (?:to|through|versus|vs\.?) [-$€£]{0,2}[0-9]|, ?[-$€£]{0,2}[0-9]+(?=,|\.? *$| (?:and|or) )"
)
# At the beginning of a formula that is no number: \sqrt{2}, \frac{\pi}{4}, ±5, \{2, 3\}.
_NO_NUMBER = re.compile(
  r"-? ?(?:\\(?:sqrt|[dt]?frac|binom|log|ln|pm|mp)(?![A-Za-z])|[√±∓]|\\\{ ?-?[0-9.]{1,60} ?,)"
)
_IN_BRACKETS = re.compile(r"[(\[] ?$")
_NEXT_MEMBER = re.compile(r" ?, ?[-+]?[$]?[0-9.\\(]")
_FACTOR = re.compile(r"[abnxyz]{1,3}(?![A-Za-z])|!(?!\S)|!$")  # after a number in a box: 3x, 5!
_BETWEEN = re.compile(r"[^0-9]{0,20}\bbetween\b", re.IGNORECASE)
_ONE_OF = re.compile(r"1 of\b")
_UNKNOWN = re.compile(
  r"\b(?:unknown|undetermined|undefined|unclear|impossible|cannot|can't|not enough|insufficient)\b",
  re.IGNORECASE,
)
# What stands before a number that is not the answer of its sentence: "in 2 weeks", "the 3 boys",
# "on day 3", "each of the 4".
_ASIDE = re.compile(
  r"\b(?:in|on|after|for|at|by|during|within|over|from|with|per|than|before|until|if|every|each"
  r"|the|these|those|all|both|his|her|their|my|our|its|first|last|next|other|another|selling|using"
  r"|(?:out|each|one|some|all|most|any|none|half|third|quarter|percent|%|times) of(?: the)?"
  r"|day|step|week|grade|room|year|page|number|level|chapter|question|part|case|age|number of)"
  r" (?:about |only |exactly )?[$€£¥₹#(]{0,2}$",
  re.IGNORECASE,
)
# What stands before a number that is: a verb, with words of degree between.
_VERB = re.compile(
  r"(?:\b(?:is|are|was|were|be|been|equals?|makes?|made|gives?|gave|leaves?|left|has|have|had|gets?"
  r"|got|costs?|earns?|earned|needs?|needed|takes?|took|totals?|spends?|spent|pays?|paid|saves?"
  r"|saved|receives?|received|scored?|used?|sold|sell|bought|buy|ate|eats?|owns?|weighs?"
  r"|contains?|becomes?)|'s)"
  r" (?:(?:about|approximately|around|roughly|only|exactly|just|now|still|also|already|altogether"
  r"|together|left with|to be|over|equal to|equals|(?:a|the) total(?: \w{1,20})? of|a sum of"
  r"|an average of|there|worth|at least|at most) ){0,3}[$€£¥₹(]{0,2}$",
  re.IGNORECASE,
)
_TOTAL = re.compile(
  r"\b(?:total(?: \w{1,20}){0,3} (?:of|is|was|=)|altogether,?|in all,?|left with|sum of)"
  r" (?:about |only |now ){0,2}[$€£¥₹]{0,2}$",
  re.IGNORECASE,
)
# After a number that is a part of a total: "the sum of 12 and 15".
_SUM = re.compile(r"(?: [A-Za-z]{1,20}){0,2} and [$]?[0-9]")
_SUBORDINATE = re.compile(
  r"\b(?:because|since|as|where|when|which|after|before|if|while|although|whereas|than|so that|who"
  r"|that|given|out of|to (?:have|make|get|reach|bring|be|end|buy|give"
  r"|feed|spend|earn|sell|pay|fill|finish)|in order)\b",
  re.IGNORECASE,
)
# "After eating 2 cookies, ..."
_LEADING_CLAUSE = re.compile(
  r"\W*(?:(?:so|therefore|thus|hence|finally|then),? )?(?:after|before|if|when|since|because|as"
  r"|with|given|by|in|on|at|for|while|although|during|out of|of)\b[^,\n]{1,150},(?=\s)",
  re.IGNORECASE,
)
_CONCLUDES = re.compile(
  r"\W*(?:so|therefore|thus|hence|in total|altogether|in conclusion|as a result|finally)\b",
  re.IGNORECASE,
)
_BECAUSE = re.compile(r"\b(?:because|since)\b", re.IGNORECASE)
_HENCE = re.compile(
  r"\b(?:so|therefore|thus|hence|meaning|which (?:means|is|rounds|equals))\b", re.IGNORECASE
)


def read_number(text: str, *, last_number: bool = True) -> str | None:
  """Reads the answer of a rationale as a canonical number ("62", "-3.5", "1/3").

  The last explicit marker with a number after it decides ("Answer: 7", "#### 7", "the answer is 7",
  a box); see `statements`. Of an equation on its line, the right side of the last "=" counts.
  Otherwise, it is the number at the beginning, or the one that the sentence is about: "in 2 weeks
  Tom earns 40 dollars". Units, currency and percent signs are ignored; words, powers, magnitudes
  and the digit groups of other countries are read.

  Args:
    text: The rationale.
    last_number: Whether to read the last sentence with a number if there is no marker at all. It
      must be False for a text that was cut off.

  Returns:
    The number, or None: no number, a marker with nothing after it, two numbers ("7 or 8"), or an
    expression that is not worked out.
  """
  text = normalize(statements.plain(text))
  text = statements.without_run_on(text, NUMBER)
  if not _NEXT_LABEL.search(text):
    text = _SHORT_LABEL.sub("Answer: ", text)
  is_marked = False
  for statement in statements.statements(text):
    tail = statement.text
    if statement.below and (listed := _LIST_NUMBER.match(tail)):
      tail = tail[listed.end() :]
    tail = _with_digits(tail)
    if NUMBER.search(tail):
      # A heading above a whole solution, whose first line is not the answer.
      is_solution = "\n" in statement.paragraph.strip() and not _starts_with_number(tail)
      return _concluded(statement.paragraph) if is_solution else _stated(tail, statement.boxed)
    is_marked = is_marked or not statement.prose or _UNKNOWN.search(tail) is not None
  if is_marked or not last_number:
    return None
  return _concluded(text)


def _starts_with_number(tail: str) -> bool:
  start = _AT_START.match(tail)
  at = start.end() if start else 0
  return _MINUS.match(tail) is not None or any(NUMBER.match(tail, max(at - n, 0)) for n in (0, 1))


def _with_digits(tail: str) -> str:
  """The tail with words as digits, if it begins with a number word or has no digits at all."""
  start = _AT_START.match(tail)
  at = start.end() if start else 0
  converted = words_to_digits(tail[at:])
  begins = converted[:1].isdigit() or (converted[:1] == "-" and converted[1:2].isdigit())
  if (begins and not tail[at : at + 1].isdigit() and not _ONE_OF.match(converted)) or (
    not any(character.isdigit() for character in tail)
  ):
    return tail[:at] + converted
  return tail


def _stated(tail: str, boxed: bool) -> str | None:
  """The number that a marker's line states. It has one."""
  if minus := _MINUS.match(tail):
    tail = "-" + tail[minus.end() :]
  if _BETWEEN.match(tail):
    return None
  start = _AT_START.match(tail)
  at = start.end() if start else 0
  first = NUMBER.match(tail, at) or NUMBER.match(tail, max(at - 1, 0))
  if first is None:
    is_formula = _NO_NUMBER.match(tail, at) and not _EQUALS.search(tail, at)
    return None if is_formula else _core(tail)
  if _IN_BRACKETS.search(tail[: first.start()]) and _NEXT_MEMBER.match(tail, first.end()):
    return None
  if boxed and _FACTOR.match(tail, first.end()):
    return None
  if reason := _REASON.search(tail, first.end()):
    tail = tail[: reason.start()]
  if _EQUALS.search(tail):
    return _result(tail)
  if _OPERATOR.match(tail, first.end()) or _SECOND.match(tail, first.end()):
    return None
  return canonical(value(first))


def _result(equation: str) -> str | None:
  """The result of the last equation of a clause: its right side, or a lone left side."""
  *left, right = _EQUALS.split(equation)
  match = NUMBER.search(right)
  if match is None:
    before = list(NUMBER.finditer(left[-1]))
    return canonical(value(before[-1])) if before else None
  if _OPERATOR.match(right, match.end()):
    lone = NUMBER.search(left[-1])
    if lone is None or _OPERATOR.match(left[-1], lone.end()) or len(left) > 1:
      return None
    return canonical(value(lone))
  if (hence := statements.last_match(_HENCE, right)) and hence.start() > match.end():
    if NUMBER.search(right, hence.end()):
      return _core(right[hence.end() :])
  return canonical(value(match))


def _concluded(text: str) -> str | None:
  """The number of the last sentence that concludes ("So ...") or, without one, has a number.

  Sentences that check or explain a conclusion come after it and are left out.
  """
  numbered: list[str] = []
  concludes = False
  for sentence in statements.sentences(text):
    if statements.CHECK.search(sentence):
      if concludes or any(_EQUALS.search(earlier) for earlier in numbered):
        break
      continue
    if NUMBER.search(sentence):
      numbered.append(sentence)
    concludes = concludes or (_CONCLUDES.match(sentence) is not None and sentence in numbered[-1:])
  if numbered:
    last = next((n for n, s in reversed(list(enumerate(numbered))) if _CONCLUDES.match(s)), None)
    if last is not None and not any(_EQUALS.search(later) for later in numbered[last + 1 :]):
      return _core(numbered[last])
    return _core(numbered[-1])
  worded = words_to_digits(text[-statements.LONGEST_LINE :])
  return _core(worded) if NUMBER.search(worded) else None


def _core(sentence: str) -> str | None:
  """The number that a sentence is about.

  Of an equation, its result. Otherwise the last total ("a total of 7"), or the first number that is
  no aside ("in 2 weeks", "the 3 boys"), but rather one after a verb ("are 7 birds").
  """
  clause = next((part for part in statements.sentences(sentence) if NUMBER.search(part)), sentence)
  lead = _LEADING_CLAUSE.match(clause)
  if lead and NUMBER.search(clause, lead.end()):
    clause = clause[lead.end() :]
  if (reason := _BECAUSE.search(clause)) and NUMBER.search(clause, 0, reason.start()):
    clause = clause[: reason.start()]
  if _EQUALS.search(clause):
    return _result(clause)
  found = list(NUMBER.finditer(clause))
  main = [m for m in found if not _ASIDE.search(clause[max(0, m.start() - 40) : m.start()])]
  if main and (end := _SUBORDINATE.search(clause, main[0].end())):
    main = [m for m in main if m.start() < end.start()]
  totals = [m for m in main if _TOTAL.search(clause[max(0, m.start() - 60) : m.start()])]
  totals = [m for m in totals if not _SUM.match(clause, m.end())]
  after_verb = [m for m in main if _VERB.search(clause[max(0, m.start() - 60) : m.start()])]
  chosen = (totals[-1:] or after_verb or main or found)[0]
  is_operand = _OPERAND.search(clause[max(0, chosen.start() - 4) : chosen.start()])
  if is_operand or _OPERATOR.match(clause, chosen.end()):
    return None
  return canonical(value(chosen))
