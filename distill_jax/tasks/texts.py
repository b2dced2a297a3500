"""Reads and compares answers that are words: equal if they are the same after normalization."""

import re
import unicodedata

from distill_jax.tasks import statements

_ARTICLE = re.compile(r"\b(?:an?|the)\b")
# A minus or a point before a digit stays unless a letter is before it, and so does "#" in "C#".
_NO_WORD = re.compile(r"[^\w%$€£+/.#-]+|(?<!\w)#|\.(?![0-9])|-(?!\.?[0-9])|(?<=[^\W0-9])[.-]")
_ANYTHING = re.compile(r"\w")


def read_text(text: str, *, last_line: bool = True) -> str | None:
  """Reads the answer of a rationale in its normal form.

  It is what the last marker announces ("Answer: ..."), to the end of its line, or else the last
  line.

  Args:
    text: The rationale.
    last_line: Whether to read a text without a marker. It must be False for a text that was cut
      off.

  Returns:
    The answer, or None if the text has none.
  """
  text = statements.without_run_on(statements.plain(text), _ANYTHING)
  for statement in statements.statements(text, denials=False):
    if _ANYTHING.search(statement.text):
      return normalize(statement.text.strip(" *_`\"'")) or None
  lines = [line for line in text.splitlines() if line.strip()]
  return normalize(lines[-1]) or None if lines and last_line else None


def open_answer(text: str, *, whole: bool = True) -> str | None:
  """All that a text writes after its last marker, for a grader.

  Args:
    text: The text.
    whole: Whether to return a text without a marker as it is. It must be False for a text that was
      cut off.
  """
  text = statements.without_run_on(statements.plain(text), _ANYTHING)
  start = 0 if whole else len(text)
  for mark in statements.MARKER.finditer(text):
    if _ANYTHING.search(text, mark.end()):
      start = mark.end()
  return text[start:].strip() or None


def normalize(text: str) -> str:
  """The words of a text in lower case, without articles and punctuation.

  Articles alone stay: "A" may be a grade or a letter.
  """
  plain = unicodedata.normalize("NFKC", text).translate(statements.PLAIN_CHARACTERS).casefold()
  words = _NO_WORD.sub(" ", plain)
  return " ".join((_ARTICLE.sub(" ", words).split()) or words.split())
