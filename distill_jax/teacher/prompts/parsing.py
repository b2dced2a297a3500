"""Parses the teacher's plain-text replies: corrections, verdicts on options, sub-questions.

TinyThinker's released parser cuts each line at "Because", "Although" or "While": a second such word
ends the line, and explanations keep the teacher's order. Here verdicts are searched for in the
whole text, and come back in the order of the options.

Replies are untrusted. Everything takes time linear in the length of the text.
"""

import re
from collections.abc import Collection, Sequence

_KEY = re.compile(r"\bkey information[ _*]{0,4}:", re.IGNORECASE)
_EXPLANATIONS = re.compile(r"\bexplanations?[ _*]{0,4}:", re.IGNORECASE)
_START = r"(?:^[ \t>*#•-]{0,6}(?:\(?[0-9]{1,2}[.)] )?|(?<=[.!?;:] ))"  # of a line or a sentence
_REASON = r"[ \t]{0,4}[.,:;-]?\s{0,4}(?:because|although|while|since)\b,?"
_END = re.compile(r"\n\s{0,99}\n|\n[ \t]{0,9}(?:so,? )?(?:the )?(?:final )?answer\b", re.I)
_STEP = re.compile(
  _START
  + r"(?:(?:step )?[0-9]{1,2}[.):] )?(?:(?P<asked>sub-? ?question|question)|(?P<solved>solution"
  r"|(?:sub-? ?)?answer(?= ?[0-9]{1,2} ?:)|sub-? ?answer)|(?P<final>(?:final )?answer))"
  r"(?: ?#?[0-9]{1,2})?[.)]? ?:",
  re.IGNORECASE | re.MULTILINE,
)


def split_correction(text: str) -> tuple[str, str] | None:
  """Parses a reply to `messages.correct`. Bold labels (`**Reasoning:**`) are accepted too.

  Returns:
    (critique, rationale); None if either is missing.
  """
  critique: list[str] = []
  rationale: list[str] = []
  part = None
  for line in text.splitlines():
    label, rest = _label(line)
    if label == "mistake" and part is None:
      part, line = critique, rest
    elif label == "reasoning" and part is critique:
      part, line = rationale, rest
    if part is not None:
      part.append(line.rstrip())
  first, second = "\n".join(critique).strip(), "\n".join(rationale).strip()
  return (first, second) if first and second else None


def split_stages(
  text: str, labels: Sequence[str], *, as_written: bool = False
) -> tuple[tuple[tuple[str, str], ...], str] | None:
  """Parses a reply to `messages.stage`.

  Args:
    text: The reply.
    labels: The labels of the options.
    as_written: Keep the reply's order of the options instead of the order of `labels`.

  Returns:
    (parts, the label marked correct), where the parts are ("recall", key information), then (label,
    reason) of each option. None unless there are key information, a reason for every option, and
    exactly one correct option.
  """
  text = _plain(text)
  if not (key := _KEY.search(text)):
    return None
  heading = _EXPLANATIONS.search(text, key.end())
  verdicts = _verdicts(text, labels, heading.end() if heading else key.end())
  if set(verdicts) != set(labels):
    return None
  first = heading.start() if heading else min(start for start, _, _ in verdicts.values())
  parts = [("recall", " ".join(text[key.end() : first].split()))]
  starts = sorted(start for start, _, _ in verdicts.values())
  next_start = dict(zip(starts, [*starts[1:], len(text)], strict=True))
  for label in sorted(labels, key=lambda x: verdicts[x][0]) if as_written else labels:
    start, end, _ = verdicts[label]
    parts.append((label, _reason(text[end : next_start[start]])))
  correct = [label for label in labels if verdicts[label][2]]
  if len(correct) != 1 or not all(part for _, part in parts):
    return None
  return tuple(parts), correct[0]


def split_steps(text: str) -> tuple[tuple[str, str], ...] | None:
  """Parses a reply to `messages.decompose`, up to its answer line.

  Returns:
    (sub-question, solution) pairs; None unless they alternate and none is empty.
  """
  text = _plain(text)
  steps: list[tuple[str, str]] = []
  question = None
  marks = list(_STEP.finditer(text))
  ends = [*(mark.start() for mark in marks), len(text)][1:]
  for mark, end in zip(marks, ends, strict=True):
    if mark["final"]:
      break
    content = " ".join(text[mark.end() : end].split())
    if not content:
      return None
    if mark["asked"]:
      if question is not None:
        return None
      question = content
    else:
      if question is None:
        return None
      steps.append((question, content))
      question = None
  return tuple(steps) if steps and question is None else None


def _label(line: str) -> tuple[str, str]:
  """("mistake", "reasoning" or "", what follows the colon)."""
  head, colon, rest = line.partition(":")
  if not colon or len(head) > 20:
    return "", line
  word = head.strip(" *#_").lower()
  if word not in ("mistake", "reasoning"):
    return "", line
  return word, rest.strip().removeprefix("**").strip()


def _plain(text: str) -> str:
  """Without Markdown's bold, and with uniform line ends."""
  for mark in ("**", "__", "`"):
    text = text.replace(mark, "")
  return "\n".join(text.splitlines())


def _verdicts(text: str, labels: Collection[str], begin: int) -> dict[str, tuple[int, int, bool]]:
  """{label: (start, end, is it correct?)} of each label's first verdict after `begin`.

  A verdict begins a line or, if "Because" or a similar word follows, a sentence.
  """
  options = "|".join(re.escape(x) for x in sorted(labels, key=len, reverse=True))
  pattern = re.compile(
    rf"{_START}(?:option )?[(\[]?(?P<label>{options})"
    r"(?:[)\]]?[.:)]?(?: [^\n]{0,99}?)?? is|[)\]]?:)"
    r" (?P<no>in|not )?(?:correct|right|(?P<wrong>wrong))\b"
    rf"(?:(?P<why>{_REASON})|[ \t]{{0,4}}[.,:;-]?)",
    re.IGNORECASE | re.MULTILINE,
  )
  by_lower = {label.lower(): label for label in labels}
  verdicts: dict[str, tuple[int, int, bool]] = {}
  for match in pattern.finditer(text, begin):
    label = by_lower[match["label"].lower()]
    within_line = match.start() > begin and text[match.start() - 1] == " "
    if label not in verdicts and (match["why"] or not within_line):
      correct = not (match["no"] or match["wrong"])
      verdicts[label] = (match.start(), match.end(), correct)
  return verdicts


def _reason(text: str) -> str:
  """An explanation on one line, up to a blank line or a sentence that states the answer."""
  text = text.strip()
  end = _END.search(text)
  return " ".join((text[: end.start()] if end else text).split())
