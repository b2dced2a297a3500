"""Reading an answer out of a text that nobody checked, and comparing answers exactly.

Numbers are exact fractions; nothing is ever evaluated. The texts are a teacher's or a student's, so
every pattern is linear in the length of the text, and lengths, digits and exponents are bounded.
The released reader of Wang et al. 2023 takes the first number after "Answer" and compares strings;
`read_number` and `same_number` mend what that gets wrong.
"""

import fractions
import re

LONGEST_TEXT = 20_000  # characters; of a longer text the end is read
LONGEST_LINE = 300  # characters behind a marker in which its answer is looked for
LONGEST_NUMBER = 60  # digits: before the point, behind it, above or below the bar; powers of ten

_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5"}
_VULGAR |= {"⅗": "3/5", "⅘": "4/5", "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8"}
_VULGAR |= {"⅞": "7/8", "⅒": "1/10", "⅐": "1/7", "⅑": "1/9"}
PLAIN_CHARACTERS = str.maketrans(
  {vulgar: f" {plain}" for vulgar, plain in _VULGAR.items()}
  | dict.fromkeys("−﹣－–‒", "-")
  | dict.fromkeys("\u00a0\u2007\u2009\u202f", "\u2009")  # spaces that group digits
  | {"⁄": "/", "∕": "/", "，": ",", "：": ":", "＝": "=", "\r": "\n", "\u2028": "\n"}
)
_LATEX = (
  (re.compile(r"\{,\}|\\,"), ","),
  (re.compile(r"\\!|\\left|\\right"), ""),
  (re.compile(r"\\([$%#])"), r"\1"),
  (re.compile(r"(?<=[0-9])\\[dt]?frac(?=[{0-9])"), r" \\frac"),
  (re.compile(r"\\[dt]?frac ?\{ ?([0-9]{1,60}) ?\} ?\{ ?([0-9]{1,60}) ?\}"), r"\1/\2"),
  (re.compile(r"\\[dt]?frac([0-9])([0-9])"), r"\1/\2"),
  (re.compile("(?<=[0-9])\u2009(?=[0-9]{3}(?![0-9]))"), ""),
)
_DIGITS = (
  r"(?:[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])|[0-9]++)(?:\.[0-9]++)?+|(?<![0-9A-Za-z.])\.[0-9]++"
)
_NUMBER = re.compile(
  r"(?P<sign>(?<![0-9A-Za-z)\]}])-(?:[$€£¥₹]\ ?)?)?+"
  rf"(?P<left>{_DIGITS})"
  r"(?:[eE](?P<e>[+-]?+[0-9]++)(?![A-Za-z])"
  r"|\ ?(?:x|×|\*|\\times|\\cdot)\ ?10\^(?P<power>[+-]?+[0-9]++|\{-?[0-9]{1,6}\})"
  r"|\ {1,2}(?P<top>[0-9]{1,60})/(?P<bottom>[0-9]{1,60})(?![0-9.])"
  r"|\ ?/\ ?(?P<under>[0-9]++(?:,[0-9]{3})*+(?:\.[0-9]++)?+))?+"
)
MARKER = re.compile(
  r"####|\\boxed *?\{"
  r"|\banswers?[*_` ]{0,4}(?:(?:to|for|of) [^\n.:=]{0,80}?)?[*_` ]{0,4}"
  r"(?::|=|\b(?:is|was|are|(?:should|would|must|will) be)\b)"
  r"|^[*_ ]{0,4}answer[*_ ]{1,4}(?=[-$€£¥₹.0-9(])",
  re.IGNORECASE | re.MULTILINE,
)
_RUN_ON = re.compile(r"^ {0,4}(?:question|q) ?[0-9]{0,4} ?:", re.IGNORECASE | re.MULTILINE)
_REASON = re.compile(
  r";|(?<![-+*×÷/=x(])(?<![-+*×÷/=x(] )\(|[.!?](?=\s|$)|\b(?:because|since|where|when|which|as)\b",
  re.IGNORECASE,
)
_ENOUGH = re.compile(r"[.;!?](?=\s|$)|\b(?:because|since|not)\b", re.IGNORECASE)
_OPERATOR = re.compile(
  r"[^\n=0-9]{0,20}?[ )](?:[-+*×÷/]|x|\\times|\\cdot|\\div)[ (]{0,3}[$€£¥₹]?[0-9]"
  r"|[-+*×÷](?=[ (]{0,3}[$€£¥₹]?[0-9])"
)


def read_number(text: str, *, last_number: bool = True) -> str | None:
  """The answer of a rationale as a canonical number ("62", "-3.5", "1/3"), or None.

  The last explicit marker with a number wins ("Answer: 7", "#### 7", "the answer is 7", a box). On
  its line an equation gives what follows its last "="; an expression that is not worked out gives
  None; else it is the first number. Units, currency and percent signs are dropped. A text that
  runs on into a next question is cut there. Without any marker the last number of the text is
  taken if `last_number`; a marker with nothing behind it gives None.
  """
  text = _plain(text)
  marks = list(MARKER.finditer(text))
  for mark in marks:
    if _NUMBER.search(text_after(text, mark)):
      if run_on := _RUN_ON.search(text, mark.end()):
        text = text[: run_on.start()]
        marks = [m for m in marks if m.end() <= len(text)]
      break
  for mark in reversed(marks):
    tail = text_after(text, mark)
    if _NUMBER.search(tail):
      return _read_tail(tail)
  if marks or not last_number:
    return None
  found = None
  for found in _NUMBER.finditer(text):  # noqa: B007 - the last one is meant
    pass
  return _canonical(_value(found)) if found else None


