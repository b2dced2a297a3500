"""Edits of the files of a copied tokenizer."""

import datetime
import json
import pathlib
from typing import Any

import transformers

from distill_jax.data import template_text

_VOCABULARY, _SETTINGS, _TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
_QUESTION, _REPLY = "How many?", "Seven."


def state_date(directory: pathlib.Path) -> None:
  """Makes chat templates state today's date for good: a restart later has the same prompts."""
  today = datetime.date.today()
  template = _read_text(directory / _TEMPLATE)
  if (stated := template_text.with_date(template, today)) != template:
    (directory / _TEMPLATE).write_text(stated, encoding="utf-8")
  fields = _read(directory / _SETTINGS)
  templates = fields.get("chat_template")
  if isinstance(templates, str):
    fields["chat_template"] = template_text.with_date(templates, today)
  elif isinstance(templates, list):
    for named in templates:
      if isinstance(named, dict) and isinstance(named.get("template"), str):
        named["template"] = template_text.with_date(named["template"], today)
  if fields != _read(directory / _SETTINGS):
    _write(directory / _SETTINGS, fields)


def mark_turns(directory: pathlib.Path) -> None:
  """Makes the added tokens special that a chat template puts around messages.

  In some tokenizers they are not, and the text of a question could forge them. Those that are only
  in a reply, such as marks of a thought, stay text.
  """
  try:
    fast = transformers.AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False)
    asked = {"role": "user", "content": _QUESTION}
    turn = fast.apply_chat_template([asked], tokenize=False)
    reply = {"role": "assistant", "content": _REPLY}
    replied = fast.apply_chat_template([asked, reply], tokenize=False)
  except Exception:  # no template; whatever else is wrong is reported when the files are used
    return
  frame = turn.replace(_QUESTION, "") + replied.rpartition(_REPLY)[2]
  added = [t.content for t in fast.added_tokens_decoder.values() if not t.special]
  marks = [t for t in added if t in frame and any(not c.isalnum() and not c.isspace() for c in t)]
  for name, key in ((_VOCABULARY, "added_tokens"), (_SETTINGS, "added_tokens_decoder")):
    contents = _read(directory / name)
    listed = contents.get(key, [])
    tokens = listed.values() if isinstance(listed, dict) else listed
    if found := [token for token in tokens if token["content"] in marks]:
      for token in found:
        token["special"] = True
      _write(directory / name, contents)


def _read(file: pathlib.Path) -> dict[str, Any]:
  """The object in a JSON file; an empty one if there is none."""
  try:
    contents = json.loads(_read_text(file))
  except (ValueError, RecursionError):
    return {}
  return contents if isinstance(contents, dict) else {}


def _read_text(file: pathlib.Path) -> str:
  """The text of a file; "" if there is none, which is reported when it is needed."""
  try:
    return file.read_text(encoding="utf-8")
  except (OSError, ValueError):
    return ""


def _write(file: pathlib.Path, contents: dict[str, Any]) -> None:
  file.write_text(json.dumps(contents, ensure_ascii=False, indent=2), encoding="utf-8")
