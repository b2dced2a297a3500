"""Structured replies: what a reply has to look like as JSON, and how it is read into what the
plain readers of prompts.py give.

  annotate   {"steps": ["3 + 4 = 7"], "answer": "7"}
  correct    {"mistake": "It subtracts.", "steps": ["3 + 4 = 7"], "answer": "7"}
  stage      {"key_information": "Lamps give light.",
              "explanations": [{"option": "A", "correct": false, "reason": "It is dark."}, ...]}
  decompose  {"steps": [{"sub_question": "How many?", "solution": "3 + 4 = 7"}], "answer": "7"}

Readers give None for what is not exactly that: it is then for the plain reader.
"""

import json
import re

from distill_jax.teacher.prompts import messages as prompts

VERSION = 1  # of the schemas; part of the cache key

_ANSWER = re.compile(r"Answer: (.+)")
_VERDICT = re.compile(r"(\S{1,9}) is (in)?correct\. Because (.+)")


def _text(meaning: str) -> dict:
  return {"type": "string", "description": meaning}


def _list(items: dict) -> dict:
  return {"type": "array", "items": items}


def _object(**fields) -> dict:
  """With all fields required and no others, as strict servers want it."""
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
SCHEMAS = {
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


def response_format(kind: str) -> dict:
  """The body field that asks a server for a reply of this kind of request, and nothing else."""
  schema = {"name": kind, "strict": True, "schema": SCHEMAS[kind]}
  return {"type": "json_schema", "json_schema": schema}


def with_json_instruction(messages, kind: str) -> tuple[tuple[str, str], ...]:
  """The messages, with a word on JSON behind what the teacher is told: not every server shows the
  schema to its model."""
  (role, content), *rest = messages
  fields = json.dumps(SCHEMAS[kind]["properties"])
  word = f"Do not write that layout: write its parts as one JSON object with these fields: {fields}"
  return ((role, f"{content}\n{word}"), *rest)


def annotated(text: str) -> str | None:
  """A rationale that ends in its answer line."""
  found = _fields("annotate", text)
  return found and _rationale(found)


def corrected(text: str) -> tuple[str, str] | None:
  """(critique, rationale), as prompts.split_correction."""
  found = _fields("correct", text)
  return found and (found["mistake"].strip(), _rationale(found))


def staged(text: str, labels) -> tuple[tuple[tuple[str, str], ...], str] | None:
  """(parts, the label marked correct), as prompts.split_stages, in the order of the reply."""
  found = _fields("stage", text)
  if not found:
    return None
  rows = [(_line(row["option"]), row["correct"], row["reason"]) for row in found["explanations"]]
  correct = [label for label, right, _ in rows if right]
  if sorted(label for label, _, _ in rows) != sorted(labels) or len(correct) != 1:
    return None
  parts = [("recall", found["key_information"]), *((label, reason) for label, _, reason in rows)]
  return tuple((name, _line(said)) for name, said in parts), correct[0]


def decomposed(text: str) -> tuple[tuple[tuple[str, str], ...], str] | None:
  """(parts as prompts.split_steps gives them, the reply in the layout that was asked for)."""
  found = _fields("decompose", text)
  if not found:
    return None
  parts = tuple((_line(row["sub_question"]), _line(row["solution"])) for row in found["steps"])
  return parts, prompts.join_steps(parts, _line(found["answer"]))


def as_json(kind: str, text: str) -> str | None:
  """A reply in the layout of prompts.py as a server that keeps to the schema would give it; None
  for what is in no such layout."""
  critique, rationale = "", text.strip()
  if kind == "correct":
    critique, rationale = prompts.split_correction(text) or ("", "")
  *steps, last = rationale.split("\n")
  answer = _ANSWER.fullmatch(last.strip())
  if kind == "stage":
    key, _, rest = text.partition("\nExplanations:\n")
    rows = [_VERDICT.fullmatch(line) for line in rest.split("\n")]
    if not all(rows):
      return None
    explained = [{"option": row[1], "correct": not row[2], "reason": row[3]} for row in rows]
    key = key.removeprefix("Key Information: ")
    return json.dumps({"key_information": key, "explanations": explained})
  if not answer:
    return None
  if kind == "decompose":
    parts = prompts.split_steps(text) or ()
    steps = [{"sub_question": asked, "solution": solution} for asked, solution in parts]
  said = {"mistake": critique} if kind == "correct" else {}
  return json.dumps({**said, "steps": steps, "answer": answer[1]})


def _fields(kind: str, text: str) -> dict | None:
  """The fields of a reply that is what the schema says, and in which nothing is empty."""
  text = text.strip()
  if text.startswith("```"):
    text = text.partition("\n")[2].removesuffix("```").strip()
  if not text.startswith("{"):
    return None
  try:
    found = json.loads(text, parse_int=str, parse_float=str)  # an answer may come as a number
  except (ValueError, RecursionError):
    return None
  return found if _fits(SCHEMAS[kind], found) else None


def _fits(schema: dict, value) -> bool:
  if schema["type"] == "object":
    fields = schema["properties"]
    same = isinstance(value, dict) and value.keys() == fields.keys()
    return same and all(_fits(fields[name], value[name]) for name in fields)
  if schema["type"] == "array":
    return isinstance(value, list) and bool(value) and all(_fits(schema["items"], v) for v in value)
  if schema["type"] == "boolean":
    return isinstance(value, bool)
  return isinstance(value, str) and bool(value.strip())


def _rationale(found: dict) -> str:
  return "\n".join(
    [*(step.strip() for step in found["steps"]), f"Answer: {_line(found['answer'])}"]
  )


def _line(text: str) -> str:
  return " ".join(text.split())