def same_number(a: str | None, b: str | None) -> bool:
  """Whether both are numbers and equal, exactly: "1,200.00" and "$1200" are, 1/3 and 0.333 not."""
  if a is None or b is None:
    return False
  found = _NUMBER.search(_plain(a)), _NUMBER.search(_plain(b))
  values = [_value(match) if match else None for match in found]
  return None not in values and values[0] == values[1]


def canonical_number(text: str) -> str | None:
  """The first number of a short text in the form `read_number` gives; None if there is none."""
  found = _NUMBER.search(_plain(text))
  return _canonical(_value(found)) if found else None


def read_choice(text: str, labels: tuple[str, ...]) -> str | None:
  """The label chosen, as spelt in `labels`: what the last marker's line names, else the last "(x)".

  A label counts if it stands in parentheses, or directly behind the marker in upper case or alone;
  the article in "the answer is a lamp" does not. "(a) salt or (b) sugar" chooses nothing.
  """
  text = _plain(text)
  spelt = {label.lower(): label for label in labels}
  options = "|".join(re.escape(label) for label in sorted(labels, key=len, reverse=True))
  if not options:
    return None
  bracketed = re.compile(rf"[(\[] ?({options}) ?[)\]]", re.IGNORECASE)
  alone = re.compile(
    r"[\s*_`:\"'{$]*+(?:(?:option|choice)\s)?"
    rf"(?:({options})(?=[.,:;)\]}}*]|\s*$)|(?-i:({options.upper()}))\b)",
    re.IGNORECASE,
  )
  for mark in reversed(list(MARKER.finditer(text))):
    tail = text_after(text, mark)
    if found := bracketed.search(tail):
      _, joined, rest = _ENOUGH.split(tail[found.end() :], 1)[0].partition(" or ")
      other = bracketed.search(rest) if joined else None
      return spelt[found[1].lower()] if not other or other[1] == found[1] else None
    if found := alone.match(tail):
      return spelt[(found[1] or found[2]).lower()]
  if all_found := bracketed.findall(text):
    return spelt[all_found[-1].lower()]
  return spelt.get(text.strip(" \n\t.:*").lower())


def read_boolean(text: str) -> str | None:
  """ "yes" or "no" (true and false count): the first behind the last marker, else the last word."""
  text = _plain(text)
  words = re.compile(r"\b(?:(yes|true)|no|false)\b", re.IGNORECASE)
  for mark in reversed(list(MARKER.finditer(text))):
    if found := words.search(text_after(text, mark)):
      return "yes" if found[1] else "no"
  found = list(words.finditer(text))
  return None if not found else "yes" if found[-1][1] else "no"


def _plain(text: str) -> str:
  """The end of the text with one spelling of minus, fraction, digit group and line end."""
  text = text[-LONGEST_TEXT:].translate(PLAIN_CHARACTERS)
  for pattern, replacement in _LATEX:
    text = pattern.sub(replacement, text)
  return text.replace("\u2009", " ")


def text_after(text: str, mark: re.Match) -> str:
  """The rest of the marker's line; if that is blank, the next line that is not."""
  start = mark.end()
  while start < len(text) and text[start] in " \t\n*_:`":
    start += 1
  tail = text[start : start + LONGEST_LINE].partition("\n")[0]
  if len(tail) == LONGEST_LINE:
    tail = tail.rstrip("0123456789.,")  # half a number is none
  if mark[0].startswith("\\boxed"):
    return box_contents(tail)
  return tail


def box_contents(tail: str) -> str:
  """What stands before the brace that closes a box."""
  depth = 1
  for place, character in enumerate(tail):
    depth += (character == "{") - (character == "}")
    if depth == 0:
      return tail[:place]
  return tail


def _read_tail(tail: str) -> str | None:
  first = _NUMBER.search(tail)
  if stop := _REASON.search(tail, first.end()):
    tail = tail[: stop.start()]
  _, equals, result = tail.rpartition("=")
  if equals and (found := _NUMBER.search(result)):
    return _canonical(_value(found))
  if _OPERATOR.match(tail, first.end()):
    return None
  return _canonical(_value(first))


def _value(found: re.Match) -> fractions.Fraction | None:
  """The exact value of a matched number; None if it is too long, too large, or divided by zero."""
  exponent = (found["e"] or found["power"] or "0").strip("{}")
  bottom = _decimal(found["bottom"] or found["under"] or "1")
  left = _decimal(found["left"])
  size = exponent.lstrip("+-0") or "0"
  if left is None or not bottom or len(size) > 3 or int(size) > LONGEST_NUMBER:
    return None
  top = found["top"]
  value = left + _decimal(top) / bottom if top else left / bottom
  value *= fractions.Fraction(10) ** (-int(size) if exponent[0] == "-" else int(size))
  if max(value.numerator, value.denominator) >= 10**LONGEST_NUMBER:
    return None
  return -value if found["sign"] else value


def _decimal(digits: str) -> fractions.Fraction | None:
  whole, _, part = digits.replace(",", "").partition(".")
  if len(whole.lstrip("0")) > LONGEST_NUMBER or len(part.rstrip("0")) > LONGEST_NUMBER:
    return None
  part = part.rstrip("0")
  return fractions.Fraction(int(whole.lstrip("0") + part or "0"), 10 ** len(part))


def _canonical(value: fractions.Fraction | None) -> str | None:
  """ "62", "-3.5" where the decimal ends, else "1/3"."""
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
