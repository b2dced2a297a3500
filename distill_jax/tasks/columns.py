"""Which columns of your own file hold the question, the answer and the rest.

Columns are found by name, in any case and with any separators. A setting overrides each guess.
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from distill_jax import errors
from distill_jax.data import tables

# Names of each column, the most telling first.
NAMES = {
  "question": (
    *("question", "problem", "query", "prompt", "input", "instruction", "question text"),
    *("question stem", "stem", "q", "goal", "text", "sentence", "user", "request", "task"),
  ),
  "answer": (
    *(
      "final answer",
      "answer",
      "answers",
      "answer key",
      "gold",
      "label",
      "target",
      "correct answer",
    ),
    *("ground truth", "correct", "expected", "expected answer", "reference", "output", "solution"),
    *("correct option", "correct choice", "correct label", "right answer", "answer index"),
    *("response", "completion", "final ans", "lsolutions", "a", "y"),
  ),
  "choices": ("choices", "options", "candidates", "answer choices", "alternatives", "endings"),
  "rationale": (
    *("rationale", "explanation", "cot", "chain of thought", "reasoning", "thought", "thoughts"),
    *("chain", "steps", "solution", "working", "justification"),
  ),
  "id": ("id", "qid", "question id", "uid", "unique id", "example id", "problem id"),
  "split": ("split", "set", "partition", "subset"),
}
# Columns whose text stands before the question, if there is a question column, too.
_CONTEXT = ("context", "passage", "body", "instruction", "premise", "background", "article")
_CONTEXT += ("document", "ctx", "paragraph", "story", "support")
_WORD = re.compile(r"[a-z]+|[0-9]+")
# One column for each option: "A", "option_a", "choice1", "answerA", "sol1", "opt 2".
_OPTION = re.compile(r"(?:(?:option|choice|answer|opt|sol|ending)[ _-]?([a-h0-9])|([A-H]))")
_OPTION_MARK = re.compile(r"(?:^|(?<=\s))\(?([A-Ha-h1-9])(?: ?\)|[.:])\s")
# Signs between options without marks; a comma between digits only where there is no other.
_BETWEEN_OPTIONS = tuple(
  re.compile(pattern)
  for pattern in (r"\n", r"\|", r";", r"(?<![0-9]),|,(?![0-9])", r",(?![0-9]{3}(?![0-9]))")
)
# Lists as NumPy writes them: array(['one', 'two'], dtype=object), and ['one' 'two'].
_ARRAY = re.compile(r"array\((\[[^\[\]]{0,5000}\])(?:, dtype=[^()]{1,20})?\)")
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
_SPACED_LIST = re.compile(rf"\s*\[\s*(?:{_QUOTED.pattern})(?:\s+(?:{_QUOTED.pattern}))+\s*\]\s*")
_MOST_NAMES, _LONG_NAME = 20, 40  # names of columns that an error lists, and their characters
NONE = "none"  # the setting for "there is no such column"


class Columns(NamedTuple):
  """Names of columns in a file; "" or () where it has none.

  Attributes:
    question: The question.
    context: Columns whose text stands before the question.
    answer: The answer.
    choices: The column that lists the options, or the columns of one option each.
    rationale: A rationale.
    id: The id of the question.
    split: The split.
    chat: The column of a conversation, which holds question and answer.
  """

  question: str = ""
  context: tuple[str, ...] = ()
  answer: str = ""
  choices: tuple[str, ...] = ()
  rationale: str = ""
  id: str = ""
  split: str = ""
  chat: str = ""

  def described(self) -> dict[str, str]:
    """The role of each column that is used, by its name."""
    roles = {"question": self.chat or " + ".join((*self.context, self.question))}
    roles |= {"answer": self.answer or self.chat, "choices": ", ".join(self.choices)}
    roles |= {"rationale": self.rationale, "id": self.id, "split": self.split}
    return {role: name for role, name in roles.items() if name}


def guess(rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, str], where: str) -> Columns:
  """Finds the columns of a table.

  Args:
    rows: Its rows.
    chosen: Columns set by the user, by role; "" to guess, "none" for no such column.
    where: Names the file in errors.

  Raises:
    errors.UserError: A chosen column is not there, or there is no column for question or answer.
  """
  there = list(dict.fromkeys(key for row in rows[:1000] for key in row))
  for role, name in chosen.items():
    if name not in ("", NONE) and name not in there:
      raise errors.config(f"task.columns.{role}", name, f"a column of {where}: {_listed(there)}")
  used = {name for name in chosen.values() if name}
  found = {role: "" if name == NONE else name for role, name in chosen.items()}
  if not found.get("question") and (chat := _chat_column(rows, there)):
    return Columns(chat=chat, id=_find("id", there, used), split=_find("split", there, used))

  def settle(role: str) -> None:
    if not chosen.get(role):
      found[role] = _find(role, there, used)
    used.add(found[role])

  options = _option_columns(there) if not chosen.get("choices") else ()
  # The answer comes before the rationale: "solution" is the answer only if no other column is.
  for role in ("question", "choices", "answer", "rationale", "id", "split"):
    settle(role)
  if not chosen.get("split") and not _names_splits(rows, found["split"]):
    found["split"] = ""
  if not found["question"]:
    raise _missing("question", where, there)
  if not found["answer"]:
    raise _missing("answer", where, there)
  choices = (found["choices"],) if found["choices"] else options
  context = ()
  if not chosen.get("question"):
    context = tuple(
      name for name in there if _plain(name) in _CONTEXT and name not in found.values()
    )
  if _plain(found["question"]) == "input" and not chosen.get("question"):
    instruction = next((name for name in there if _plain(name) == "instruction"), "")
    context = tuple(dict.fromkeys([instruction, *context])) if instruction else context
  return Columns(
    found["question"],
    context,
    found["answer"],
    tuple(name for name in choices if name != found["answer"]),
    found["rationale"],
    found["id"],
    found["split"],
  )


def _names_splits(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
  """Whether most values of a column are names of splits; "subset" may hold a subject."""
  known = [str(row.get(column) or "").strip().lower() in tables.SPLITS for row in rows]
  return 2 * sum(known) > len(known)


def question_of(row: Mapping[str, Any], columns: Columns) -> str:
  """The question of a row, below its context; "" if it has none."""
  if columns.chat:
    return _turns(row.get(columns.chat))[0]
  value = row.get(columns.question)
  if isinstance(value, dict):
    value = value.get("stem") or value.get("text") or value.get("question")
  if isinstance(value, list):
    texts = [part for part in value if isinstance(part, str)]
    value = "\n".join(texts) if len(texts) == len(value) else _turns(value)[0]
  parts = [row.get(name) for name in columns.context] + [value]
  return "\n".join(str(part).strip() for part in parts if part not in (None, "")).strip()


def answer_of(row: Mapping[str, Any], columns: Columns) -> Any:
  """The raw answer of a row; None if it has none."""
  if columns.chat:
    return _turns(row.get(columns.chat))[1] or None
  value = row.get(columns.answer)
  if isinstance(value, list) and value and all(isinstance(m, dict) for m in value):
    return _turns(value)[1] or value  # messages, of which the reply is the answer
  return value


def choices_of(row: Mapping[str, Any], columns: Columns) -> list[tuple[str, str]]:
  """The (published label, text) of each option of a row; [] if it has none."""
  if len(columns.choices) > 1:
    values = [(name, row.get(name)) for name in columns.choices]
    return [
      (_option_label(name), str(text).strip()) for name, text in values if text not in (None, "")
    ]
  value = row.get(columns.choices[0]) if columns.choices else None
  question = row.get(columns.question)
  if value is None and isinstance(question, dict):
    value = question.get("choices")
  if isinstance(value, str):
    value = _parse_options(value)
  if isinstance(value, dict):
    labels = value.get("label") or value.get("labels")
    texts = value.get("text") or value.get("texts")
    if isinstance(texts, list) and labels is None:
      return [_option(number, option) for number, option in enumerate(texts)]
    if isinstance(labels, list) and isinstance(texts, list) and len(labels) == len(texts):
      return [(str(a), str(b).strip()) for a, b in zip(labels, texts, strict=True)]
    return [(str(label), str(text).strip()) for label, text in value.items()]
  if not isinstance(value, list):
    return []
  return [_option(number, option) for number, option in enumerate(value)]


def _find(role: str, there: Sequence[str], used: set[str]) -> str:
  """The column with the most telling name for a role; "" if there is none."""
  plain = {_plain(name): name for name in reversed(there) if name not in used}
  return next((plain[name] for name in NAMES[role] if name in plain), "")


def _plain(name: str) -> str:
  """A name in lower case with single spaces: "finalAnswer" is "final answer"."""
  spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
  return " ".join(_WORD.findall(spaced.lower()))


def _option_columns(there: Sequence[str]) -> tuple[str, ...]:
  """The columns of one option each; () unless there are at least two."""
  found = [name for name in there if _OPTION.fullmatch(name) or _OPTION.fullmatch(name.lower())]
  return tuple(found) if len(found) >= 2 else ()


def _option_label(name: str) -> str:
  match = _OPTION.fullmatch(name) or _OPTION.fullmatch(name.lower())
  return (match[1] or match[2] if match else name).upper()


def _option(number: int, option: Any) -> tuple[str, str]:
  """The (label, text) of an option in a list: a text, "A) text", or {"label": ..., "text": ...}."""
  if isinstance(option, dict):
    text = option.get("text", option.get("value", option.get("content", "")))
    return str(option.get("label", option.get("key", "ABCDEFGHIJ"[number % 10]))), str(text).strip()
  text = str(option[0] if isinstance(option, list) and len(option) == 1 else option).strip()
  letter = "ABCDEFGHIJ"[number % 10]
  match = re.fullmatch(rf"\(?{letter}[).:]\s*(.{{1,2000}})", text, re.DOTALL | re.IGNORECASE)
  return letter, match[1].strip() if match else text


def _parse_options(text: str) -> Any:
  """Options in one text: JSON, lines, "A) one B) two", or separated by "|" or ";".

  None for a text that is written as a list and cannot be read as one.
  """
  text = _ARRAY.sub(r"\1", text)  # as NumPy writes it
  if _SPACED_LIST.fullmatch(text):
    return [one or other for one, other in _QUOTED.findall(text)]
  for parse in (json.loads, ast.literal_eval):  # a list as JSON or as Python writes it
    try:
      parsed = parse(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
      continue
    if parse is json.loads or (isinstance(parsed, list | dict) and len(parsed) > 1):
      return parsed
  if (text.strip()[:1], text.strip()[-1:]) in (("[", "]"), ("{", "}")):
    return None
  if marked := _marked(text):
    return marked
  for mark in _BETWEEN_OPTIONS:
    parts = [part.strip() for part in mark.split(text) if part.strip()]
    if len(parts) > 1:
      return parts
  return None


def _marked(text: str) -> list[str]:
  """The options of "A) one B) two"; [] unless the text begins with the first of two marks."""
  marks = list(_OPTION_MARK.finditer(text))
  for labels in ("ABCDEFGH", "abcdefgh", "123456789"):
    following: list[re.Match[str]] = []
    for mark in marks:
      if len(following) < len(labels) and mark[1] == labels[len(following)]:
        following.append(mark)
    if len(following) > 1 and not text[: following[0].start()].strip():
      ends = [*(mark.start() for mark in following[1:]), len(text)]
      parts = zip(following, ends, strict=True)
      return [text[mark.end() : end].strip().rstrip(",;").strip() for mark, end in parts]
  return []


def _chat_column(rows: Sequence[Mapping[str, Any]], there: Sequence[str]) -> str:
  for name in there:
    if _plain(name) in ("messages", "conversations", "conversation", "dialog", "dialogue"):
      if isinstance(rows[0].get(name), list):
        return name
  return ""


def _turns(messages: Any) -> tuple[str, str]:
  """The question and the answer of a conversation: its last two turns, below a system text."""
  turns: dict[str, str] = {}
  for message in messages if isinstance(messages, list) else []:
    if isinstance(message, dict):
      role = str(message.get("role") or message.get("from") or "").lower()
      text = _content(message.get("content") or message.get("value")).strip()
      is_user = role in ("user", "human")
      turns["user" if is_user else "assistant" if role in ("assistant", "gpt") else role] = text
  return turns.get("user", ""), turns.get("assistant", "")


def _content(content: Any) -> str:
  """The text of a message: a text, or a list of parts, of which those with a text count."""
  if isinstance(content, list):
    parts = [part.get("text") if isinstance(part, dict) else part for part in content]
    return "\n".join(part for part in parts if isinstance(part, str))
  return "" if content is None else str(content)


def _missing(role: str, where: str, there: Sequence[str]) -> errors.UserError:
  return errors.data(
    f"{where}: no column that looks like the {role} (its columns are {_listed(there)});"
    f" set --config.task.columns.{role}=COLUMN"
  )


def _listed(there: Sequence[str]) -> str:
  """The names of columns, cut to what fits in an error."""
  names = [name if len(name) <= _LONG_NAME else f"{name[:_LONG_NAME]}..." for name in there]
  more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
  return (", ".join(names[:_MOST_NAMES]) or "none") + more
