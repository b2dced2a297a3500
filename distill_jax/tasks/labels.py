"""Reads the chosen option of a multiple-choice question from unchecked text."""

import itertools
import re
from typing import NamedTuple

from distill_jax.tasks import statements

_LATEX = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox|boxed|rm|bf) ?\{([^{}]{0,300})\}")
# Words between a marker and a label that say nothing.
_FILLER = re.compile(
  r"[\s*_`:\"'{$,]*+(?:(?:therefore|thus|then|hence|so|clearly|most|likely|probably|definitely"
  r"|certainly|obviously|actually|indeed|simply|just|also|again|now|best|surely|evidently|in fact"
  r"|of course|either|both|the|option|choice|letter|answer|is|correct|right|given by|must be"
  r"|number)\b[\s*_`:\"'{$,]*+)*+",
  re.IGNORECASE,
)
# "the correct option is B", "I choose (B)", "option B", "my choice: B".
_ALSO_MARKS = re.compile(
  r"\b(?:(?:correct|right|best|final|only|my)(?: \w{1,12})?|option|choice|letter|response)"
  r"(?: is|:| =| would be| must be)"
  r"|\b(?:choose|pick|select|chose|go with|answer|ans\.?|conclude with)"
  r"(?=(?-i: ?[*_`:]{0,3} ?(?:[(\[<*_\"'`]|[A-Z]\b)))",
  re.IGNORECASE,
)
# The end of the clause that names a choice.
_CLAUSE_END = re.compile(r"[.;!?](?=\s|$)|\b(?:because|since)\b|\n", re.IGNORECASE)
_DENIED_BEFORE = re.compile(
  r"(?:\b(?:not|never|neither|nor|rather than|instead of|except|unlike|eliminates?|excludes?|ruled?"
  r" out|reject|than)|n't)\b[^.;:]{0,25}$",
  re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
  r"[^.;,()]{0,40}?\b(?:(?:is|are|was|were|can|could|does|do|would)(?:n't| not|not)\b"
  r"|(?:is|are|was|were|seems?) (?:\w{1,12} ){0,2}(?:wrong|incorrect|false|out|unlikely)\b"
  r"|(?:can|could|may) be (?:ruled|excluded|eliminated))",
  re.IGNORECASE,
)
_CHOSEN_AFTER = re.compile(
  r"[^.;()]{0,40}?\b(?:is|are|would be|must be|seems?|fits?)\b[^.;()]{0,20}?"
  r"\b(?:correct|right|best|answer|true|likely|suitable|appropriate|choice|option)\b",
  re.IGNORECASE,
)
_BUT = re.compile(r"\b(?:but|however|yet)\b[^.;()]{0,9}$", re.IGNORECASE)
_JOINT = re.compile(
  r"(?:\b(?:or|and)|[,/&+])(?: (?:either|also|option|choice))?\s*[(\[<{*_\"'`]*$", re.IGNORECASE
)
# What follows a capital A that is a label and not an article.
_NO_NOUN = re.compile(
  r"[\s*_`'\"]*(?:$|[.,:;)\]}*>|/&-]|(?:because|since|as|for|is|was|or|and|with|due|but|not|instead)\b)"
)
_DENIAL = re.compile(r"\bnot\b|n't\b|\brather than\b")
# A word, or a number with its sign and all of its digits: -5, 1,250, 0.5, 3:1, 1/2.
_WORD = re.compile(r"(?:(?<![\w)])-)?[0-9]+(?:[.,:/][0-9]+)*|[^\W_]+(?:'[a-z]+)?")
_GROUPS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")


class _Mention(NamedTuple):
  start: int
  end: int
  label: str


