"""Reads an answer from the unchecked text of a teacher or a student, and compares answers exactly.

Numbers are exact fractions, and nothing is ever evaluated as code. Since the text is untrusted,
every pattern takes linear time in its length, and lengths, digits and exponents are bounded. The
released reader of Wang et al. 2023 takes the first number after "Answer" and compares strings;
`read_number` and `same_number` fix what that gets wrong.
"""

import fractions
import re

LONGEST_TEXT = 20_000  # characters; of a longer text the end is read
LONGEST_LINE = 300  # characters after a marker in which its answer is searched
LONGEST_NUMBER = 60  # digits of each part of a number, and largest power of ten

_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5"}
_VULGAR |= {"⅗": "3/5", "⅘": "4/5", "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8"}
_VULGAR |= {"⅞": "7/8", "⅒": "1/10", "⅐": "1/7", "⅑": "1/9"}
# Translation table to one spelling of fractions, minus signs, spaces that group digits, slashes,
# punctuation and line ends.
PLAIN_CHARACTERS = str.maketrans(
  {vulgar: f" {plain}" for vulgar, plain in _VULGAR.items()}
  | dict.fromkeys("−﹣－–‒", "-")
  | dict.fromkeys("\u00a0\u2007\u2009\u202f", "\u2009")
  | {"⁄": "/", "∕": "/", "，": ",", "：": ":", "＝": "=", "\r": "\n", "\u2028": "\n"}
)
_LATEX = (
  # Digit separators: 10{,}000 and 10\,000 become 10,000.
  (re.compile(r"\{,\}|\\,"), ","),
  # Negative space and delimiter sizes are dropped.
  (re.compile(r"\\!|\\left|\\right"), ""),
  # Escaped \$, \% and \# lose the backslash.
  (re.compile(r"\\([$%#])"), r"\1"),
  # A mixed number gets a space: 1\frac{1}{2} becomes 1 \frac{1}{2}.
  (re.compile(r"(?<=[0-9])\\[dt]?frac(?=[{0-9])"), r" \\frac"),
  # \frac{1}{2} becomes 1/2.
  (re.compile(r"\\[dt]?frac ?\{ ?([0-9]{1,60}) ?\} ?\{ ?([0-9]{1,60}) ?\}"), r"\1/\2"),
  # \frac12 becomes 1/2.
  (re.compile(r"\\[dt]?frac([0-9])([0-9])"), r"\1/\2"),
  # A thin space that groups digits is dropped: 10 000 becomes 10000.
  (re.compile("(?<=[0-9])\u2009(?=[0-9]{3}(?![0-9]))"), ""),
)
# An unsigned decimal: digits, possibly in comma groups of three, with an optional fraction part; or
# a fraction part alone (.5) that is not the end of a word or a longer number.
_DIGITS = (
  r"(?:[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])|[0-9]++)(?:\.[0-9]++)?+|(?<![0-9A-Za-z.])\.[0-9]++"
)
# A number: an optional minus (not a subtraction: nothing to its left may be an operand) with an
# optional currency sign, then a decimal, then at most one of
#   an exponent          1e5
#   a power of ten       1.2 x 10^5, 1.2 \times 10^{5}
#   a mixed fraction     1 1/2
#   a denominator        3/4
# Possessive quantifiers (++, ?+) keep it linear: there is no backtracking into a number.
_NUMBER = re.compile(
  r"(?P<sign>(?<![0-9A-Za-z)\]}])-(?:[$€£¥₹]\ ?)?)?+"
  rf"(?P<left>{_DIGITS})"
  r"(?:[eE](?P<e>[+-]?+[0-9]++)(?![A-Za-z])"
  r"|\ ?(?:x|×|\*|\\times|\\cdot)\ ?10\^(?P<power>[+-]?+[0-9]++|\{-?[0-9]{1,6}\})"
  r"|\ {1,2}(?P<top>[0-9]{1,60})/(?P<bottom>[0-9]{1,60})(?![0-9.])"
  r"|\ ?/\ ?(?P<under>[0-9]++(?:,[0-9]{3})*+(?:\.[0-9]++)?+))?+"
)
# What announces an answer: "####", "\boxed{", "answer:", "the answer to the question is",
# "answer = ", or at the start of a line "Answer 7" without any sign between.
MARKER = re.compile(
  r"####|\\boxed *?\{"
  r"|\banswers?[*_` ]{0,4}(?:(?:to|for|of) [^\n.:=]{0,80}?)?[*_` ]{0,4}"
  r"(?::|=|\b(?:is|was|are|(?:should|would|must|will) be)\b)"
  r"|^[*_ ]{0,4}answer[*_ ]{1,4}(?=[-$€£¥₹.0-9(])",
  re.IGNORECASE | re.MULTILINE,
)
# The start of a next question, "Question 2:" or "Q:", where a text that runs on is cut.
_RUN_ON = re.compile(r"^ {0,4}(?:question|q) ?[0-9]{0,4} ?:", re.IGNORECASE | re.MULTILINE)
# The end of a stated number's clause: a semicolon, an opening parenthesis that is not part of an
# expression, the end of a sentence, or a word that begins a reason.
_REASON = re.compile(
  r";|(?<![-+*×÷/=x(])(?<![-+*×÷/=x(] )\(|[.!?](?=\s|$)|\b(?:because|since|where|when|which|as)\b",
  re.IGNORECASE,
)
# The end of the clause that names a choice.
_ENOUGH = re.compile(r"[.;!?](?=\s|$)|\b(?:because|since|not)\b", re.IGNORECASE)
# An operator and a second operand after a number: an expression that is not worked out ("3 + 4"). A
# unit may stand between them ("3 apples + 4").
_OPERATOR = re.compile(
  r"[^\n=0-9]{0,20}?[ )](?:[-+*×÷/]|x|\\times|\\cdot|\\div)[ (]{0,3}[$€£¥₹]?[0-9]"
  r"|[-+*×÷](?=[ (]{0,3}[$€£¥₹]?[0-9])"
)


