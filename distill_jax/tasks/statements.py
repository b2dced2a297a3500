"""Finds where a text of a teacher or a student states its answer.

The text is untrusted, so every pattern takes linear time in its length, and lengths are bounded.
What an answer looks like is left to its reader: `answers`, `labels`, `booleans`, `expressions`.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from distill_jax import thinking

LONGEST_TEXT = 20_000  # characters; of a longer text the end is read
LONGEST_LINE = 300  # characters after a marker in which its answer is searched

_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5"}
_VULGAR |= {"⅗": "3/5", "⅘": "4/5", "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8"}
_VULGAR |= {"⅞": "7/8", "⅒": "1/10", "⅐": "1/7", "⅑": "1/9"}
# The zeros of full-width, Arabic, Persian, Devanagari, Bengali, Thai and mathematical digits.
_ZEROS = (0xFF10, 0x0660, 0x06F0, 0x0966, 0x09E6, 0x0E50, *range(0x1D7CE, 0x1D800, 10))
# Translation table to one spelling of digits, fractions, minus signs, spaces that group digits,
# slashes, punctuation and line ends.
PLAIN_CHARACTERS = str.maketrans(
  {vulgar: f" {plain}" for vulgar, plain in _VULGAR.items()}
  | {chr(zero + digit): str(digit) for zero in _ZEROS for digit in range(10)}
  | dict.fromkeys("−﹣－–‒", "-")
  | dict.fromkeys("\u00a0\u2007\u2009\u202f", "\u2009")
  | dict.fromkeys("’‘", "'")
  | {
    "⁄": "/",
    "∕": "/",
    "，": ",",
    "．": ".",
    "。": ".",
    "：": ":",
    "％": "%",
    "＄": "$",
    "＝": "=",
    "\r": "\n",
    "\u2028": "\n",
  }
)
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,6}")

# A token that ends a turn or begins the next one, if it was decoded as text.
_TURN = re.compile(
  r"<\|(?:im_end|im_start|eot_id|end_of_text|endoftext|end|start_header_id|user|assistant|return)\|>"
  r"|</s>|<eos>|<(?:end|start)_of_turn>|\[/?INST\]",
  re.IGNORECASE,
)
# The tokens and the role before a reply.
_BEFORE_REPLY = re.compile(
  r"(?:\s{0,4}(?:<s>|<bos>|<\|[a-z_]{1,30}\|>|<start_of_turn>|\[/INST\])"
  r"(?:\s{0,4}(?:assistant|model)\b:?)?)+|\s{0,4}assistant:",
  re.IGNORECASE,
)

_TASK_WORDS = r"(?:question|problem|exercise|example|instruction|input|query|human|user|q)"
# The start of a next question or turn, where a text that runs on is cut: "Question 2:", "Q:",
# "### Problem", "**Next question:**", "Human:", "Let's try another problem".
_RUN_ON = re.compile(
  rf"^[ \t]{{0,4}}(?P<mark>\#{{1,6}} ?|[*_]{{1,3}}|\[|>{{1,2}} ?)?"
  rf"(?:(?:the |an? |now |and |my )?(?:next|new|another|second|follow-?up|similar) )?"
  rf"(?P<word>{_TASK_WORDS}) ?(?P<number>\#?[0-9]{{1,4}})?"
  rf"(?:[*_\] ]{{0,3}}:|[.)](?=[*_ ]{{1,3}}[A-Z])|[*_\]]{{1,3}}[ \t]{{0,4}}$)"
  rf"|^[ \t]{{0,4}}(?P<heading>\#{{1,6}}) ?(?:(?:next|new|another|second) )?{_TASK_WORDS}"
  rf"(?: ?\#?[0-9]{{1,4}})?[ \t]{{0,4}}$"
  rf"|^[ \t]{{0,4}}(?P<invite>let's|let us|now,?|here is|here's|next,?)[^\n.:?!]{{0,30}}"
  rf"\b(?:another|next|new|similar)\b[^\n.:?!]{{0,20}}\b(?:question|problem|exercise|example)\b",
  re.IGNORECASE | re.MULTILINE,
)
_ROLES = ("human", "user")

# What announces an answer: "####", "\boxed{", "<answer>", "answer:", "the answer to the question
# is", "answer = ", a heading "Final answer", or at the start of a line "Answer 7" without any sign
# between, or with a dash ("Answer - 7"; "Answer -7" is a negative number).
MARKER = re.compile(
  r"####|\\f?box(?:ed)? *?\{|<answer>|\[ANSWER\]"
  r"|\banswers?[*_`\" ]{0,4}"
  r"(?:(?:to|for|of|here|in|that|we|i|you|then|choice|option),? [^\n.:=]{0,80}?)?[*_` ]{0,4}"
  r"(?::|=|\b(?P<prose>(?:is|was|are)(?:n't)?|(?P<doubt>should|would|must|will|could|might|may) be"
  r"|comes (?:out )?to)\b)"
  r"|^[*_# ]{0,9}(?:the |my )?(?:final |correct )?answer[*_ ]{0,4}$"
  r"|^[*_ ]{0,4}answer[*_ ]{1,4}(?:- |— ?(?=[-$€£¥₹.0-9(])|(?=[-$€£¥₹.0-9(]))"
  r"|\bans[*_ ]{0,3}[.:=]",
  re.IGNORECASE | re.MULTILINE,
)
BOX = re.compile(r"\\f?box(?:ed)? *?\{")
_NEGATED = re.compile(
  r"(?:[\s*_,:]|(?:therefore|thus|then|clearly|actually|simply|certainly|definitely|obviously|"
  r"probably)\b){0,40}+not\b",
  re.IGNORECASE,
)
# What leads from a denied answer to the one that is meant: "not 7 but 8", "not B. It is (E)".
_RATHER = re.compile(
  r"\b(?:but|rather|instead|it is|it's|it should be|it must be|actually)\b(?! (?:than|of|not)\b)",
  re.IGNORECASE,
)
# What stands before a marker that states no answer of the text itself: "his first answer was".
_FOREIGN = re.compile(
  r"\b(?:wrong|incorrect|initial|previous|earlier|draft|his|her|their|student's|first|common)"
  r" (?:final )?$",
  re.IGNORECASE,
)
_DOUBT = re.compile(
  r"\b(?:if|suppose|assuming|unless|whether|might|could|would|say|maybe|perhaps)\b", re.IGNORECASE
)
# After "####", a heading in Markdown and not an answer: "1. Find the total", or words ("Step 1")
# with text below.
_LISTED = re.compile(r"[*_]{0,3}[0-9]{1,2}[.):] *[*_]{0,3}[A-Za-z]")
_WORDS = re.compile(r"[*_]{0,3}[A-Za-z]{2,}[^\n]{0,300}\n\s*\S")
_DISPLAY = re.compile(r"(?:\\\[|\$\$|\\\()[ \t]{0,9}\n")  # opens a formula, alone on its line
_BREAK = re.compile(r"[.!?](?=\s)|\n")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
# In a sentence that checks or explains an answer which was already given.
CHECK = re.compile(
  r"\b(?:double-?check|to check|let's check|can check|check:|check the|check this|verify"
  r"|verification|make sure|sanity|(?:answer|solution|result) is (?:correct|right)|is consistent"
  r"|confirms|another (?:way|method)|a different way|important to note|note that|in other words)\b"
  r"|^\W*(?:yes,|alternatively|this is because|this works because|this assumes|for example|but what"
  r" if|to (?:get|find) this|initially|originally)",
  re.IGNORECASE,
)


class Statement(NamedTuple):
  """The text after a marker.

  Attributes:
    text: The rest of the line, or the next line; of a box, its contents.
    prose: Whether a sentence states it ("the answer is"), not a label ("Answer:", a box).
    below: Whether it stands on a line below the marker.
    paragraph: If so, that line and those after it, up to a blank one.
    denied: Whether the marker itself denies it ("the answer isn't").
    boxed: Whether it is the contents of a box.
  """

  text: str
  prose: bool
  below: bool
  denied: bool = False
  paragraph: str = ""
  boxed: bool = False


def plain(text: str) -> str:
  """The end of the text with one spelling of its characters, without thinking and chat tokens."""
  text = thinking.split(text[-LONGEST_TEXT:]).text
  text = superscripts_as_powers(text.translate(PLAIN_CHARACTERS))
  if lead := _BEFORE_REPLY.match(text):
    text = text[lead.end() :]
  turn = next((m for m in _TURN.finditer(text) if text[: m.start()].strip()), None)
  return text[: turn.start()] if turn else text


def superscripts_as_powers(text: str) -> str:
  """The text with "^2" for "²"."""
  return _SUPERSCRIPTS.sub(lambda m: "^" + unicodedata.normalize("NFKC", m[0]), text)


def without_run_on(text: str, answer: re.Pattern[str]) -> str:
  """The text up to a next question, if it runs on into one after its answer.

  A next question is one below an answer: what `answer` finds after a marker, or anywhere before a
  heading that is set off by a blank line, by Markdown or by a role. Sub-questions with numbers are
  part of an answer until one is stated.

  Args:
    text: A text as `plain` returns it.
    answer: What an answer contains.
  """
  stated = next((m for m in MARKER.finditer(text) if answer.search(text_after(text, m))), None)
  named = answer.search(text)
  opens_with_question = _RUN_ON.match(text.lstrip()) is not None
  for head in _RUN_ON.finditer(text):
    if stated and head.start() >= stated.end():
      return text[: head.start()]
    is_apart = head["mark"] or head["heading"] or head["invite"]
    is_apart = is_apart or (head["word"] or "").lower() in _ROLES
    is_apart = is_apart or text[: head.start()].endswith("\n\n")
    if named and named.end() <= head.start() and is_apart and not head["number"]:
      if not opens_with_question:
        return text[: head.start()]
  return text


def statements(text: str, *, denials: bool = True) -> Iterator[Statement]:
  """What stands after each marker of a text, the one that counts most first.

  The last marker counts most; but a box or another marker that states an answer counts more than a
  later one that only supposes or asks ("if ..., the answer would be", "is the answer 7?"). Of a
  denied answer, what is meant instead is returned; "" if the text does not say so.

  Args:
    text: A text as `plain` returns it, cut where it runs on.
    denials: Whether "not" after a marker denies an answer. It does not if it is part of one.
  """
  sure, doubtful = [], []
  for mark in MARKER.finditer(text):
    tail = text_after(text, mark)
    start = _start(text, mark.end())
    if mark[0] == "####" and (_LISTED.match(tail) or _WORDS.match(text, start)):
      continue
    before = text[max(0, mark.start() - 80) : mark.start()]
    if _FOREIGN.search(before[-24:]):
      continue
    if denials and ((mark["prose"] or "").endswith("n't") or _NEGATED.match(tail)):
      rather = _RATHER.search(tail)
      if not rather:
        doubtful.append(Statement("", prose=False, below=False))
        continue
      tail = tail[rather.end() :]
    sentence = _last_sentence(before)
    asks = mark["prose"] and (end := _SENTENCE_END.search(tail)) and end[0] == "?"
    is_denied = not denials and (mark["prose"] or "").endswith("n't")
    below = "\n" in text[mark.end() : start]
    paragraph = text[start : start + LONGEST_TEXT].partition("\n\n")[0] if below else ""
    boxed = mark[0].startswith("\\")
    found = Statement(tail, bool(mark["prose"]), below, is_denied, paragraph, boxed)
    is_doubtful = mark["prose"] and (mark["doubt"] or asks or _DOUBT.search(sentence))
    (doubtful if is_doubtful else sure).append(found)
  yield from reversed(sure)
  yield from reversed(doubtful)


def _last_sentence(text: str) -> str:
  """The part of a text after its last sentence or line end."""
  end = last_match(_SENTENCE_END, text)
  return text[end.end() if end else 0 :].rpartition("\n")[2]


def text_after(text: str, mark: re.Match[str]) -> str:
  """The rest of a marker's line, or the next line that is not blank; of a box, its contents."""
  start = _start(text, mark.end())
  tail = text[start : start + LONGEST_LINE].partition("\n")[0]
  if len(tail) == LONGEST_LINE:
    tail = tail.rstrip("0123456789.,")  # the last number may be truncated
  if mark[0].startswith("\\"):
    return box_contents(tail)
  return tail.partition("</answer>")[0].partition("[/ANSWER]")[0]


def _start(text: str, position: int) -> int:
  while position < len(text):
    if opening := _DISPLAY.match(text, position):  # the formula stands below
      position = opening.end()
    elif text[position] in ' \t\n*_:`"':
      position += 1
    else:
      break
  return position


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


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
  """The last match of a pattern in a text; None without one."""
  last = None
  for last in pattern.finditer(text):  # noqa: B007 - only the last one is needed
    pass
  return last


def sentences(text: str) -> list[str]:
  """The sentences of a text, each at most LONGEST_LINE characters of its end."""
  found, start = [], 0
  for end in _BREAK.finditer(text):
    found.append(text[start : end.end()][-LONGEST_LINE:].strip())
    start = end.end()
  found.append(text[start:][-LONGEST_LINE:].strip())
  return [sentence for sentence in found if sentence]