def read_choice(
  text: str, labels: tuple[str, ...], texts: tuple[str, ...] = (), *, last_label: bool = True
) -> str | None:
  """Reads the chosen label, spelled as in `labels`.

  The last marker that names a choice decides; without any, the last sentence that does. A label
  counts in brackets or quotes, at the beginning of a line before a period ("B. bank"), in upper
  case as a word, or alone. The article in "the answer is a lamp" does not count. Without a label,
  the words of one option name it. Denied labels do not count: "(B) is correct, not (C)". "(a) salt
  or (b) sugar" chooses nothing.

  Args:
    text: The text.
    labels: The labels of the options.
    texts: The texts of the options, in the same order; () if they are not known.
    last_label: Whether to read a text without a marker. It must be False for a text that was cut
      off.

  Returns:
    The label, or None if the text chooses none.
  """
  if not labels:
    return None
  reader = _Reader(labels, texts)
  text = _LATEX.sub(r"\1", _LATEX.sub(r"\1", statements.plain(text).replace("\u2009", " ")))
  text = statements.without_run_on(text.replace("$", ""), reader.any_label)
  for statement in statements.statements(text):
    chosen = reader.after_marker(statement.text)
    if chosen is not None:
      return chosen or None
  if not last_label:
    return None
  return reader.concluded(text)


