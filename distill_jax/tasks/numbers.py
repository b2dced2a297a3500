"""Numbers as people write them, as exact fractions.

Nothing is evaluated as code. Every pattern takes linear time in the length of the text, and digits
and exponents are bounded.
"""

import fractions
import math
import re

from distill_jax.tasks import statements

LONGEST_NUMBER = 60  # digits of each part of a number, and largest power of ten

# A decimal without a sign in \frac{}{}, with digits in groups or without.
_PART = r"[0-9]{1,60}(?:,[0-9]{3}){0,9}(?:\.[0-9]{1,60})?"
_LATEX = (
  # Digit separators: 10{,}000 and 10\,000 become 10,000; any other \, is a space.
  (re.compile(r"\{,\}|\\,(?=[0-9]{3})"), ","),
  (re.compile(r"\\[,;: ]|~"), " "),
  # Negative space and delimiter sizes are dropped.
  (re.compile(r"\\!|\\left|\\right|\\displaystyle"), ""),
  # Escaped \$, \% and \# lose the backslash.
  (re.compile(r"\\([$%#])"), r"\1"),
  # 90^\circ becomes 90°.
  (re.compile(r"\^ ?\{? ?\\circ ?\}?"), "°"),
  # \text{seven} becomes seven.
  (re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf) ?\{([^{}]{0,300})\}"), r"\1"),
  # \frac{-1}{2} becomes -1/2.
  (re.compile(r"\\[dt]?frac ?\{ ?-(?=[ 0-9.,]{1,60}\})"), r"-\\frac{"),
  # A mixed number gets a space: 1\frac{1}{2} becomes 1 \frac{1}{2}.
  (re.compile(r"(?<=[0-9])\\[dt]?frac(?=[{0-9])"), r" \\frac"),
  # \frac{1}{2} becomes 1/2.
  (re.compile(rf"\\[dt]?frac ?\{{ ?({_PART}) ?\}} ?\{{ ?({_PART}) ?\}}"), r"\1/\2"),
  # \frac12 becomes 1/2.
  (re.compile(r"\\[dt]?frac([0-9])([0-9])"), r"\1/\2"),
  # Emphasis: **7** becomes 7; 2**3 stays.
  (re.compile(r"(?<![0-9])\*\*|\*\*(?![-0-9])"), ""),
  # A thin space that groups digits is dropped: 10 000 becomes 10000.
  (re.compile("(?<=[0-9])\u2009(?=[0-9]{3}(?![0-9]))"), ""),
)
_GROUPED = (
  # 1 000 000, 10'000 and 1_000.
  re.compile(r"(?<![0-9.,'/^])([1-9][0-9]{0,2}(?:(?: [0-9]{3})++|(?:'[0-9]{3})++|(?:_[0-9]{3})++))"
             r"(?:,(?=[0-9]{1,2}(?![0-9,])))?(?![0-9/'^-])(?! ?[0-9]*/)"),
  # 1.000.000 and 1.234,56.
  re.compile(r"(?<![0-9.,])([0-9]{1,3}(?:(?:\.[0-9]{3}){2,9}(?![0-9.,])|(?:\.[0-9]{3})++(?=,[0-9]{1,2}(?![0-9,]))))"
             r"(?:,(?=[0-9]))?"),
  # 1,23,456.
  re.compile(r"(?<![0-9.,])([0-9]{1,2}(?:,[0-9]{2}(?=,))++,[0-9]{3})(?![0-9,])"),
)  # fmt: skip
# 3,5 and 0,25: a decimal comma, outside of brackets.
_DECIMAL_COMMA = re.compile(r"(?<![0-9.,(\[{])([0-9]{1,60}),([0-9]{1,2})(?![0-9.)\]}]|,[0-9])")
# Times, ratios and dates are not numbers: 3:30, 12/25/2020, 2020-05-01.
_NOT_A_NUMBER = re.compile(
  r"(?<![0-9:])[0-9]{1,4}(?::[0-9]{1,4}){1,2}(?![0-9:])"
  r"|(?<![0-9/])[0-9]{1,2}/[0-9]{1,2}/[0-9]{4}(?![0-9/])"
  r"|(?<![0-9-])[0-9]{4}-[0-9]{2}-[0-9]{2}(?![0-9-])"
)
_ROOT = re.compile(
  r"(?P<factor>(?<=[0-9]) ?)?(?:\\sqrt ?\{ ?([0-9]{1,12}) ?\}|√ ?\(?([0-9]{1,12})\)?)"
)
# A factor after a number that makes it irrational: 2\pi, 3√2.
IRRATIONAL = re.compile(r" ?(?:\\sqrt|√|\\pi(?![A-Za-z])|π)")

