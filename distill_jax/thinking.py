"""Separates thinking from the answer in a model's text, and lays it out for a student.

Thinking models write drafts before their answer, in marks that differ by vendor. Drafts are never
read as an answer. `split` knows these marks, in any case:

  <think>...</think>              DeepSeek, Qwen, GLM, Nemotron; also <thinking>, <thought>,
                                  <reasoning>, <reflection>, <scratchpad>, <|think|>, <seed:think>,
                                  <mm:think>, <longcat_think>, <think:opensource>
  [THINK]...[/THINK]              Magistral
  ◁think▷...◁/think▷              Kimi
  <|begin_of_thought|>...<|end_of_thought|>       Sky-T1, OpenThinker
  <|START_THINKING|>...<|END_THINKING|>           Command A
  <|channel>thought...<channel|>                  Gemma
  <unused94>thought...<unused95>                  MedGemma
  <|inner_prefix|>...<|inner_suffix|>             Apertus
  <|channel|>analysis<|message|>...<|end|>        gpt-oss (harmony), also without its special tokens
  Here is my thought process:...Here is my response:   Granite
  Thinking...  ...done thinking.                  Ollama's terminal

GLM's <|begin_of_box|> and <|end_of_box|> around a result are removed from the answer.
The text is untrusted; everything takes time linear in its length.
"""

import re
from typing import NamedTuple

_NAMES = (
  r"(?:(?!start_|end_)[a-z]{1,12}[:_])?think(?:ing)?(?::[a-z]{1,20})?"
  r"|thoughts?|reasoning|reflection|scratchpad"
)
_MARK = re.compile(
  rf"<\|?[ ]?(?P<tag_end>/?)[ ]?(?:{_NAMES})(?:[ ][^<>\n]{{0,99}})?\|?>"
  r"|\[(?P<bracket_end>/?)think\]"
  r"|◁(?P<arrow_end>/?)think▷"
  r"|<\|(?:begin|(?P<thought_end>end))_of_thought\|>"
  r"|<\|(?:start|(?P<thinking_end>end))_thinking\|>"
  r"|<\|inner_(?:prefix|(?P<inner_end>suffix))\|>"
  r"|<unused94>[ ]?thought\b|(?P<unused_end><unused95>)"
  r"|<\|channel>[ ]?thought\b|(?P<gemma_end><channel\|>)",
  re.IGNORECASE,
)
# Around the answer that follows a block of thinking.
_WRAPPER = re.compile(
  r"\A\s*+(?:<(?:answer|response|output|solution)>|<\|begin_of_solution\|>|<\|start_response\|>"
  r"|◁answer▷)|(?:</(?:answer|response|output|solution)>|<\|end_of_solution\|>"
  r"|<\|end_response\|>|◁/answer▷)(?=\s*+\Z)",
  re.IGNORECASE,
)
_HARMONY = re.compile(
  r"(?:<\|start\|>[^<>|]{0,99})?<\|channel\|>(?P<channel>[^<>|]{0,99})"
  r"(?:<\|constrain\|>[^<>|]{0,99})?<\|message\|>"
)
_HARMONY_END = re.compile(r"<\|(?:end|return|call|start)\|>")
_BARE_HARMONY = re.compile(r"\A\s{0,99}analysis(?=\S)")  # its special tokens are left out
_BARE_FINAL = "assistantfinal"
_PHRASES = tuple(  # they are marks only at the beginning of a text, and only together
  re.compile(rf"\A\s*+{opening}(.*?){closing}", re.IGNORECASE | re.DOTALL)
  for opening, closing in (
    (r"here(?: is|['’]s) my thought process:", r"\nhere(?: is|['’]s) my response:"),
    (r"thinking\.\.\.\n", r"\n\.\.\.done thinking\.(?:\n|\Z)"),
  )
)
_BOX = re.compile(r"<\|(?:begin|end)_of_box\|>")
_BOX_PART = "_of_box|>"

# Most texts contain no mark, and a search for these is many times faster than the patterns.
_HARMONY_PART = "<|channel|>"
_MARK_STARTS = ("<", "[", "◁")

_FAMILIES = (
  *("tag_end", "bracket_end", "arrow_end", "thought_end", "thinking_end", "inner_end"),
  *("unused_end", "gemma_end"),
)


class Split(NamedTuple):
  """A text in two parts.

  Attributes:
    text: The answer, with the rationale that leads to it.
    thinking: The drafts before it, without their marks; blocks are separated by a blank line.
  """

  text: str
  thinking: str


class Marks(NamedTuple):
  """What surrounds the thinking of a student."""

  opening: str
  closing: str


DEFAULT = Marks("<think>\n", "\n</think>\n\n")
# Marks of other templates, by a text that only such a template contains.
_OF_TEMPLATES = {
  "[THINK]": Marks("[THINK]", "[/THINK]"),
  "◁think▷": Marks("◁think▷", "◁/think▷"),
  "<|begin_of_thought|>": Marks("<|begin_of_thought|>\n", "\n<|end_of_thought|>\n\n"),
  "<|START_THINKING|>": Marks("<|START_THINKING|>", "<|END_THINKING|>"),
  "<thinking>": Marks("<thinking>\n", "\n</thinking>\n\n"),
  "<thought>": Marks("<thought>\n", "\n</thought>\n\n"),
}