class _Reader:
  """Finds the labels and the options of one question in a text."""

  def __init__(self, labels: tuple[str, ...], texts: tuple[str, ...]):
    self.spelling = {label.lower(): label for label in labels}
    by_length = sorted(labels, key=len, reverse=True)
    self.options = "|".join(re.escape(label) for label in by_length)
    upper = "|".join(re.escape(label.upper()) for label in by_length)
    # "(b)", "[b]", "<b>", "**b**", "_b_", "`b`", '"b"'; or an upper-case label as a word.
    self.any_label = re.compile(
      rf"[(\[<] ?({self.options}) ?[)\]>]|(?:\*\*|[*_`\"])\(?({self.options})[).]?(?:\*\*|[*_`\"])"
      rf"|(?<![\w'])(?-i:({upper}))(?![\w'])",
      re.IGNORECASE,
    )
    self.at_line_start = re.compile(
      rf"^[ \t*_#>-]{{0,6}}(?:option |choice )?\(?({self.options})[).:](?=\s|$|\*)",
      re.IGNORECASE | re.MULTILINE,
    )
    self.alone = re.compile(rf"({self.options})(?=[.,:;)\]}}*'\"]|\s*$)", re.IGNORECASE)
    words = [_words(option) for option in texts]
    # The label of each option by its words; None for words that two options share.
    self.words = {
      option: label if words.count(option) == 1 else None
      for label, option in zip(labels, words, strict=False)
    }

  def after_marker(self, tail: str) -> str | None:
    """The label that a marker's line names; "" if it names two, None if it names none."""
    filler = _FILLER.match(tail)
    rest = tail[filler.end() :] if filler else tail
    mentions = self.mentions(tail)
    if alone := self.alone.match(rest):
      offset = len(tail) - len(rest)
      first = _Mention(offset, offset + alone.end(), self.spelling[alone[1].lower()])
      mentions = [first, *(m for m in mentions if m.start > first.end)]
    return self._one_of(tail, mentions)

  def mentions(self, text: str) -> list[_Mention]:
    """The labels in a text. A capital A before a noun is an article."""
    found = []
    for match in self.any_label.finditer(text):
      label = match[1] or match[2] or match[3]
      if match[3] in ("A", "I") and not _NO_NOUN.match(text, match.end()):
        named = self._named(text[match.end() : match.end() + 60])
        if named != self.spelling[label.lower()]:
          continue
      found.append(_Mention(match.start(), match.end(), self.spelling[label.lower()]))
    return found

  def _one_of(self, text: str, mentions: list[_Mention]) -> str | None:
    """The label chosen in a text: the first that is not denied, "" with another joined to it."""
    mentions = _not_denied(text, mentions)
    if not mentions:
      return self._named(text) or None
    first = mentions[0]
    if end := _CLAUSE_END.search(text, first.end):
      mentions = [m for m in mentions if m.start < end.start()]
    for second in mentions[1:]:
      if second.label != first.label and _JOINT.search(text[first.end : second.start][-40:]):
        return ""
    return first.label

  def _named(self, text: str) -> str | None:
    """The option whose words a clause contains; None if it contains none, or several."""
    clause = _CLAUSE_END.split(text.strip(), maxsplit=1)[0]
    clause = _DENIAL.split(clause, maxsplit=1)[0]
    words = f" {_words(clause)} "
    found = [option for option in self.words if option and f" {option} " in words]
    longest = [o for o in found if not any(o != p and f" {o} " in f" {p} " for p in found)]
    return self.words[longest[0]] if len(longest) == 1 else None

  def concluded(self, text: str) -> str | None:
    """The label that a text without a marker chooses."""
    stripped = text.strip(" \n\t.:*_`\"'()")
    if stripped.lower() in self.spelling:
      return self.spelling[stripped.lower()]
    head, below, _ = text.strip().partition("\n")
    alone = head.strip(" .:*_`\"'()").lower()
    if below and alone in self.spelling:  # a label, and its explanation below
      return self.spelling[alone]
    for mark in reversed(list(_ALSO_MARKS.finditer(text))):
      chosen = self.after_marker(statements.text_after(text, mark))
      if chosen:
        return chosen
    found = statements.sentences(text)
    for only_favored in (True, False):
      for sentence in reversed(found):
        chosen = self._of_sentence(sentence, only_favored)
        if chosen is not None:
          return chosen or None
    return self._named(found[-1]) if found else None

  def _of_sentence(self, sentence: str, only_favored: bool) -> str | None:
    """The label that a sentence chooses: "" with another joined to it, None for no label.

    Args:
      sentence: The sentence.
      only_favored: Whether only a label counts that the sentence calls right.
    """
    mentions = self.mentions(sentence)
    line = self.at_line_start.match(sentence)
    if line and not any(m.start <= line.start(1) < m.end for m in mentions):
      mentions.append(_Mention(line.start(1), line.end(1), self.spelling[line[1].lower()]))
      mentions.sort()
    ends = [*(m.start for m in mentions[1:]), len(sentence)]  # a verdict crosses no other label
    called_right = {
      m
      for m, end in zip(mentions, ends, strict=False)  # without mentions, `ends` has one entry
      if _CHOSEN_AFTER.match(sentence[:end], m.end)
    }
    mentions = _not_denied(sentence, mentions)
    favored = [m for m in mentions if m in called_right]
    if not mentions or (only_favored and not favored):
      return None
    chosen = favored[0] if favored else mentions[-1]
    for later in favored[1:]:  # "(A) seems right, but (B) is"
      if _BUT.search(sentence[max(0, later.start - 20) : later.start]):
        chosen = later
    for other in mentions:
      between = sentence[min(chosen.end, other.end) : max(chosen.start, other.start)]
      if other.label != chosen.label and _JOINT.search(between[-40:]):
        return ""
    return chosen.label


def _words(text: str) -> str:
  """The words and numbers of a text in lower case, with a space between."""
  plain = _GROUPS.sub("", text.translate(statements.PLAIN_CHARACTERS).lower())
  return " ".join(_WORD.findall(plain))


def _not_denied(text: str, mentions: list[_Mention]) -> list[_Mention]:
  """The mentions that the text does not deny, alone or in a row: "(A) and (C) are wrong"."""
  joined = [
    after.start - mention.end < 8 and _JOINT.search(text[mention.end : after.start]) is not None
    for mention, after in itertools.pairwise(mentions)
  ]
  denied = []
  for n, mention in enumerate(mentions):
    start = max(mentions[n - 1].end if n else 0, mention.start - 40)
    is_in_row = n > 0 and joined[n - 1] and denied[-1]
    denied.append(is_in_row or _DENIED_BEFORE.search(text[start : mention.start]) is not None)
  for n in reversed(range(len(mentions))):
    is_in_row = n + 1 < len(mentions) and joined[n] and denied[n + 1]
    is_denied = _DENIED_AFTER.match(text, mentions[n].end) is not None
    denied[n] = denied[n] or is_in_row or is_denied
  return [mention for mention, out in zip(mentions, denied, strict=True) if not out]
