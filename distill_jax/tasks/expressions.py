r"""Reads and compares answers that are not numbers: LaTeX as in MATH (Hendrycks et al. 2021).

Nothing is evaluated and no algebra is done: two answers are equal if their normal forms are the
same text. The normal form

  drops     white space, $ and \( \), \left \right, thin spaces, \displaystyle, a final period,
            degree, dollar and percent signs, \text{...} around words, a unit after a number
            (a \text or \mbox that begins with a space), the left side of the only "=" or \in if it
            is a single letter ("x = 5" is 5), parentheses around a single letter
  unifies   \dfrac, \tfrac, \frac 12, \frac{1}{2} and 1/2; \sqrt2 and \sqrt{2}; x^{2} and x^2;
            \cdot and \times; 10,\!080 and 10080; words and letters in upper and lower case
  computes  the exact value of a number: 0.5, \frac{1}{2} and 2/4 are one answer

Not equal, though mathematically the same: sums, factors and list members in another order, \sqrt{8}
and 2\sqrt{2}, (x+1)^2 and its expansion, an interval and an inequality.
"""

import re

from distill_jax.tasks import answers

LONGEST = answers.LONGEST_LINE  # characters of an answer

_DOLLARS = re.compile(r"(?<!\\)\$([^$]{1,300})(?<!\\)\$")  # $...$
_PARENS = re.compile(r"\\[(\[](.{1,300}?)\\[)\]]")  # \(...\) or \[...\]
_BOXED = re.compile(r"\\boxed *\{")
_STEPS = tuple(
  (re.compile(pattern), replacement)
  for pattern, replacement in (
    # Drop \left, \right, \displaystyle, thin spaces, $ and ~, and \( \).
    (r"\\(?:left|right|displaystyle)(?![A-Za-z])|(?<!\\)\\[!,;: ]|(?<!\\)[$~]|\\[()](?!\w)", ""),
    # Drop degree (^\circ), percent and dollar signs.
    (r"\^ ?\{? ?(?:\\circ|°) ?\}?|°|\\?%|\\\$", ""),
    # Drop a unit after a number or term: 5\text{ cm}^2.
    (r"(?<=[0-9}a-z)])\\(?:text|mbox|mathrm) ?\{ [^{}]*\}(?:\^\{?[0-9]\}?)?", ""),
    # Drop a unit at the end, with the space outside: 5 \text{cm}^2.
    (r"(?<=[0-9}]) \\(?:text|mbox|mathrm) ?\{[^{}]*\}(?:\^\{?[0-9]\}?)?$", ""),
    # Unwrap other text: \text{east} becomes east.
    (r"\\(?:text|mbox|mathrm|textbf|mathbf|textrm) ?\{([^{}]*)\}", r"\1"),
    # \dfrac and \tfrac become \frac.
    (r"\\[dt]frac", r"\\frac"),
    # \times and \cdot become *.
    (r"\\(?:times|cdot)(?![A-Za-z])", "*"),
    # 10{,}000 becomes 10,000.
    (r"(?<=[0-9])\{,\}(?=[0-9])", ","),
    # Drop white space.
    (r"\s+", ""),
    # Add the braces missing in \frac12, \frac1{2}, \frac{1}2 and \sqrt2.
    (r"\\frac([0-9])([0-9])", r"\\frac{\1}{\2}"),
    (r"\\frac([0-9])\{", r"\\frac{\1}{"),
    (r"\\frac\{([^{}]*)\}([0-9])", r"\\frac{\1}{\2}"),
    (r"\\sqrt([0-9])", r"\\sqrt{\1}"),
    # Drop the braces of a single character: x^{2} becomes x^2.
    (r"([\^_])\{([0-9A-Za-z])\}", r"\1\2"),
    # \frac{1}{2} becomes 1/2, after a space that tells 1\frac{4}{5} from 14/5; the space is dropped
    # unless a digit is before it.
    (r"\\frac\{([0-9]+)\}\{([0-9]+)\}", r" \1/\2"),
    (r"(?<![0-9]) ", ""),
    # Drop a final period or comma.
    (r"[.,]$", ""),
    # Drop the left side of the only = or \in if it is a single letter.
    (r"^[A-Za-z](?:=|\\in)(?=[^=]+$)", ""),
    # (B) becomes B.
    (r"^\(([A-Za-z])\)$", r"\1"),
  )
)
# A text that is nothing but a number: 1,000.5, 3/4, 1 1/2.
_WHOLE_NUMBER = re.compile(
  r"-?(?:[0-9]{1,3}(?:,[0-9]{3})++|[0-9]*+)(?:\.[0-9]++|(?<=[0-9])\.)?+"
  r"(?: [0-9]++/[0-9]++|/[0-9]++)?"
)


def read_expression(text: str) -> str | None:
  r"""Reads the answer of a rationale in its normal form, or None if it has none.

  The last box or other explicit marker with something after it decides ("Answer: ...", "the answer
  is $...$").
  """
  text = text[-answers.LONGEST_TEXT :].replace("\r", "\n")
  for mark in reversed(list(answers.MARKER.finditer(text))):
    tail = answers.text_after(text, mark)
    if box := _BOXED.search(tail):
      tail = answers.box_contents(tail[box.end() :])
    elif match := _DOLLARS.match(tail) or _PARENS.match(tail):
      tail = match[1]
    if form := normalize(tail):
      return form
  return None


def normalize(answer: str) -> str | None:
  """The normal form of an answer; None if it is blank or longer than LONGEST characters."""
  if len(answer) > LONGEST:
    return None
  form = answer.strip().translate(answers.PLAIN_CHARACTERS).strip()
  for pattern, replacement in _STEPS:
    form = pattern.sub(replacement, form)
  if _WHOLE_NUMBER.fullmatch(form):
    return answers.canonical_number(form) or form or None
  form = form.replace(" ", "")
  return form.lower() if form.isalpha() else form or None