def is_mark(text: str) -> bool:
  """Whether a text is a mark around thinking, or around the answer after it."""
  return any(pattern.fullmatch(text) for pattern in (_MARK, _WRAPPER))


def split(text: str) -> Split:
  """Separates the thinking in a text from the rest.

  A closing mark without an opening one ends thinking that began with the text. Thinking that no
  mark ends extends to the end of the text. A text without marks is returned unchanged.
  """
  found = _split(text)
  if _BOX_PART not in found.text:
    return found
  return Split(_BOX.sub("", found.text).strip(), found.thinking)


def _split(text: str) -> Split:
  if _HARMONY_PART in text and _HARMONY.search(text):
    return _split_harmony(text)
  if _BARE_HARMONY.match(text) and _BARE_FINAL in text:
    head, _, answer = text.rpartition(_BARE_FINAL)
    return Split(answer.strip(), head.strip().removeprefix("analysis").strip())
  for phrase in _PHRASES:
    if found := phrase.match(text):
      return Split(text[found.end() :].strip(), found[1].strip())
  return _split_marks(text) if any(start in text for start in _MARK_STARTS) else Split(text, "")


def _split_marks(text: str) -> Split:
  answer: list[str] = []
  thoughts: list[str] = []
  start, inside = 0, ""  # inside: the family of the mark that began the current block
  closed = False  # whether a block has ended
  for mark in _MARK.finditer(text):
    family, closes = _family(mark)
    part = text[start : mark.start()]
    if inside and closes and family == inside:
      thoughts.append(part)
      inside, closed = "", True
    elif not inside and closes and closed and not text[mark.end() :].strip():
      answer.append(part)  # a stray mark at the end of an answer
    elif not inside and closes:
      thoughts += [*answer, part]
      answer = []
    elif not inside:
      answer.append(part)
      inside = family
    else:  # another mark within a block is a part of it
      continue
    start = mark.end()
  if not start:
    return Split(text, "")
  (thoughts if inside else answer).append(text[start:])
  kept = _WRAPPER.sub("", "".join(answer).strip()).strip()
  return Split(kept, join(thoughts))


def _family(mark: re.Match[str]) -> tuple[str, bool]:
  """Returns the family of a mark and whether it closes a block."""
  for name in _FAMILIES:
    if mark[name]:
      return name, True
  start = mark[0].lower()
  for beginning, name in (
    ("[", "bracket_end"),
    ("◁", "arrow_end"),
    ("<|begin_of", "thought_end"),
    ("<|start_", "thinking_end"),
    ("<|inner_", "inner_end"),
    ("<unused94>", "unused_end"),
    ("<|channel>", "gemma_end"),
  ):
    if start.startswith(beginning):
      return name, False
  return "tag_end", False


def _split_harmony(text: str) -> Split:
  """The `final` channel, or text outside of any channel, is the answer."""
  answer: list[str] = []
  thoughts: list[str] = []
  headers = list(_HARMONY.finditer(text))
  answer.append(text[: headers[0].start()])
  ends = [*(header.start() for header in headers[1:]), len(text)]
  for header, end in zip(headers, ends, strict=True):
    content = text[header.end() : end]
    stop = _HARMONY_END.search(content)
    content = content[: stop.start()] if stop else content
    final = header["channel"].strip().lower().startswith("final")
    (answer if final else thoughts).append(content)
  return Split("".join(answer).strip(), join(thoughts))


def join(blocks: list[str]) -> str:
  """Blocks of thinking as one text, without empty and repeated ones."""
  stripped = [block.strip() for block in blocks]
  return "\n\n".join(dict.fromkeys(block for block in stripped if block))


def end(text: str) -> int | None:
  """Where the answer begins in a text that starts with a block of thinking.

  Returns:
    0 if it does not start with one; None if the block is still open.
  """
  first = _MARK.match(text, len(text) - len(text.lstrip()))
  if first is None or _family(first)[1]:
    return 0
  for mark in _MARK.finditer(text, first.end()):
    if _family(mark) == (_family(first)[0], True):
      return len(text) - len(text[mark.end() :].lstrip())
  return None


def lay_out(thinking: str, text: str, marks: Marks = DEFAULT) -> str:
  """Puts the thinking, in `marks`, before a text; without thinking it is the text alone."""
  return f"{marks.opening}{thinking}{marks.closing}{text}" if thinking else text


def marks_of(template: str) -> Marks:
  """The marks of a chat template; DEFAULT for a template without any."""
  if "</think>" in template:
    return DEFAULT
  return next((marks for text, marks in _OF_TEMPLATES.items() if text in template), DEFAULT)
