r"""Reads and compares answers that are not numbers: LaTeX as in MATH (Hendrycks et al. 2021).

Nothing is evaluated and no algebra is done: two answers are equal if their normal forms are the
same text. The normal form

  drops     white space, $ and \( \), \left \right, thin spaces, \displaystyle, a final period, a
            plus sign in front, degree and dollar signs, the percent sign of a number of at least 1
            (not of a fraction or a term), \text{...} around words, a unit after a number
            ("12 cm^2", "5\text{ minutes}"), the left side of the only "=" or \in if it is a single
            letter ("x = 5" is 5), parentheses around a single letter
  unifies   \dfrac, \tfrac, \frac 12, \frac{1}{2} and 1/2; \frac{-1}{2} and -\frac{1}{2}; \sqrt2
            and \sqrt{2}; x^{2} and x^2; \cdot and \times, and none before a letter; 10,\!080 and
            10080; AM and a.m.; words and letters in upper and lower case
  computes  the exact value of a number: 0.5, \frac{1}{2} and 2/4, or 10^3 \cdot 1.5, are one answer

Not equal, though mathematically the same: sums, factors and list members in another order, \sqrt{8}
and 2\sqrt{2}, (x+1)^2 and its expansion, an interval and an inequality.
"""

import itertools
import re

from distill_jax.tasks import numbers, statements

LONGEST = statements.LONGEST_LINE  # characters of an answer

