"""Rationales and preference pairs as rows of the data set formats that trainers read.

messages            TRL, axolotl (chat_template), ms-swift: {"messages": [user, assistant]}
prompt_completion   TRL: {"prompt": [user], "completion": [assistant]}
preference          TRL (DPO and relatives): {"prompt": [user], "chosen": [...], "rejected": [...]}
sharegpt            LLaMA-Factory, axolotl: {"conversations": [human, gpt]}
alpaca              LLaMA-Factory, axolotl: {"instruction", "input", "output"}

Every row also says where it comes from: id, round, writer, answer. Thinking is never mixed into a
text: an assistant message has it in `reasoning_content`, other formats in a column `thinking`.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

PREFERENCE = "preference"
Row = dict[str, Any]
Message = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Source:
  """A text about a question, and where it comes from."""

  id: str
  question: str  # with its choices
  text: str
  answer: str
  round: int
  writer: str
  thinking: str = ""
  rejected: str = ""  # of a preference pair


def clean(text: str) -> str:
  """Returns the text as valid Unicode: lone surrogates become U+FFFD."""
  return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _user(source: Source) -> Message:
  return {"role": "user", "content": clean(source.question)}


def _assistant(source: Source, with_thinking: bool) -> Message:
  message = {"role": "assistant", "content": clean(source.text)}
  return message | ({"reasoning_content": clean(source.thinking)} if with_thinking else {})


def _messages(source: Source, with_thinking: bool) -> Row:
  return {"messages": [_user(source), _assistant(source, with_thinking)]}


def _prompt_completion(source: Source, with_thinking: bool) -> Row:
  return {"prompt": [_user(source)], "completion": [_assistant(source, with_thinking)]}


def _preference(source: Source, with_thinking: bool) -> Row:
  rejected = {"role": "assistant", "content": clean(source.rejected)}
  chosen = {"role": "assistant", "content": clean(source.text)}
  return {"prompt": [_user(source)], "chosen": [chosen], "rejected": [rejected]}


def _sharegpt(source: Source, with_thinking: bool) -> Row:
  turns = [("human", source.question), ("gpt", source.text)]
  row: Row = {"conversations": [{"from": who, "value": clean(text)} for who, text in turns]}
  return row | ({"thinking": clean(source.thinking)} if with_thinking else {})


def _alpaca(source: Source, with_thinking: bool) -> Row:
  row = {"instruction": clean(source.question), "input": "", "output": clean(source.text)}
  return row | ({"thinking": clean(source.thinking)} if with_thinking else {})


FORMATS: dict[str, Callable[[Source, bool], Row]] = {
  "messages": _messages,
  "prompt_completion": _prompt_completion,
  PREFERENCE: _preference,
  "sharegpt": _sharegpt,
  "alpaca": _alpaca,
}


def rows(format: str, sources: Iterable[Source]) -> list[Row]:
  """Returns the sources in a format, without duplicates. All rows have the same columns."""
  sources = list(sources)
  with_thinking = any(source.thinking for source in sources)
  found: dict[tuple[str, str, str], Row] = {}
  for source in sources:
    origin = {
      "id": clean(source.id),
      "round": source.round,
      "writer": clean(source.writer),
      "answer": clean(source.answer),
    }
    key = (source.question, source.text, source.rejected)
    found.setdefault(key, FORMATS[format](source, with_thinking) | origin)
  return list(found.values())
