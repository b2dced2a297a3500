"""How the teacher's replies in parts are taken apart: verdicts on options, and sub-questions.

The released reader of TinyThinker cuts each line at "Because", "Although" or "While": two of them
in one line end it, and the explanations keep the teacher's order. Here verdicts are looked for in
the whole text, and what comes back is in the order of the options. Every pattern is linear.
"""

import re

_KEY = re.compile(r"\bkey information[ _*]{0,4}:", re.IGNORECASE)
_EXPLANATIONS = re.compile(r"\bexplanations?[ _*]{0,4}:", re.IGNORECASE)
_START = r"(?:^[ \t>*#•-]{0,6}(?:\(?[0-9]{1,2}[.)] )?|(?<=[.!?;:] ))"  # a line's, or a sentence's
_REASON = r"[ \t]{0,4}[.,:;-]?\s{0,4}(?:because|although|while|since)\b,?"
_END = re.compile(r"\n\s{0,99}\n|\n[ \t]{0,9}(?:so,? )?(?:the )?(?:final )?answer\b", re.I)
_STEP = re.compile(
  _START
  + r"(?:(?:step )?[0-9]{1,2}[.):] )?(?:(?P<asked>sub-? ?question|question)|(?P<solved>solution"
  r"|(?:sub-? ?)?answer(?= ?[0-9]{1,2} ?:)|sub-? ?answer)|(?P<final>(?:final )?answer))"
  r"(?: ?#?[0-9]{1,2})?[.)]? ?:",
  re.IGNORECASE | re.MULTILINE,
)


def split_stages(
  text: str, labels, *, as_written: bool = False
) -> tuple[tuple[tuple[str, str], ...], str] | None:
  """(("recall", text), (label, reason) ... in the order of `labels`, or as written), and the label
  marked correct.

  None unless there are key information, a reason for every option, and exactly one correct option.
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
  following = dict(zip(starts, [*starts[1:], len(text)], strict=True))
  for label in sorted(labels, key=lambda x: verdicts[x][0]) if as_written else labels:
    start, end, _ = verdicts[label]
    parts.append((label, _reason(text[end : following[start]])))
  correct = [label for label in labels if verdicts[label][2]]
  if len(correct) != 1 or not all(part for _, part in parts):
    return None
  return tuple(parts), correct[0]


def split_steps(text: str) -> tuple[tuple[str, str], ...] | None:
  """((sub-question, solution), ...) up to the answer line; None unless they alternate and none is
  empty."""
  text = _plain(text)
  parts, asked = [], None
  marks = list(_STEP.finditer(text))
  ends = [*(mark.start() for mark in marks), len(text)][1:]
  for mark, end in zip(marks, ends, strict=True):
    if mark["final"]:
      break
    said = " ".join(text[mark.end() : end].split())
    if not said or bool(mark["asked"]) != (asked is None):
      return None
    if mark["asked"]:
      asked = said
    else:
      parts.append((asked, said))
      asked = None
  return tuple(parts) if parts and asked is None else None


def _plain(text: str) -> str:
  """Without Markdown's bold, and with one kind of line end."""
  for mark in ("**", "__", "`"):
    text = text.replace(mark, "")
  return "\n".join(text.splitlines())


def _verdicts(text: str, labels, begin: int):
  """label -> (start, end, is it correct?) of its first verdict behind `begin`.

  A verdict begins a line, or, if "Because" or the like follows, a sentence.
  """
  options = "|".join(re.escape(x) for x in sorted(labels, key=len, reverse=True))
  verdict = re.compile(
    rf"{_START}(?:option )?[(\[]?(?P<label>{options})"
    r"(?:[)\]]?[.:)]?(?: [^\n]{0,99}?)?? is|[)\]]?:)"
    r" (?P<no>in|not )?(?:correct|right|(?P<wrong>wrong))\b"
    rf"(?:(?P<why>{_REASON})|[ \t]{{0,4}}[.,:;-]?)",
    re.IGNORECASE | re.MULTILINE,
  )
  spelt, found = {label.lower(): label for label in labels}, {}
  for mark in verdict.finditer(text, begin):
    label = spelt[mark["label"].lower()]
    inside = mark.start() > begin and text[mark.start() - 1] == " "
    if label not in found and (mark["why"] or not inside):
      found[label] = (mark.start(), mark.end(), not (mark["no"] or mark["wrong"]))
  return found


def _reason(text: str) -> str:
  """An explanation in one line, up to a blank line or a closing sentence that states the answer."""
  text = text.strip()
  end = _END.search(text)
  return " ".join((text[: end.start()] if end else text).split())