_DOLLARS = re.compile(r"(?<!\\)\$([^$]{1,300})(?<!\\)\$")  # $...$
_PARENS = re.compile(r"\\[(\[](.{1,300}?)\\[)\]]")  # \(...\) or \[...\]
# What joins a formula to the rest of an answer: "$5$ or $6$", "$2$ million", "$x$ + $y$".
_GOES_ON = re.compile(
  r"\s{0,3}(?:(?:,? ?\b(?:or|and)\b|,|[-+*/=]"
  r"|\bto\b(?![^0-9]{1,5}[0-9]{1,3}[^0-9]{1,5}(?:decimal|sig|digit|place)))"  # not "to 3 digits"
  r"\s{0,3}-?(?:[$0-9]|\\[(\[])"
  r"|(?:hundred|thousand|million|billion|trillion)\b)"
)
_CLAUSE_END = re.compile(r"[.;](?=\s|$)|,? ?\b(?:because|since|as|where|when)\b")
# Between two boxes that are one answer.
_BOX_JOIN = re.compile(
  r"\}[\s$*]{0,6}(?:\\text ?\{)?\s{0,3}(?:(,)|,? ?\b(or|and)\b)\s{0,3}\}?[\s$*]{0,6}"
)
_TEXT = r"\\(?:text|mbox|mathrm|textbf|mathbf|textrm|textit|operatorname|rm) ?"
# Words after a number that are no unit: they join answers, or change their meaning.
_JOINS = (
  r"(?i:or|and|to|of|mod|base|if|for|when|where|with|not|more|less|remainder|plus|minus|over"
  r"|a\.?m|p\.?m|noon|midnight|hundred|thousand|million|billion|trillion|dozen|pi|sqrt|sin"
  r"|cos|tan|log|ln|exp|inf|infinity|max|min)"
)
# A unit: words of letters that join nothing, each at most 15 characters long.
_UNIT = (
  rf"(?! {{0,3}}(?:\w{{1,15}} ){{0,4}}{_JOINS}\b)"
  r"(?:[A-Za-z]{2,15}\.?(?:[ /-](?:per )?[A-Za-z]{1,15}\.?){0,4}|[A-Za-z]{1,3}/[A-Za-z]{1,3})"
)
_STEPS = tuple(
  (re.compile(pattern), replacement)
  for pattern, replacement in (
    # 10{,}000 and 10\,000 become 10,000.
    (r"(?<=[0-9])(?:\{,\}|\\,)(?=[0-9]{3}(?![0-9]))", ","),
    # Drop \left, \right, \displaystyle, thin spaces, $ and ~, and \( \).
    (r"\\(?:left|right|displaystyle|limits)(?![A-Za-z])|(?<!\\)\\!|(?<!\\)[$]|\\[()](?!\w)", ""),
    (r"(?<!\\)\\[,;: ]|\\q?quad(?![A-Za-z])|~", " "),
    # Drop the percent sign of a number that stands alone and is at least 1, not of a term.
    (r" {0,3}(?:\\?%|\bpercent\b)", "%"),
    (
      rf"(^|[=,;(]|\b(?:or|and|is)\b {{0,3}}\}}?|\\approx|{_TEXT}\{{)( {{0,3}}[+-]? {{0,3}})"
      r"([1-9][0-9]{0,2}(?:,[0-9]{3})*+|[1-9][0-9]*+)(\.[0-9]++)?+%",
      r"\1\2\3\4",
    ),
    # Drop degree (^\circ) and dollar signs.
    (r"\^ ?\{? ?(?:\\circ|°) ?\}?|°|\\\$", ""),
    # \text{ AM} and \text{a.m.} become AM, \text{p.m.} becomes PM.
    (rf"(?:{_TEXT}\{{)? {{0,3}}(?<![\\A-Za-z])[Aa]\.?[Mm]\b\.?(?: *\}})?", "AM"),
    (rf"(?:{_TEXT}\{{)? {{0,3}}(?<![\\A-Za-z])[Pp]\.?[Mm]\b\.?(?: *\}})?", "PM"),
    # A million is six zeros.
    (rf"(?<=[0-9]) {{0,3}}(?:{_TEXT}\{{)? {{0,3}}\b(million|billion|thousand)\b *\}}?", r" \1"),
    # Drop a unit after a number or a term: 5\text{ cm}^2, 12\,\text{cm}.
    (rf"(?<=[0-9}}a-z)])\s{{0,9}}{_TEXT}\{{ *{_UNIT} *\}}(?:\^ ?\{{?[0-9]\}}?)?", ""),
    # Drop a unit at the end, in plain words: 12 cm^2, 5 minutes, 12\mathrm{ cm}.
    (rf"(?<=[0-9}}])\s{{1,9}}{_UNIT}(?:\^ ?\{{?[0-9]\}}?)?\s{{0,3}}\.?\s{{0,3}}$", ""),
    # Other text keeps its words apart from digits: 28\text{ or }5 becomes 28 or 5.
    (_TEXT + r"\{([^{}]*)\}", r"\1"),
    # \dfrac and \tfrac become \frac.
    (r"\\[dt]frac", r"\\frac"),
    # \times and \cdot become *.
    (r"\\(?:times|cdot)(?![A-Za-z])|×|·", "*"),
    # A space that groups digits is dropped, any other one between digits is kept as \;.
    (r"(?<![0-9.,])([0-9]{1,3}) (?=[0-9]{3}(?: [0-9]{3}){0,9}(?![0-9/ ]))", r"\1"),
    (r"(?<=[0-9])\s+(?=[0-9])", r"\\;"),
    # Drop white space.
    (r"\s+", ""),
    # Add the braces missing in \frac12, \frac1{2}, \frac{1}2 and \sqrt2.
    (r"\\frac([0-9])([0-9])", r"\\frac{\1}{\2}"),
    (r"\\frac([0-9])\{", r"\\frac{\1}{"),
    (r"\\frac\{([^{}]*)\}([0-9])", r"\\frac{\1}{\2}"),
    (r"\\sqrt([0-9a-z])(?![A-Za-z])", r"\\sqrt{\1}"),
    # A sign in a fraction stands before it: \frac{-1}{2} and \frac{1}{-2} become -\frac{1}{2}.
    (r"(?<![0-9A-Za-z}])-\\frac\{-([^{}+-]+)\}\{([^{}+-]+)\}", r"\\frac{\1}{\2}"),
    (r"(?<![-0-9A-Za-z})])\\frac\{-([^{}+-]+)\}\{([^{}+-]+)\}", r"-\\frac{\1}{\2}"),
    (r"(?<![-0-9A-Za-z})])\\frac\{([^{}+-]+)\}\{-([^{}+-]+)\}", r"-\\frac{\1}{\2}"),
    # Drop the sign of multiplication before a letter or a bracket: 2\cdot\sqrt{5} is 2\sqrt{5}.
    (r"(?<=[0-9])\*(?=\\(?!frac)[a-z]|[a-z(])", ""),
    # Drop a plus sign in front.
    (r"^\+(?!\()", ""),
    # Drop the braces of a single character: x^{2} becomes x^2.
    (r"([\^_])\{([0-9A-Za-z])\}", r"\1\2"),
    # \frac{1}{2} becomes 1/2, after a space that tells 1\frac{4}{5} from 14/5; the space is dropped
    # unless a digit is before it.
    (r"\\frac\{([0-9]+)\}\{([0-9]+)\}", r" \1/\2"),
    (r"(?<![0-9]) ", ""),
    # A mixed number.
    (r"^(-?[0-9]+)\\;([0-9]+/[0-9]+)$", r"\1 \2"),
    # Drop a final period or comma.
    (r"[.,]$", ""),
    # Drop the left side of the only = or \in if it is a single letter, or a function of one.
    (r"^(?:[A-Za-z]|[A-Za-z]\([a-z]\))(?:=|\\in)(?=[^=]+$)", ""),
    # (B) becomes B.
    (r"^\(([A-Za-z])\)$", r"\1"),
  )
)
# Where emphasis or code ends whose beginning stands before the text: "x+1**", "5`.", "5* ".
_EMPHASIS_END = re.compile(r"(?<!\^)\*\*(?![-0-9A-Za-z(\\{])|`|(?<![\^\\])[*_]{1,3}[ .]{0,3}$")
_ANYTHING = re.compile(r"[0-9A-Za-z\\\\]")
# A text that is nothing but a number: 1,000.5, 3/4, 1 1/2, 3 million.
_WHOLE_NUMBER = re.compile(
  r"-?(?:[0-9]{1,3}(?:,[0-9]{3})++|[0-9]*+)(?:\.[0-9]++|(?<=[0-9])\.)?+"
  r"(?: [0-9]++/[0-9]++|/[0-9]++|\*10\^(?:[0-9]{1,3}|\{-?[0-9]{1,3}\})|thousand|million|billion)?"
)
_SCALE = re.compile(r"(?=thousand|million|billion)")