def read_number(text: str, *, last_number: bool = True) -> str | None:
  """Reads the answer of a rationale as a canonical number ("62", "-3.5", "1/3").

  The last explicit marker with a number after it decides ("Answer: 7", "#### 7", "the answer is 7",
  a box). Of an equation on its line, the right side of the last "=" counts; otherwise the first
  number. Units, currency and percent signs are ignored. A text that runs on into a next question is
  cut there.

  Args:
    text: The rationale.
    last_number: Whether to take the last number of the text if there is no marker at all.

  Returns:
    The number, or None: no number, a marker with nothing after it, or an expression that is not
    worked out.
  """
  text = _normalize(text)
  marks = list(MARKER.finditer(text))
  for mark in marks:
    if _NUMBER.search(text_after(text, mark)):
      if run_on := _RUN_ON.search(text, mark.end()):
        text = text[: run_on.start()]
        marks = [m for m in marks if m.end() <= len(text)]
      break
  for mark in reversed(marks):
    tail = text_after(text, mark)
    if number := _NUMBER.search(tail):
      return _read_tail(tail, number)
  if marks or not last_number:
    return None
  last = None
  for last in _NUMBER.finditer(text):  # noqa: B007 - only the last one is needed
    pass
  return _canonical(_value(last)) if last else None


def same_number(a: str | None, b: str | None) -> bool:
  """Whether both texts are numbers and exactly equal.

  "1,200.00" equals "$1200"; "1/3" does not equal "0.333".
  """
  if a is None or b is None:
    return False
  matches = _NUMBER.search(_normalize(a)), _NUMBER.search(_normalize(b))
  values = [_value(match) if match else None for match in matches]
  return None not in values and values[0] == values[1]


def canonical_number(text: str) -> str | None:
  """The first number of a short text in the form of `read_number`, or None if there is none."""
  match = _NUMBER.search(_normalize(text))
  return _canonical(_value(match)) if match else None


def read_choice(text: str, labels: tuple[str, ...]) -> str | None:
  """Reads the chosen label, spelled as in `labels`.

  The label on the line of the last marker that names one decides; without any, the last label in
  parentheses. A label counts if it is in parentheses, or directly after the marker in upper case or
  alone; the article in "the answer is a lamp" does not count. "(a) salt or (b) sugar" chooses
  nothing.

  Returns:
    The label, or None if the text chooses none.
  """
  text = _normalize(text)
  spelling = {label.lower(): label for label in labels}
  options = "|".join(re.escape(label) for label in sorted(labels, key=len, reverse=True))
  if not options:
    return None
  # "(b)" or "[b]".
  bracketed = re.compile(rf"[(\[] ?({options}) ?[)\]]", re.IGNORECASE)
  # Directly after a marker, with "option" or "choice" before it: a label in any case before
  # punctuation or a line's end ("b."), or an upper-case label as a word ("B lamp").
  alone = re.compile(
    r"[\s*_`:\"'{$]*+(?:(?:option|choice)\s)?"
    rf"(?:({options})(?=[.,:;)\]}}*]|\s*$)|(?-i:({options.upper()}))\b)",
    re.IGNORECASE,
  )
  for mark in reversed(list(MARKER.finditer(text))):
    tail = text_after(text, mark)
    if match := bracketed.search(tail):
      _, joined, rest = _ENOUGH.split(tail[match.end() :], maxsplit=1)[0].partition(" or ")
      other = bracketed.search(rest) if joined else None
      return spelling[match[1].lower()] if not other or other[1] == match[1] else None
    if match := alone.match(tail):
      return spelling[(match[1] or match[2]).lower()]
  if bracketed_labels := bracketed.findall(text):
    return spelling[bracketed_labels[-1].lower()]
  return spelling.get(text.strip(" \n\t.:*").lower())


