"""Replies as JSON: their schemas, and parsers with the same results as those of `parsing`.

  annotate   {"steps": ["3 + 4 = 7"], "answer": "7"}
  correct    {"mistake": "It subtracts.", "steps": ["3 + 4 = 7"], "answer": "7"}
  stage      {"key_information": "Lamps give light.",
              "explanations": [{"option": "A", "correct": false, "reason": "It is dark."}, ...]}
  decompose  {"steps": [{"sub_question": "How many?", "solution": "3 + 4 = 7"}], "answer": "7"}

The object may stand in a fence, in prose or in another object, and may have further fields. If
several have the required ones, the last counts: models correct themselves. Parsers return None for
anything else; the plain-text parsers may then read it, unless it is `broken`.
"""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from distill_jax.teacher.prompts import messages, parsing

VERSION = 1  # of the schemas; part of the cache key

MAX_WORK = 8  # characters read for each character of a reply, at most
DEEP = 2**16  # characters that count as read for an object that is nested too deep

# An answer may come as a number; a step may hold line ends.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, strict=False)
_OBJECT = re.compile(r'\{(?=\s{0,99}")')
_ANSWER = re.compile(r"Answer: (.+)")
_VERDICT = re.compile(r"(\S{1,9}) is (in)?correct\. Because (.+)")


def _text(meaning: str) -> dict[str, Any]:
  return {"type": "string", "description": meaning}


def _list(items: dict[str, Any]) -> dict[str, Any]:
  return {"type": "array", "items": items}


def _object(**fields: dict[str, Any]) -> dict[str, Any]:
  """An object with all fields required and no others, as strict servers demand."""
  return {
    "type": "object",
    "properties": fields,
    "required": list(fields),
    "additionalProperties": False,
  }


_STEPS = _list(_text("one short reasoning step, with the arithmetic spelled out"))
_FINAL = _text("the final answer alone, without units")
_OPTION = _object(
  option=_text("the label of the option"),
  correct={"type": "boolean"},
  reason=_text("the reason in one sentence"),
)
_STEP = _object(
  sub_question=_text("the next thing one has to find out"),
  solution=_text("its solution in one line, with the arithmetic spelled out"),
)
SCHEMAS: dict[str, dict[str, Any]] = {
  "annotate": _object(steps=_STEPS, answer=_FINAL),
  "correct": _object(
    mistake=_text("where the attempt first goes wrong, and why, in one or two sentences"),
    steps=_STEPS,
    answer=_FINAL,
  ),
  "stage": _object(
    key_information=_text("the general knowledge one needs, without a verdict"),
    explanations=_list(_OPTION),
  ),
  "decompose": _object(steps=_list(_STEP), answer=_FINAL),
}


def response_format(kind: str) -> dict[str, Any]:
  """The `response_format` of a request body that enforces the schema of this kind of request."""
  schema = {"name": kind, "strict": True, "schema": SCHEMAS[kind]}
  return {"type": "json_schema", "json_schema": schema}


def with_json_instruction(prompt: Sequence[tuple[str, str]], kind: str) -> messages.Messages:
  """Adds an instruction to reply in JSON: not every server shows the schema to its model."""
  (role, content), *rest = prompt
  fields = json.dumps(SCHEMAS[kind]["properties"])
  note = f"Do not write that layout: write its parts as one JSON object with these fields: {fields}"
  return ((role, f"{content}\n{note}"), *rest)


def parse_annotation(text: str) -> str | None:
  """A rationale that ends in its answer line."""
  fields = _fields("annotate", text)
  return None if fields is None else _rationale(fields)


def parse_correction(text: str) -> tuple[str, str] | None:
  """(critique, rationale), as `parsing.split_correction`."""
  fields = _fields("correct", text)
  return None if fields is None else (fields["mistake"].strip(), _rationale(fields))


def parse_stages(
  text: str, labels: Collection[str]
) -> tuple[tuple[tuple[str, str], ...], str] | None:
  """(parts, the label marked correct), as `parsing.split_stages`, in the order of the reply."""
  fields = _fields("stage", text)
  if fields is None:
    return None
  rows = [(_line(row["option"]), row["correct"], row["reason"]) for row in fields["explanations"]]
  correct = [label for label, is_correct, _ in rows if is_correct]
  if sorted(label for label, _, _ in rows) != sorted(labels) or len(correct) != 1:
    return None
  parts = [("recall", fields["key_information"]), *((label, reason) for label, _, reason in rows)]
  return tuple((name, _line(content)) for name, content in parts), correct[0]