def read_expression(text: str) -> str | None:
  r"""Reads the answer of a rationale in its normal form, or None if it has none.

  The last box or other explicit marker with something after it decides ("Answer: ...", "the answer
  is $...$").
  """
  text = statements.without_run_on(statements.plain(text).replace("\u2009", r"\,"), _ANYTHING)
  for statement in statements.statements(_with_joined_boxes(text)):
    tail = statement.text
    if box := statements.BOX.search(tail):
      tail = statements.box_contents(tail[box.end() :])
    elif match := _DOLLARS.match(tail) or _PARENS.match(tail):
      goes_on = _GOES_ON.match(tail, match.end())
      tail = _CLAUSE_END.split(tail, maxsplit=1)[0] if goes_on else match[1]
    else:
      tail = _EMPHASIS_END.split(tail, maxsplit=1)[0]
    if form := normalize(tail):
      return form
  return None


def _with_joined_boxes(text: str) -> str:
  """The text with boxes that "or", "and" or a comma joins as one box."""
  boxes = list(statements.BOX.finditer(text))
  for first, second in reversed(list(itertools.pairwise(boxes))):
    contents = statements.box_contents(text[first.end() : first.end() + statements.LONGEST_LINE])
    end = first.end() + len(contents)
    if second.start() - end > 24:
      continue
    if join := _BOX_JOIN.fullmatch(text[end : second.start()]):
      text = f"{text[:end]} {join[1] or join[2]} {text[second.end() :]}"
  return text


def normalize(answer: str) -> str | None:
  """The normal form of an answer; None if it is blank or longer than LONGEST characters."""
  if len(answer) > LONGEST:
    return None
  form = answer.strip().translate(statements.PLAIN_CHARACTERS).replace("\u2009", " ").strip()
  form = statements.superscripts_as_powers(form)
  for pattern, replacement in _STEPS:
    form = pattern.sub(replacement, form)
  if _WHOLE_NUMBER.fullmatch(form):
    return numbers.canonical_number(_SCALE.sub(" ", form)) or form or None
  form = form.replace(" ", "")
  return form.lower() if form.isalpha() else form or None
