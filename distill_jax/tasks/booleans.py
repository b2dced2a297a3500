"""Reads "yes" or "no" from unchecked text."""

import re

from distill_jax.tasks import statements

# Words for yes and no. "no" before a noun ("no doubt", "no longer") is none of them.
_AFTER_NO = (
  r"(?=[\s*_]*(?:[.,;:!)\]}\"'<|/*_-]|$|\n|(?:because|since|as|and|or|but|it|he|she|they|we|you|i|this|that"
  r"|these|those|there|the|a|an|not|instead|rather|unless|if|when|except|while|for|in)\b))"
)
_WORDS = re.compile(
  r"\b(?:(?P<yes>yes|true|yeah|yep|affirmative)"
  rf"|(?P<no>no{_AFTER_NO}|false|untrue|nope|nah|incorrect|wrong)"
  r"|(?P<weak>correct|right))\b",
  re.IGNORECASE,
)
_ANY = re.compile(r"\b(?:yes|true|no|false|correct|incorrect)\b", re.IGNORECASE)
_OPPOSITES = {"yes": "no", "no": "yes", "": ""}
_SINGLE = re.compile(r"[\s*_`\"'({$]*([ynYNtTfF])[\s*_`\"')}.$!]*$")
# What denies a word after it: "is not true", "isn't correct", "not the case that it is true".
_DENIES = re.compile(
  r"(?:\b(?:not|never|cannot|hardly|neither|no longer|by no means|unlikely|doubtful|impossible"
  r"|none of|far from|anything but|fails to)|n't)\b"
  r"(?:(?! (?:but|so|therefore|thus|hence|and|because|since)\b)[^.,;:!?]){0,30}$",
  re.IGNORECASE,
)
# What stands before a denial that is part of a claim: "the claim that it never rains is false".
_CLAIM = re.compile(
  r"\b(?:claim|statement|idea|premise|assertion) that\b[^.,;:!?]*$", re.IGNORECASE
)
_BOTH = re.compile(
  r"\b(?:yes|true|correct)\b[\s,/\"'*]{0,3}(?:or|and|/|nor)[\s\"'*]{0,3}(?:no|false|incorrect)\b"
  r"|\b(?:no|false|incorrect)\b[\s,/\"'*]{0,3}(?:or|and|/|nor)[\s\"'*]{0,3}(?:yes|true|correct)\b"
  r"|\b(?:yes|true) ?/ ?(?:no|false)\b",
  re.IGNORECASE,
)
_JUST_NOT = re.compile(
  r"\W*(?:(?:definitely|certainly|absolutely|probably|most likely|of course|surely|it is|it's|it"
  r" does|it can|they are|they do|he is|she is|that is) ?){0,2}"
  r"(?:not|n't)\W*$|\W*(?:it|they|he|she|this|that)(?: is| does| do| can| could| are| was| would)"
  r"?(?:n't| not|not)\b",
  re.IGNORECASE,
)
_UNSURE = re.compile(
  r"\b(?:clear|known|sure|certain|enough|determined|possible to)\b", re.IGNORECASE
)
_WORD_NEXT = re.compile(r"[ *_]*[A-Za-z]")
_IS_BEFORE = re.compile(r"\b(?:is|was|are|be|not|n't|indeed|isn't)\s[*_\"']*$")
_NOT_THE_CASE = re.compile(r"\bnot (?:the case|so)\b", re.IGNORECASE)
_CONCLUDES = re.compile(
  r"\W*(?:so|therefore|thus|hence|in conclusion|as a result|consequently|accordingly|finally)\b",
  re.IGNORECASE,
)
_OPENS = re.compile(
  rf"[\s*_`\"'(]*(?:(?P<yes>yes|true|correct|yeah)\b(?=[\s*_]*(?:[.,;:!)*_-]|$|\n))|(?:no{_AFTER_NO}|false|incorrect)\b)",
  re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[.;!?](?=\s|$)|\b(?:because|since)\b", re.IGNORECASE)


def read_boolean(text: str, *, last_word: bool = True) -> str | None:
  """Reads "yes" or "no"; "true", "correct" and their opposites count as those.

  The last marker with such a word after it decides. Without any, it is the last sentence that
  concludes ("So no"), else the word that the text opens with ("Yes, ..."), else the last sentence
  that has such a word. A denied word counts as its opposite: "not true" is no, "not false" yes. The
  "no" of "no doubt" does not count; "yes or no" is no answer.

  Args:
    text: The text.
    last_word: Whether to read a text without a marker. It must be False for a text that was cut
      off.
  """
  text = statements.without_run_on(statements.plain(text).replace("\u2009", " "), _ANY)
  is_marked = False
  for statement in statements.statements(text, denials=False):
    if single := _SINGLE.match(statement.text):
      return "yes" if single[1] in "yYtT" else "no"
    verdict = _verdict(statement.text, is_marked=True)
    if verdict is not None:
      return (_OPPOSITES[verdict] if statement.denied else verdict) or None
    is_marked = is_marked or not statement.prose
  if is_marked or not last_word:
    return None
  return _concluded(text)


def _verdict(text: str, *, is_marked: bool = False) -> str | None:
  """The verdict of a clause; "" if it names both, None if it names none."""
  if _BOTH.search(text):
    return ""
  for match in _WORDS.finditer(text):
    before = text[max(0, match.start() - 50) : match.start()]
    if match["weak"] and not _is_predicate(before, text[match.end() :], is_marked):
      continue
    is_yes = not match["no"]
    if (denial := _DENIES.search(before)) and not _CLAIM.search(before[: denial.start()]):
      is_yes = not is_yes
    return "yes" if is_yes else "no"
  clause = _CLAUSE_END.split(text, maxsplit=1)[0]
  if _NOT_THE_CASE.search(clause) or (
    is_marked and _JUST_NOT.match(clause) and not _UNSURE.search(clause)
  ):
    return "no"
  return None


def _is_predicate(before: str, after: str, is_marked: bool) -> bool:
  """Whether "correct" or "right" is said of the claim: after "is", or alone after a marker."""
  if is_marked and not before.strip(" *_`\"'"):
    return not _WORD_NEXT.match(after)
  return _IS_BEFORE.search(before) is not None


def _concluded(text: str) -> str | None:
  """The verdict of a text without a marker."""
  found = [s for s in statements.sentences(text) if not s.endswith("?")]
  for sentence in reversed(found):
    if _CONCLUDES.match(sentence) and (verdict := _verdict(sentence)) is not None:
      return verdict or None
  if opens := _OPENS.match(text):
    return "yes" if opens["yes"] else "no"
  for sentence in reversed(found):
    if (verdict := _verdict(sentence)) is not None:
      return verdict or None
  return None