def parse_decomposition(text: str) -> tuple[tuple[tuple[str, str], ...], str] | None:
  """(steps as `parsing.split_steps` returns them, the reply in the layout of `join_steps`)."""
  fields = _fields("decompose", text)
  if fields is None:
    return None
  steps = tuple((_line(row["sub_question"]), _line(row["solution"])) for row in fields["steps"])
  return steps, messages.join_steps(steps, _line(fields["answer"]))


def as_json(kind: str, text: str) -> str | None:
  """Converts a plain-text reply to the JSON of its schema.

  Args:
    kind: Kind of the request.
    text: A reply exactly in the layout that `messages` asks for.

  Returns:
    The JSON; None if the reply is not in that layout.
  """
  if kind == "stage":
    return _stages_as_json(text)
  fields: dict[str, Any] = {}
  rationale = text.strip()
  if kind == "correct":
    fields["mistake"], rationale = parsing.split_correction(text) or ("", "")
  *steps, last = rationale.split("\n")
  answer = _ANSWER.fullmatch(last.strip())
  if not answer:
    return None
  if kind == "decompose":
    fields["steps"] = [
      {"sub_question": question, "solution": solution}
      for question, solution in parsing.split_steps(text) or ()
    ]
  else:
    fields["steps"] = steps
  return json.dumps({**fields, "answer": answer[1]})


def _stages_as_json(text: str) -> str | None:
  key, _, rest = text.partition("\nExplanations:\n")
  explanations = []
  for line in rest.split("\n"):
    verdict = _VERDICT.fullmatch(line)
    if not verdict:
      return None
    explanations.append({"option": verdict[1], "correct": not verdict[2], "reason": verdict[3]})
  key = key.removeprefix("Key Information: ")
  return json.dumps({"key_information": key, "explanations": explanations})


def broken(kind: str, text: str) -> bool:
  """Whether a text has all fields of a reply as JSON, but cannot be read as one."""
  names = SCHEMAS[kind]["properties"]
  named = "{" in text and all(f'"{name}"' in text for name in names)
  return named and _fields(kind, text) is None


def _fields(kind: str, text: str) -> dict[str, Any] | None:
  """The fields of the last object in a text that follows the schema; None if there is none."""
  found = [
    fields
    for value in _objects(text)
    for fields in _nested(value)
    if _follows(SCHEMAS[kind], fields)
  ]
  return found[-1] if found else None


def _objects(text: str) -> Iterator[dict[str, Any]]:
  """The JSON objects in a text that are in no other one. Takes linear time: the work is limited."""
  at, work = 0, MAX_WORK * len(text)
  while work > 0 and (start := _OBJECT.search(text, at)):
    try:
      value, end = _DECODER.raw_decode(text, start.start())
    except json.JSONDecodeError as error:
      at, work = start.end(), work - max(error.pos - start.start(), 1)
    except RecursionError:
      at, work = start.end(), work - DEEP
    else:
      at = end
      yield value


def _nested(value: Any) -> Iterator[dict[str, Any]]:
  """An object and the objects in it; inner ones come first."""
  waiting, found = [value], list[dict[str, Any]]()
  while waiting:
    value = waiting.pop()
    if isinstance(value, dict):
      found.append(value)
      waiting += value.values()
    elif isinstance(value, list):
      waiting += value
  yield from reversed(found)


def _follows(schema: dict[str, Any], value: Any) -> bool:
  if schema["type"] == "object":
    fields = schema["properties"]
    same = isinstance(value, dict) and value.keys() >= fields.keys()
    return same and all(_follows(fields[name], value[name]) for name in fields)
  if schema["type"] == "array":
    items = schema["items"]
    return isinstance(value, list) and bool(value) and all(_follows(items, v) for v in value)
  if schema["type"] == "boolean":
    return isinstance(value, bool)
  return isinstance(value, str) and bool(value.strip())


def _rationale(fields: dict[str, Any]) -> str:
  steps = [step.strip() for step in fields["steps"]]
  return "\n".join([*steps, f"Answer: {_line(fields['answer'])}"])


def _line(text: str) -> str:
  return " ".join(text.split())