# An unsigned decimal: digits, possibly in comma groups of three, with an optional fraction part; or
# a fraction part alone (.5) that is not the end of a word or a longer number.
_DIGITS = (
  r"(?:[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])|[0-9]++)(?:\.[0-9]++)?+|(?<![0-9A-Za-z.])\.[0-9]++"
)
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_SCALES |= {"trillion": 10**12, "dozen": 12, "lakh": 10**5, "crore": 10**7}
_SCALES |= {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}
_SCALE = "(?:hundred|thousand|million|billion|trillion|dozen|lakh|crore)"
# A number: an optional minus (not a subtraction: nothing to its left may be an operand) with an
# optional currency sign, then a decimal that is not part of a word, then at most one of
#   an exponent          1e5
#   a power of ten       1.2 x 10^5, 1.2 \times 10^{5}, 1.2*10**5
#   a power              2^3, 2**3
#   a mixed fraction     1 1/2, 1 and 1/2
#   a denominator        3/4
#   a magnitude          3.2 million, 5k
# Possessive quantifiers (++, ?+) keep it linear: there is no backtracking into a number.
NUMBER = re.compile(
  r"(?P<sign>(?<![0-9A-Za-z)\]}])-(?:[$€£¥₹]\ ?)?)?+"
  rf"(?P<left>(?<![A-Za-z_0-9])(?:{_DIGITS}))"
  r"(?:[eE](?P<e>[+-]?+[0-9]++)(?![A-Za-z])"
  r"|\ ?(?:x|×|\*|\\times|\\cdot)\ ?10(?:\^|\*\*)(?P<power>[+-]?+[0-9]++|\{-?[0-9]{1,6}\})"
  r"|(?:\^|\*\*)(?P<raised>-?[0-9]{1,6}+|\{-?[0-9]{1,6}\})"
  r"|(?:\ {1,2}|\ and\ )(?P<top>[0-9]{1,60})/(?P<bottom>[0-9]{1,60})(?![0-9]|\.[0-9])"
  rf"|(?P<scale>(?:[ -]{_SCALE}\b(?!s)){{1,2}}+|[kKMB](?![A-Za-z0-9]))"
  r"|\ ?/\ ?(?P<under>[0-9]++(?:,[0-9]{3})*+(?:\.[0-9]++)?+))?+"
)
_BLANKS = re.compile(r" {2,}")
_SIGN_WORD = re.compile(r"\bnegative ([$€£¥₹]?(?=\.?[0-9]))", re.IGNORECASE)

_UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
_UNITS += " fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORD_VALUES = {word: n for n, word in enumerate(_UNITS.split())}
_WORD_VALUES |= {word: 10 * n for n, word in enumerate(_TENS.split(), start=2)}
_PARTS = {"half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4}
_PARTS |= {"fourth": 4, "fourths": 4, "fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6}
_PARTS |= {"eighth": 8, "eighths": 8, "tenth": 10, "tenths": 10}
_NAMES = "|".join([*_WORD_VALUES, *_PARTS, *(n for n in _SCALES if len(n) > 1)])
_WORDS = re.compile(
  rf"\b(?:(?:an?|negative|minus|half an?)[ -])?(?:{_NAMES})\b"
  rf"(?:[ -](?:and[ -](?:an? )?)?(?:{_NAMES})\b){{0,12}}",
  re.IGNORECASE,
)
_HALF_A = re.compile(r"half an? ", re.IGNORECASE)
_AND_A_HALF = re.compile(r"(?<=[0-9]) and (?:a|one)[ -](half|third|quarter)\b", re.IGNORECASE)


def normalize(text: str) -> str:
  """The text with one spelling of minus, fractions, powers, roots, digit groups and LaTeX."""
  text = text.translate(statements.PLAIN_CHARACTERS)
  for pattern, replacement in _LATEX:
    text = pattern.sub(replacement, text)
  text = text.replace("\u2009", " ")
  text = _NOT_A_NUMBER.sub("@", text)
  text = _ROOT.sub(_root, text)
  for pattern in _GROUPED:
    text = pattern.sub(_ungroup, text)
  text = _DECIMAL_COMMA.sub(r"\1.\2", text)
  text = _AND_A_HALF.sub(lambda m: f" 1/{_PARTS[m[1].lower()]}", text)
  return _SIGN_WORD.sub(r"-\1", _BLANKS.sub(" ", text))


def same_number(a: str | None, b: str | None) -> bool:
  """Whether both texts are numbers and exactly equal.

  "1,200.00" equals "$1200"; "1/3" does not equal "0.333".
  """
  if a is None or b is None:
    return False
  matches = NUMBER.search(normalize(a)), NUMBER.search(normalize(b))
  values = [value(match) if match else None for match in matches]
  return None not in values and values[0] == values[1]


def canonical_number(text: str) -> str | None:
  """The first number of a short text in its shortest exact form, or None if there is none."""
  match = NUMBER.search(normalize(text))
  return canonical(value(match)) if match else None


def words_to_digits(text: str) -> str:
  """The text with its number words as digits: "twenty-five" becomes 25, "two thirds" 2/3."""
  return _WORDS.sub(lambda match: _word_value(match[0]), text)


def value(match: re.Match[str]) -> fractions.Fraction | None:
  """The exact value of a match of NUMBER; None if it is too long or large, or divided by zero."""
  exponent = (match["e"] or match["power"] or "0").strip("{}")
  bottom = _decimal(match["bottom"] or match["under"] or "1")
  left = _decimal(match["left"])
  size = exponent.lstrip("+-0") or "0"
  if left is None or not bottom or len(size) > 3 or int(size) > LONGEST_NUMBER:
    return None
  result = left + int(match["top"]) / bottom if match["top"] else left / bottom
  if match["raised"]:
    raised = _power(result, match["raised"].strip("{}"))
    if raised is None:
      return None
    result = raised
  for name in (match["scale"] or "").replace("-", " ").split(" "):
    result *= _SCALES.get(name.lower() if len(name) > 1 else name, 1)
  result *= fractions.Fraction(10) ** (-int(size) if exponent[0] == "-" else int(size))
  if max(result.numerator, result.denominator) >= 10**LONGEST_NUMBER:
    return None
  return -result if match["sign"] else result


def canonical(number: fractions.Fraction | None) -> str | None:
  """The shortest exact text: "62" or "-3.5" if the decimal terminates, else "1/3"."""
  if number is None:
    return None
  rest, twos, fives = number.denominator, 0, 0
  while rest % 2 == 0:
    rest, twos = rest // 2, twos + 1
  while rest % 5 == 0:
    rest, fives = rest // 5, fives + 1
  places = max(twos, fives)
  if rest != 1 or places > LONGEST_NUMBER:
    return str(number)
  digits = str(abs(number.numerator) * 10**places // number.denominator).rjust(places + 1, "0")
  point = len(digits) - places
  shown = digits[:point] + ("." + digits[point:] if places else "")
  return ("-" if number < 0 else "") + shown


def _decimal(digits: str) -> fractions.Fraction | None:
  """The value of an unsigned decimal, or None if it is too long."""
  integer, _, part = digits.replace(",", "").partition(".")
  integer, part = integer.lstrip("0"), part.rstrip("0")
  if len(integer) > LONGEST_NUMBER or len(part) > LONGEST_NUMBER:
    return None
  return fractions.Fraction(int(integer + part or "0"), 10 ** len(part))


def _power(base: fractions.Fraction, exponent: str) -> fractions.Fraction | None:
  """Base ** exponent; None if it is undefined or longer than LONGEST_NUMBER digits."""
  size = abs(int(exponent))
  digits = max(len(str(base.numerator)), len(str(base.denominator)))
  if (not base and exponent.startswith("-")) or (base > 1 and digits * size > 2 * LONGEST_NUMBER):
    return None
  if size > 4 * LONGEST_NUMBER:
    return None
  return base ** int(exponent)


def _root(match: re.Match[str]) -> str:
  """The root of a square number, multiplied by a number before it; other roots stay."""
  square = int(match[2] or match[3])
  root = math.isqrt(square)
  if root * root != square:
    return match[0]
  return str(root) if match["factor"] is None else f" * {root}"


def _ungroup(match: re.Match[str]) -> str:
  """The digits of a grouped number, with a point for the comma that ends the match."""
  digits = "".join(c for c in match[1] if c.isdigit())
  return digits + ("." if match[0].endswith(",") else "")


def _word_value(words: str) -> str:
  """The digits of number words; the words if they make no number."""
  if half := _HALF_A.match(words):
    return f"{_word_value(words[half.end() :])}/2"
  total, current, part, sign = fractions.Fraction(0), fractions.Fraction(0), 0, ""
  seen = False  # whether `current` has a value of its own
  for word in words.lower().replace("-", " ").split():
    if word in ("negative", "minus"):
      sign = "-"
    elif word in ("a", "an"):
      current, seen = current + 1, True
    elif word in _WORD_VALUES:
      current, seen = current + _WORD_VALUES[word], True
    elif word in _SCALES and len(word) > 1:
      current = (current if seen else 1) * _SCALES[word]
      if _SCALES[word] >= 1000:
        total, current, seen = total + current, fractions.Fraction(0), False
    elif word in _PARTS:
      part = _PARTS[word]
  if part:
    is_mixed = " and " in words.lower()
    if not seen and part != 2:
      return words  # an ordinal
    if is_mixed:
      # "two and a half", "one and three quarters": the words after "and" are the numerator.
      whole, _, tail = words.lower().rpartition(" and ")
      top = _word_value(tail)
      return (
        f"{_word_value(whole)} {top}" if "/" in top and "/" not in _word_value(whole) else words
      )
    return f"{sign}{current if seen else 1}/{part}"
  return f"{sign}{total + current}"
