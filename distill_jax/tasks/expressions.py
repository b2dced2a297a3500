r"""Reading and comparing answers that are no number: LaTeX as in MATH (Hendrycks et al. 2021).

Nothing is evaluated and no algebra is done: two answers are equal if their normal forms are the
same text. The normal form

  leaves out  white space, $ and \( \), \left \right, thin spaces, \displaystyle, a final full stop,
              degree, dollar and percent signs, \text{...} around words, a unit behind a number
              (a \text or \mbox that begins with a space), what stands before the one "=" or the
              \in if it is a single letter ("x = 5" is 5), parentheses around a single letter
  spells alike  \dfrac, \tfrac, \frac 12, \frac{1}{2} and 1/2; \sqrt2 and \sqrt{2}; x^{2} and x^2;
              \cdot and \times; 10,\!080 and 10080; words and letters in upper and lower case
  and is the exact value for what is a number: 0.5, \frac{1}{2} and 2/4 are one answer

Not equal, though a mathematician would say so: sums, factors and list members in another order,
\sqrt{8} and 2\sqrt{2}, (x+1)^2 and its expansion, an interval and an inequality.
"""

import re

from distill_jax.tasks import answers

LONGEST = answers.LONGEST_LINE  # characters of an answer

_DOLLARS = re.compile(r"(?<!\\)\$([^$]{1,300})(?<!\\)\$")
_PARENS = re.compile(r"\\[(\[](.{1,300}?)\\[)\]]")
_BOXED = re.compile(r"\\boxed *\{")
_STEPS = tuple(
  (re.compile(pattern), replacement)
  for pattern, replacement in (
    (r"\\(?:left|right|displaystyle)(?![A-Za-z])|(?<!\\)\\[!,;: ]|(?<!\\)[$~]|\\[()](?!\w)", ""),
    (r"\^ ?\{? ?(?:\\circ|°) ?\}?|°|\\?%|\\\$", ""),
    (r"(?<=[0-9}a-z)])\\(?:text|mbox|mathrm) ?\{ [^{}]*\}(?:\^\{?[0-9]\}?)?", ""),
    (r"(?<=[0-9}]) \\(?:text|mbox|mathrm) ?\{[^{}]*\}(?:\^\{?[0-9]\}?)?$", ""),
    (r"\\(?:text|mbox|mathrm|textbf|mathbf|textrm) ?\{([^{}]*)\}", r"\1"),
    (r"\\[dt]frac", r"\\frac"),
    (r"\\(?:times|cdot)(?![A-Za-z])", "*"),
    (r"(?<=[0-9])\{,\}(?=[0-9])", ","),
    (r"\s+", ""),
    (r"\\frac([0-9])([0-9])", r"\\frac{\1}{\2}"),
    (r"\\frac([0-9])\{", r"\\frac{\1}{"),
    (r"\\frac\{([^{}]*)\}([0-9])", r"\\frac{\1}{\2}"),
    (r"\\sqrt([0-9])", r"\\sqrt{\1}"),
    (r"([\^_])\{([0-9A-Za-z])\}", r"\1\2"),
    (r"\\frac\{([0-9]+)\}\{([0-9]+)\}", r" \1/\2"),  # the space tells 1\frac{4}{5} from 14/5
    (r"(?<![0-9]) ", ""),
    (r"[.,]$", ""),
    (r"^[A-Za-z](?:=|\\in)(?=[^=]+$)", ""),
    (r"^\(([A-Za-z])\)$", r"\1"),
  )
)
_WHOLE_NUMBER = re.compile(
  r"-?(?:[0-9]{1,3}(?:,[0-9]{3})++|[0-9]*+)(?:\.[0-9]++|(?<=[0-9])\.)?+"
  r"(?: [0-9]++/[0-9]++|/[0-9]++)?"
)


def read_expression(text: str) -> str | None:
  r"""The normal form of a rationale's answer, None if it has none: what the last box or other
  explicit marker with something behind it names ("Answer: ...", "the answer is $...$")."""
  text = text[-answers.LONGEST_TEXT :].replace("\r", "\n")
  for mark in reversed(list(answers.MARKER.finditer(text))):
    tail = answers.text_after(text, mark)
    if box := _BOXED.search(tail):
      tail = answers.box_contents(tail[box.end() :])
    elif found := _DOLLARS.match(tail) or _PARENS.match(tail):
      tail = found[1]
    if form := normalize(tail):
      return form
  return None


def normalize(answer: str) -> str | None:
  """The normal form of an answer; None of one that is blank or longer than LONGEST characters."""
  if len(answer) > LONGEST:
    return None
  form = answer.strip().translate(answers.PLAIN_CHARACTERS).strip()
  for pattern, replacement in _STEPS:
    form = pattern.sub(replacement, form)
  if _WHOLE_NUMBER.fullmatch(form):
    return answers.canonical_number(form) or form or None
  form = form.replace(" ", "")
  return form.lower() if form.isalpha() else form or None