def read_boolean(text: str) -> str | None:
  """Reads "yes" or "no"; "true" and "false" count as those.

  The first such word after the last marker that has one decides; without any, the last such word.
  """
  text = _normalize(text)
  words = re.compile(r"\b(?:(yes|true)|no|false)\b", re.IGNORECASE)
  for mark in reversed(list(MARKER.finditer(text))):
    if match := words.search(text_after(text, mark)):
      return "yes" if match[1] else "no"
  matches = list(words.finditer(text))
  if not matches:
    return None
  return "yes" if matches[-1][1] else "no"


def _normalize(text: str) -> str:
  """The end of the text with one spelling of minus, fractions, digit groups and line ends."""
  text = text[-LONGEST_TEXT:].translate(PLAIN_CHARACTERS)
  for pattern, replacement in _LATEX:
    text = pattern.sub(replacement, text)
  return text.replace("\u2009", " ")


def text_after(text: str, mark: re.Match) -> str:
  """The rest of a marker's line, or the next line that is not blank; of a box, its contents."""
  start = mark.end()
  while start < len(text) and text[start] in " \t\n*_:`":
    start += 1
  tail = text[start : start + LONGEST_LINE].partition("\n")[0]
  if len(tail) == LONGEST_LINE:
    tail = tail.rstrip("0123456789.,")  # the last number may be truncated
  if mark[0].startswith("\\boxed"):
    return box_contents(tail)
  return tail


def box_contents(tail: str) -> str:
  """The text up to the brace that closes a box whose opening brace is not part of `tail`."""
  depth = 1
  for position, character in enumerate(tail):
    if character == "{":
      depth += 1
    elif character == "}":
      depth -= 1
    if depth == 0:
      return tail[:position]
  return tail


def _read_tail(tail: str, first: re.Match) -> str | None:
  """The number that a marker's line states; `first` is the first number in it."""
  if reason := _REASON.search(tail, first.end()):
    tail = tail[: reason.start()]
  _, equals, result = tail.rpartition("=")
  if equals and (match := _NUMBER.search(result)):
    return _canonical(_value(match))
  if _OPERATOR.match(tail, first.end()):
    return None
  return _canonical(_value(first))


def _value(match: re.Match) -> fractions.Fraction | None:
  """The exact value of a match of _NUMBER; None if it is too long or large, or divided by zero."""
  exponent = (match["e"] or match["power"] or "0").strip("{}")
  bottom = _decimal(match["bottom"] or match["under"] or "1")
  left = _decimal(match["left"])
  size = exponent.lstrip("+-0") or "0"
  if left is None or not bottom or len(size) > 3 or int(size) > LONGEST_NUMBER:
    return None
  if match["top"]:
    value = left + int(match["top"]) / bottom
  else:
    value = left / bottom
  value *= fractions.Fraction(10) ** (-int(size) if exponent[0] == "-" else int(size))
  if max(value.numerator, value.denominator) >= 10**LONGEST_NUMBER:
    return None
  return -value if match["sign"] else value


def _decimal(digits: str) -> fractions.Fraction | None:
  """The value of an unsigned decimal, or None if it is too long."""
  integer, _, part = digits.replace(",", "").partition(".")
  integer, part = integer.lstrip("0"), part.rstrip("0")
  if len(integer) > LONGEST_NUMBER or len(part) > LONGEST_NUMBER:
    return None
  return fractions.Fraction(int(integer + part or "0"), 10 ** len(part))


def _canonical(value: fractions.Fraction | None) -> str | None:
  """The shortest exact text: "62" or "-3.5" if the decimal terminates, else "1/3"."""
  if value is None:
    return None
  rest, twos, fives = value.denominator, 0, 0
  while rest % 2 == 0:
    rest, twos = rest // 2, twos + 1
  while rest % 5 == 0:
    rest, fives = rest // 5, fives + 1
  places = max(twos, fives)
  if rest != 1 or places > LONGEST_NUMBER:
    return str(value)
  digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
  point = len(digits) - places
  shown = digits[:point] + ("." + digits[point:] if places else "")
  return ("-" if value < 0 else "") + shown
